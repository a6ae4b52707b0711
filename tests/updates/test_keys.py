"""Keys of a fleet: where they are, and what a rotation leaves that was cut off."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.updates import decode_envelope
from edge_runtime.updates.keys import load_roots, rotate_roots
from edge_runtime.updates.repository import RENEW_AFTER, Repository
from tests.updates.forge import Client, Forge, target, write


class CutError(Exception):
    """The power went."""


def rotate_until(forge: Forge, cut_at: int, *, root_too: bool) -> bool:
    """Rotate, and end before the n-th file; whether it was done by then."""
    count = 0

    def cut(path: Path, data: bytes, mode: int) -> None:
        nonlocal count
        count += 1
        if count == cut_at:
            raise CutError
        write(path, data, mode)

    try:
        rotate_roots(root_key=forge.root_key, online=forge.online, write=cut, root_too=root_too)
    except CutError:
        return False
    return True


@pytest.mark.parametrize("then", [True, False])
def test_a_rotation_that_is_cut_off_leaves_keys_that_work(tmp_path: Path, then: bool) -> None:
    done, cut_at = False, 0
    while not done:
        cut_at += 1
        forge = Forge(tmp_path / f"cut-{cut_at}")
        client = Client(forge.first_root, tmp_path / f"device-{cut_at}")
        done = rotate_until(forge, cut_at, root_too=True)
        assert client.offer(forge.publish(plan=b"p1")).trusted
        forge.rotate(root_too=then)  # the next one is not in its way, whichever it is
        forge.rotate()
        verdict = client.offer(forge.publish(plan=b"p2"))
        assert verdict.trusted is not None, verdict.reason
        assert len(list(forge.online.glob("*.key"))) == 3
        assert [path.name for path in forge.root_key.parent.glob("root*")] == ["root.key"]
    assert cut_at == 6  # the root's key, three others, the root; and then nothing is cut


def test_a_root_put_in_force_before_its_key_took_its_place(tmp_path: Path) -> None:
    forge = Forge(tmp_path / "fleet")
    old = forge.root_key.read_bytes()
    forge.rotate(root_too=True)
    forge.root_key.rename(forge.root_key.with_name("root.key.new"))
    forge.root_key.write_bytes(old)
    forge.rotate()
    assert sorted(load_roots(forge.online)) == [1, 2, 3]


def test_without_the_root_key_nothing_is_rotated_and_all_goes_on(tmp_path: Path) -> None:
    forge = Forge(tmp_path / "fleet")
    key = forge.root_key.read_bytes()
    forge.root_key.unlink()
    with pytest.raises(ConfigError, match="bring the offline key"):
        forge.rotate()
    Forge(tmp_path / "other").root_key.rename(forge.root_key)
    with pytest.raises(ConfigError, match="is not the key of root 1"):
        forge.rotate()
    forge.publish(plan=b"p1")
    forge.root_key.write_bytes(key)
    forge.rotate()


def test_the_timestamp_is_signed_again_in_time_and_content_is_not(tmp_path: Path) -> None:
    forge = Forge(tmp_path / "fleet")
    first = forge.publish(plan=b"p1")
    again = Repository(online=forge.online, last=forge.repository.message)  # after a restart
    targets = {"plan": target(b"p1", "plan")}
    assert not again.sign(targets, now_unix_s=forge.now + 3600)
    assert again.sign(targets, now_unix_s=forge.now + RENEW_AFTER.total_seconds() + 1)
    assert again.message is not None

    second = decode_envelope(again.message)
    assert (second.snapshot, second.targets) == (first.snapshot, first.targets)
    assert second.timestamp != first.timestamp
    client = Client(forge.first_root, tmp_path / "device")
    assert client.offer(first).trusted
    assert client.offer(second).trusted


@pytest.mark.parametrize("name", ["2.root.json", "old.root.json"])
def test_roots_that_are_not_all_there_yet_are_said(tmp_path: Path, name: str) -> None:
    forge = Forge(tmp_path / "fleet")
    forge.publish(plan=b"p1")
    published = forge.repository.message
    (forge.online / name).write_text(forge.first_root[:100])  # as scp leaves it for a moment
    with pytest.raises(ConfigError, match="root"):
        forge.publish(plan=b"p2")
    assert forge.repository.message == published
    (forge.online / name).unlink()
    forge.publish(plan=b"p2")


def test_what_was_signed_with_the_clock_ahead_is_signed_again(tmp_path: Path) -> None:
    forge = Forge(tmp_path / "fleet")
    right = forge.now
    forge.now += 10 * 365 * 86_400
    client = Client(forge.first_root, tmp_path / "device")
    assert client.offer(forge.publish(plan=b"p1")).trusted
    targets = {"plan": target(b"p1", "plan")}
    assert forge.repository.sign(targets, now_unix_s=right)
    assert not forge.repository.sign(targets, now_unix_s=right + 60)
    assert forge.repository.message is not None
    trusted = client.offer(decode_envelope(forge.repository.message)).trusted
    assert trusted is not None, "versions grow whatever the clock says"
    assert trusted.expires_unix_s < right + 8 * 86_400


def test_a_missing_key_or_root_is_said_at_the_start(tmp_path: Path) -> None:
    forge = Forge(tmp_path / "fleet")
    next(forge.online.glob("*.key")).unlink()
    with pytest.raises(ConfigError, match="has no key for"):
        Repository(online=forge.online, last=None)
    (forge.online / "1.root.json").unlink()
    with pytest.raises(ConfigError, match=r"must hold 1.root.json"):
        Repository(online=forge.online, last=None)
