"""Each attack on the metadata, forged with the real keys where the attack needs them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import msgspec
import pytest
from securesystemslib.signer import CryptoSigner

from edge_runtime.errors import MessageError, SizeError
from edge_runtime.updates import decode_envelope, encode_envelope
from edge_runtime.updates.trust import Question, Verdict, verify_apart
from edge_runtime.updates.verify import verify
from tests.updates.forge import Client, Forge, expire


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    return Forge(tmp_path / "fleet")


@pytest.fixture
def client(forge: Forge, tmp_path: Path) -> Client:
    return Client(forge.first_root, tmp_path / "device")


def refused(verdict: Verdict, error: str, words: str = "") -> None:
    assert verdict.trusted is None
    assert (verdict.error, words in verdict.reason) == (error, True), verdict.reason


def test_what_is_signed_is_what_a_device_trusts(forge: Forge, client: Client) -> None:
    verdict = client.offer(forge.publish(schema=b"s1", plan=b"p1"))
    assert verdict.trusted is not None, verdict.reason
    assert verdict.trusted.targets["plan"].bytes == 2
    assert set(verdict.trusted.targets) == {"schema", "plan"}
    assert 6.9 < (verdict.trusted.expires_unix_s - time.time()) / 86_400 < 7.1


def test_the_same_again_is_no_rollback(forge: Forge, client: Client) -> None:
    envelope = forge.publish(plan=b"p1")
    first, second = client.offer(envelope), client.offer(envelope)
    assert first.trusted == second.trusted


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_a_wrong_signature(forge: Forge, client: Client, role: str) -> None:
    envelope = forge.publish(plan=b"p1")
    forged = forge.sign_anew(envelope, role, lambda _: None, key=CryptoSigner.generate_ed25519())
    # A file that the timestamp does not name is a mixture before its signature is looked at.
    refused(client.offer(forged), "SignatureError" if role == "timestamp" else "MixError")


@pytest.mark.parametrize("role", ["snapshot", "targets"])
def test_a_wrong_signature_below_right_hashes(forge: Forge, client: Client, role: str) -> None:
    """Whoever stole the keys above may name any file; it still needs its own role's key."""
    envelope = forge.publish(plan=b"p1")
    envelope = forge.sign_anew(envelope, role, lambda _: None, key=CryptoSigner.generate_ed25519())

    def name(above: str, file: str) -> None:
        nonlocal envelope

        def change(signed: object) -> None:
            meta = signed.snapshot_meta if above == "timestamp" else signed.meta[file]  # type: ignore[attr-defined]
            meta.length = meta.hashes = None

        envelope = forge.sign_anew(envelope, above, change)

    if role == "targets":
        name("snapshot", "targets.json")
    name("timestamp", "snapshot.json")
    refused(client.offer(envelope), "SignatureError")


def test_changed_bytes_under_a_right_signature(forge: Forge, client: Client) -> None:
    envelope = forge.publish(plan=b"p1")
    changed = envelope.timestamp.replace('"version":', '"version":9', 1)
    assert changed != envelope.timestamp
    refused(client.offer(msgspec.structs.replace(envelope, timestamp=changed)), "SignatureError")


def test_rollback_to_what_was_published_before(forge: Forge, client: Client) -> None:
    old = forge.publish(plan=b"p1")
    assert client.offer(forge.publish(plan=b"p2")).trusted
    before = client.trusted
    refused(client.offer(old), "RollbackError", "New timestamp version")
    assert client.trusted == before


def test_rollback_of_the_targets_under_a_new_timestamp(forge: Forge, client: Client) -> None:
    """The timestamp's key alone cannot bring an older plan back."""
    old = forge.publish(plan=b"p1")
    new = forge.publish(plan=b"p2")
    assert client.offer(new).trusted

    def point_back(timestamp: object) -> None:
        from tuf.api.metadata import Metadata, Timestamp  # noqa: PLC0415

        was = Metadata[Timestamp].from_bytes(old.timestamp.encode()).signed
        timestamp.snapshot_meta = was.snapshot_meta  # type: ignore[attr-defined]
        timestamp.version += 1  # type: ignore[attr-defined]

    forged = forge.sign_anew(new, "timestamp", point_back)
    forged = msgspec.structs.replace(forged, snapshot=old.snapshot, targets=old.targets)
    refused(client.offer(forged), "RollbackError")


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_freeze(forge: Forge, client: Client, role: str) -> None:
    envelope = forge.sign_anew(forge.publish(plan=b"p1"), role, expire)
    # What lies below must be named by what lies above, or it is a mixture before it is old.
    if role == "targets":
        envelope = forge.sign_anew(envelope, "snapshot", lambda s: unname(s.meta["targets.json"]))
    if role != "timestamp":
        envelope = forge.sign_anew(envelope, "timestamp", lambda t: unname(t.snapshot_meta))
    refused(client.offer(envelope), "ExpiredError")


def unname(meta: object) -> None:
    meta.length = meta.hashes = None  # type: ignore[attr-defined]


def test_freeze_with_the_clock_set_back(forge: Forge, client: Client) -> None:
    """The device's minimum time counts where the system's clock is behind it."""
    envelope = forge.publish(plan=b"p1")
    later = time.time() + 8 * 86_400
    refused(client.offer(envelope, now_unix_s=later), "ExpiredError", "timestamp.json")
    assert client.offer(envelope).trusted


@pytest.mark.parametrize("part", ["snapshot", "targets"])
@pytest.mark.parametrize("newer", [True, False])
def test_mix_and_match(forge: Forge, client: Client, part: str, newer: bool) -> None:
    one, two = forge.publish(plan=b"p1"), forge.publish(plan=b"p2")
    base, other = (one, two) if newer else (two, one)
    mixed = msgspec.structs.replace(base, **{part: getattr(other, part)})
    refused(client.offer(mixed), "MixError")


def test_oversized_is_refused_before_it_is_parsed(forge: Forge) -> None:
    data = encode_envelope(forge.publish(plan=b"p1"))
    with pytest.raises(SizeError, match="at most 524288"):
        decode_envelope(data + b" " * (512 << 10))


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"[]", b"{}", b'{"timestamp":1}', b"[" * 100_000, b'{"roots":{}']
)
def test_what_is_no_message(data: bytes) -> None:
    with pytest.raises(MessageError, match="cannot be read"):
        decode_envelope(data)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "null", "[" * 5000, '{"signed":{"_type":"timestamp"},"signatures":[]}', "\ud7ff"],
)
@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_damaged_files_are_refused_and_change_nothing(
    forge: Forge, client: Client, role: str, text: str
) -> None:
    assert client.offer(forge.publish(plan=b"p1")).trusted
    before = (client.root, client.trusted)
    damaged = msgspec.structs.replace(forge.publish(plan=b"p2"), **{role: text})
    verdict = client.offer(damaged)
    assert verdict.trusted is None
    assert verdict.error
    assert (client.root, client.trusted) == before


def test_keys_rotate_while_a_device_is_away(forge: Forge, client: Client) -> None:
    assert client.offer(forge.publish(plan=b"p1")).trusted
    for root_too in (False, True, True, False):
        forge.rotate(root_too=root_too)
        forge.publish(plan=b"p1")
    envelope = forge.publish(plan=b"p2")
    assert sorted(envelope.roots) == ["2", "3", "4", "5"]
    verdict = client.offer(envelope)
    assert verdict.trusted is not None, verdict.reason
    assert verdict.trusted.root == 5
    assert len(list(forge.online.glob("*.key"))) == 3


def test_keys_that_were_rotated_away_sign_nothing_any_more(forge: Forge, client: Client) -> None:
    stolen = {path.name: path.read_bytes() for path in forge.online.glob("*.key")}
    old = forge.publish(plan=b"p1")
    assert client.offer(old).trusted
    forge.rotate()
    new = forge.publish(plan=b"p2")
    # Whoever has the old keys publishes with them, beside the new root that the broker has.
    verdict = client.offer(msgspec.structs.replace(old, roots=new.roots))
    refused(verdict, "SignatureError")
    assert json.loads(verdict.root)["signed"]["version"] == 2
    assert stolen
    assert client.offer(new).trusted


def test_a_fleet_recovers_from_versions_run_up_with_a_stolen_key(
    forge: Forge, client: Client
) -> None:
    envelope = forge.publish(plan=b"p1")

    def run_up(timestamp: object) -> None:
        timestamp.version = 2**40  # type: ignore[attr-defined]

    assert client.offer(forge.sign_anew(envelope, "timestamp", run_up)).trusted
    refused(client.offer(forge.publish(plan=b"p2")), "RollbackError")
    forge.rotate()
    assert client.offer(forge.publish(plan=b"p3")).trusted


def test_a_root_of_another_fleet(forge: Forge, client: Client, tmp_path: Path) -> None:
    assert client.offer(forge.publish(plan=b"p1")).trusted
    other = Forge(tmp_path / "other")
    other.rotate(root_too=True)
    foreign = other.publish(plan=b"p2")
    before = client.root
    refused(client.offer(foreign), "SignatureError")
    assert client.root == before


def test_a_root_that_skips_its_predecessor(forge: Forge, client: Client) -> None:
    forge.rotate(root_too=True)
    forge.rotate(root_too=True)
    envelope = forge.publish(plan=b"p1")
    skipped = msgspec.structs.replace(envelope, roots={"2": envelope.roots["3"]})
    refused(client.offer(skipped), "SignatureError")


def test_apart_gives_the_same_verdict_and_leaves_nothing(
    forge: Forge, client: Client, tmp_path: Path
) -> None:
    envelope = forge.publish(plan=b"p1")
    question = Question(root=forge.first_root, trusted=None, offered=envelope, now_unix_s=0.0)
    place = tmp_path / "apart"
    place.mkdir()
    (place / "left by a process that was killed").touch()
    assert verify_apart(question, place) == client.offer(envelope)
    assert not place.exists()


def test_apart_on_a_disk_that_refuses_is_a_refusal(forge: Forge, tmp_path: Path) -> None:
    question = Question(
        root=forge.first_root, trusted=None, offered=forge.publish(plan=b"p1"), now_unix_s=0.0
    )
    verdict = verify_apart(question, tmp_path / "no such directory" / "apart")
    refused(verdict, "UpdateError", "No such file")


def test_a_disk_that_is_full_meanwhile_says_nothing_about_the_metadata(
    forge: Forge, tmp_path: Path
) -> None:
    question = Question(
        root=forge.first_root, trusted=None, offered=forge.publish(plan=b"p1"), now_unix_s=0.0
    )
    (tmp_path / "timestamp.json").mkdir()  # python-tuf cannot put its file there
    verdict = verify(question, tmp_path)
    assert verdict.trusted is None
    assert verdict.failed
