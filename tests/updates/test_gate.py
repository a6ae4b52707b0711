"""What a device lets in, whatever the broker hands it and in whatever order."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edge_runtime.device.gate import Gate
from edge_runtime.device.governor import STAYS_HERE
from edge_runtime.device.report import Reporter
from edge_runtime.device.store import Store
from edge_runtime.errors import ConfigError, StoreError
from edge_runtime.messages import DeviceState
from edge_runtime.updates import Envelope, Verdict, encode_envelope
from tests.updates.forge import Forge, expire


class Post:
    """A gate over a real store, and what comes of what is brought to it."""

    def __init__(self, directory: Path, forge: Forge) -> None:
        self.directory = directory
        directory.mkdir()
        self.root = directory / "root.json"
        self.root.write_text(forge.first_root)
        self.store = Store(directory / "device.sqlite")
        self.late_s = 0.0
        self.verdicts: queue.Queue[Verdict] = queue.Queue()
        self.open()

    def open(self) -> None:
        self.reporter = Reporter(first=DeviceState(device="one", status="online"))
        self.gate = Gate(
            store=self.store,
            root=self.root,
            directory=self.directory / "part",
            reporter=self.reporter,
            now=lambda: 1_800_000_000.0 + self.late_s,
            on_verdict=self.verdicts.put,
        )

    def metadata(self, envelope: Envelope) -> list[tuple[str, bytes]]:
        """Bring metadata, and wait for what is let in by it."""
        self.gate.offer(encode_envelope(envelope))
        return self.gate.settle(self.verdicts.get(timeout=60))

    @property
    def state(self) -> DeviceState:
        return self.reporter.state


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    made = Forge(tmp_path / "fleet")
    made.now = 1_800_000_000.0  # ahead of the clock, so that expiry is the test's to choose
    return made


@pytest.fixture
def post(forge: Forge, tmp_path: Path) -> Iterator[Post]:
    made = Post(tmp_path / "device", forge)
    yield made
    made.store.close()


def test_nothing_is_let_in_before_metadata(post: Post) -> None:
    assert not post.gate.admits("plan", b"p1")
    assert (post.state.updates, post.state.refused) == ("waiting", "")


@pytest.mark.parametrize("metadata_first", [True, False])
def test_the_order_of_arrival_does_not_matter(
    post: Post, forge: Forge, metadata_first: bool
) -> None:
    envelope = forge.publish(schema=b"s1", plan=b"p1")
    if metadata_first:
        assert post.metadata(envelope) == []
        assert post.gate.admits("plan", b"p1")
        assert post.gate.admits("schema", b"s1")
    else:
        assert not post.gate.admits("plan", b"p1")
        assert not post.gate.admits("schema", b"s1")
        assert post.metadata(envelope) == [("plan", b"p1"), ("schema", b"s1")]
    assert (post.state.updates, post.state.refused) == ("verified", "")


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("plan", b"p2", "plan: SignatureError: is not the one that is signed"),
        ("plan", b"p1 and more", "plan: SizeError: 11 bytes, 2 are signed"),
        ("schema", b"s1", "schema: SignatureError: is not signed"),
        ("plan", b" " * (1 << 20) + b"x", "plan: SizeError: 1048577 bytes"),
        ("bundle/" + "a" * 64, b"x", "bundle/aaaaaaaaaaaa: SignatureError: is not signed"),
    ],
)
def test_what_is_not_signed_is_refused_and_shown(
    post: Post, forge: Forge, name: str, data: bytes, words: str
) -> None:
    post.metadata(forge.publish(plan=b"p1"))
    assert not post.gate.admits(name, data)
    assert post.state.refused.startswith(words)
    assert post.gate.admits("plan", b"p1")


def test_a_refusal_is_over_once_the_right_one_is_there(post: Post, forge: Forge) -> None:
    post.metadata(forge.publish(plan=b"p1"))
    assert not post.gate.admits("plan", b"p2")
    assert post.metadata(forge.publish(plan=b"p2")) == [("plan", b"p2")]
    assert post.state.refused == ""
    assert not post.gate.admits("plan", b"p1"), "an older plan was replayed"


def test_refused_metadata_changes_nothing(post: Post, forge: Forge) -> None:
    old = forge.publish(plan=b"p1")
    post.metadata(forge.publish(plan=b"p2"))
    before = post.store.get("updates")
    for wrong, error in (
        (old, "RollbackError"),
        (msgspec.structs.replace(forge.publish(plan=b"p3"), targets=old.targets), "MixError"),
        (Forge(post.directory / "foreign").publish(plan=b"p1"), "SignatureError"),
        (forge.sign_anew(forge.publish(plan=b"p4"), "timestamp", expire), "ExpiredError"),
    ):
        assert post.metadata(wrong) == []
        assert post.state.refused.startswith(f"metadata: {error}: ")
        assert post.store.get("updates") == before
        assert post.gate.admits("plan", b"p2")
        assert not post.gate.admits("plan", b"p1")


def test_oversized_and_broken_metadata_starts_no_process(post: Post) -> None:
    post.gate.offer(b" " * (600 << 10))
    assert post.state.refused.startswith("metadata: SizeError")
    post.gate.offer(b"{")
    assert post.state.refused.startswith("metadata: MessageError")
    assert not (post.directory / "part").exists()
    assert post.verdicts.empty()


def test_a_restart_forgets_nothing(post: Post, forge: Forge) -> None:
    old = forge.publish(plan=b"p1")
    newest = forge.publish(plan=b"p2")
    post.metadata(newest)
    (post.directory / "part").mkdir()  # as a process that was killed leaves it
    post.open()
    assert not (post.directory / "part").exists()
    assert post.state.updates == "verified"
    # What it knows already is not verified again: no process, no second.
    post.gate.offer(encode_envelope(newest))
    assert post.verdicts.empty()
    assert post.gate.admits("plan", b"p2")
    post.metadata(old)
    assert post.state.refused.startswith("metadata: RollbackError")


def test_a_frozen_device_says_so_and_takes_nothing(post: Post, forge: Forge) -> None:
    envelope = forge.publish(plan=b"p1")
    post.metadata(envelope)
    post.late_s = 8 * 86_400.0
    post.gate.look()
    assert post.state.updates == "expired"
    assert "ExpiredError: no newer metadata has come since" in post.state.refused
    assert not post.gate.admits("plan", b"p1")
    forge.now += 8 * 86_400
    assert post.metadata(forge.publish(plan=b"p2")) == []
    assert post.state.updates == "verified"
    assert post.gate.admits("plan", b"p2")


def test_a_clock_that_was_ahead_costs_nothing_once_it_is_right(post: Post, forge: Forge) -> None:
    post.metadata(forge.publish(plan=b"p1"))
    post.late_s = 8 * 86_400.0
    post.gate.look()
    assert not post.gate.admits("plan", b"p1")
    post.late_s = 60.0
    assert post.gate.look() == [("plan", b"p1")]
    assert (post.state.updates, post.state.refused) == ("verified", "")
    # The same of metadata that came meanwhile: the broker does not hand it over again.
    post.late_s = 8 * 86_400.0
    assert post.metadata(forge.publish(plan=b"p2")) == []
    assert not post.gate.admits("plan", b"p2")
    post.gate.look()
    assert post.verdicts.empty()
    post.late_s = 120.0
    post.gate.look()
    assert post.gate.settle(post.verdicts.get(timeout=60)) == [("plan", b"p2")]
    assert (post.state.updates, post.state.refused) == ("verified", "")


def test_metadata_that_nothing_was_found_out_about_is_looked_at_again(
    post: Post, forge: Forge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("edge_runtime.device.gate._AGAIN_S", 0.0)
    assert not post.gate.admits("plan", b"p1")
    (post.directory / "part").write_text("a file where a directory is to be made")
    post.gate.offer(encode_envelope(forge.publish(plan=b"p1")))
    assert post.gate.settle(post.verdicts.get(timeout=60)) == []
    # A full disk is as private as the rows that fill it: the log says so, and nothing else.
    assert (post.state.updates, post.state.refused) == ("waiting", "")
    assert f"cannot be verified: File exists {STAYS_HERE}" in caplog.text
    (post.directory / "part").unlink()
    post.gate.look()
    post.store.connection.execute("PRAGMA query_only=ON")  # a disk that is full by now
    with pytest.raises(StoreError):
        post.gate.settle(post.verdicts.get(timeout=60))
    post.store.connection.execute("PRAGMA query_only=OFF")
    post.gate.look()
    assert post.gate.settle(post.verdicts.get(timeout=60)) == [("plan", b"p1")]
    assert (post.state.updates, post.state.refused) == ("verified", "")
    post.gate.look()
    assert post.verdicts.empty()


def test_of_metadata_that_comes_meanwhile_the_newest_counts(post: Post, forge: Forge) -> None:
    for number in range(3):
        post.gate.offer(encode_envelope(forge.publish(plan=b"p%d" % number)))
    post.gate.settle(post.verdicts.get(timeout=60))
    post.gate.settle(post.verdicts.get(timeout=60))
    assert post.gate.admits("plan", b"p2")
    assert post.verdicts.empty()


def test_another_fleet_s_root_begins_anew(post: Post, forge: Forge, tmp_path: Path) -> None:
    post.metadata(forge.publish(plan=b"p1"))
    other = Forge(tmp_path / "other")
    other.now = forge.now
    post.root.write_text(other.first_root)
    post.open()
    assert not post.gate.admits("plan", b"p1")
    post.metadata(other.publish(plan=b"p9"))
    assert post.gate.admits("plan", b"p9")


def test_keys_that_were_rotated_away_are_worth_nothing_at_once(post: Post, forge: Forge) -> None:
    old = forge.publish(plan=b"p1")
    post.metadata(old)
    forge.rotate()
    roots = forge.publish(plan=b"p2").roots
    # The broker passes on the new root alone: what the old keys have signed falls with them.
    post.metadata(msgspec.structs.replace(old, timestamp=old.timestamp + " ", roots=roots))
    assert post.state.refused.startswith("metadata: SignatureError")
    assert post.state.updates == "waiting"
    assert not post.gate.admits("plan", b"p1")


def test_a_disk_that_refuses_leaves_what_was(post: Post, forge: Forge) -> None:
    post.metadata(forge.publish(plan=b"p1"))
    envelope = forge.publish(plan=b"p2")
    post.store.connection.execute("PRAGMA query_only=ON")
    with pytest.raises(StoreError):
        post.metadata(envelope)
    post.store.connection.execute("PRAGMA query_only=OFF")
    assert post.gate.admits("plan", b"p1")
    assert post.metadata(envelope) == []
    assert post.gate.admits("plan", b"p2")


def test_a_root_that_cannot_be_read_ends_the_agent(post: Post) -> None:
    post.root.unlink()
    with pytest.raises(ConfigError, match=r"updates.root .*root.json cannot be read"):
        post.open()
