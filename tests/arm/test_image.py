"""The SD image's layout, written from a small root; the whole image is made by `make image`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.arm.conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tools/image"))
from disk import STATE_DIRECTORIES, checksum, layout, write_image

pytestmark = pytest.mark.arm


def _out(*command: object) -> str:
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    directories = ("boot/firmware/overlays", "sbin", *STATE_DIRECTORIES.values())
    for place in directories:
        (made / place.lstrip("/")).mkdir(parents=True)
    (made / "boot/firmware/config.txt").write_text("arm_64bit=1\n", encoding="utf-8")
    (made / "etc/edge-runtime/device.toml").write_text("[device]\n", encoding="utf-8")
    (made / "sbin/init").write_text("#!/bin/sh\n", encoding="utf-8")
    (made / "sbin/init").chmod(0o755)
    return made


@pytest.mark.parametrize("read_only", [False, True])
def test_partitions_and_what_is_in_them(root: Path, tmp_path: Path, read_only: bool) -> None:
    image = tmp_path / "board.img"
    write_image(root, image, root_mb=64, read_only=read_only)
    table = json.loads(_out("/sbin/sfdisk", "--json", image))["partitiontable"]
    assert table["label"] == "dos"
    kinds = [part["type"] for part in table["partitions"]]
    assert kinds == (["c", "83", "83"] if read_only else ["c", "83"])
    ends = [part["start"] + part["size"] for part in table["partitions"]]
    assert all(part["start"] % 2048 == 0 for part in table["partitions"])
    assert ends == sorted(ends)
    assert ends[-1] * 512 == image.stat().st_size
    # What the Pi's own loader reads.
    assert "CONFIG" in _out("mdir", "-i", f"{image}@@{4 << 20}", "::").upper()
    assert _out("mtype", "-i", f"{image}@@{4 << 20}", "::config.txt") == "arm_64bit=1\n"
    parts = layout(root_mb=64, read_only=read_only)
    for part in parts[1:]:
        alone = tmp_path / f"{parts.index(part) + 1}"
        with image.open("rb") as file:
            file.seek(part.start << 20)
            alone.write_bytes(file.read(part.size << 20))
        assert f"Filesystem volume name:   {part.label}" in _out("/sbin/tune2fs", "-l", alone)
        _out("/sbin/e2fsck", "-f", "-n", alone)
    assert "Mode:  0755" in _out("/sbin/debugfs", "-R", "stat /sbin/init", tmp_path / "2")
    if read_only:
        shown = _out("/sbin/debugfs", "-R", "cat /etc/device.toml", tmp_path / "3")
        assert shown == "[device]\n"


def test_the_checksum_is_sha256sums(tmp_path: Path) -> None:
    file = tmp_path / "board.img.xz"
    file.write_bytes(b"image")
    written = checksum(file)
    checked = subprocess.run(
        ["sha256sum", "--check", written.name], cwd=tmp_path, capture_output=True, check=False
    )
    assert checked.returncode == 0
