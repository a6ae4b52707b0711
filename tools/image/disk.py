"""An SD card's image from a root directory, without loop devices: partitions, FAT, ext4, checksum.

As a rule: partition 1 is FAT with firmware, kernel and what the operator puts there; partition 2
is the root, which grows at the first boot. With a read-only root there is a third partition for
what must outlive a power cut; that one grows instead.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["STATE_DIRECTORIES", "Partition", "layout", "write_image"]

_MIB = 1 << 20
_BLOCK = 4096
#: what a read-only root keeps on the state partition, by the name there
STATE_DIRECTORIES = {
    "lib": "/var/lib/edge-runtime",
    "etc": "/etc/edge-runtime",
    # the host's keys, which are made on the board
    "ssh": "/etc/ssh",
}


@dataclass(frozen=True, kw_only=True)
class Partition:
    """One partition; sizes in MiB.

    Parameters
    ----------
    label : str
        Of the file system.
    kind : str
        Of the partition, as sfdisk writes it: `c` is FAT32, `83` Linux.
    start, size : int
    """

    label: str
    kind: str
    start: int
    size: int


def layout(*, root_mb: int, read_only: bool) -> list[Partition]:
    """Return where everything lies.

    Parameters
    ----------
    root_mb : int
        Size of the root's file system.
    read_only : bool
        With a state partition of 64 MiB behind the root.
    """
    # 4 MiB in front: SD cards are erased in blocks of up to that size.
    boot = Partition(label="RASPIFIRM", kind="c", start=4, size=256)
    root = Partition(label="root", kind="83", start=260, size=root_mb)
    if not read_only:
        return [boot, root]
    return [boot, root, Partition(label="state", kind="83", start=260 + root_mb, size=64)]


def write_image(root: Path, image: Path, *, root_mb: int, read_only: bool) -> None:
    """Write the image of a root whose `boot/firmware` becomes the first partition.

    Parameters
    ----------
    root : Path
        A configured root. Its `boot/firmware` is emptied: at run time the partition lies there.
    image : Path
        Written anew, sparse.
    root_mb : int
        Size of the root's file system; mke2fs fails when it is too small.
    read_only : bool
        Adds the state partition, with what `STATE_DIRECTORIES` names.
    """
    parts = layout(root_mb=root_mb, read_only=read_only)
    with image.open("wb") as file:
        file.truncate((parts[-1].start + parts[-1].size) * _MIB)
    table = "label: dos\n" + "".join(
        f"start={p.start * 2048},size={p.size * 2048},type={p.kind}"
        f"{',bootable' if p.kind == 'c' else ''}\n"
        for p in parts
    )
    _run("sfdisk", "-q", image, text=table)
    firmware = root / "boot/firmware"
    _fat(firmware, image, parts[0])
    shutil.rmtree(firmware)
    firmware.mkdir()
    _ext4(root, image, parts[1])
    if read_only:
        state = image.with_suffix(".state")
        shutil.rmtree(state, ignore_errors=True)
        for name, place in STATE_DIRECTORIES.items():
            shutil.copytree(root / place.lstrip("/"), state / name, symlinks=True)
            _copy_owners(root / place.lstrip("/"), state / name)
        _ext4(state, image, parts[2])
        shutil.rmtree(state)


def checksum(path: Path) -> Path:
    """Write `sha256sum`'s line for a file beside it; return where."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    written = path.with_name(f"{path.name}.sha256")
    written.write_text(f"{digest}  {path.name}\n", encoding="utf-8")
    return written


def _fat(directory: Path, image: Path, part: Partition) -> None:
    partial = image.with_suffix(".fat")
    with partial.open("wb") as file:
        file.truncate(part.size * _MIB)
    _run("mkfs.vfat", "-n", part.label, "-F", "32", partial)
    # Not hidden files, which FAT has no use for.
    for path in sorted(directory.iterdir()):
        _run("mcopy", "-i", partial, "-s", "-p", "-Q", path, "::")
    with partial.open("rb") as source, image.open("r+b") as target:
        target.seek(part.start * _MIB)
        shutil.copyfileobj(source, target, 4 * _MIB)
    partial.unlink()


def _ext4(directory: Path, image: Path, part: Partition) -> None:
    # Blocks as on a large file system, and room in its tables for one of 1 TiB: it grows to that,
    # mounted, on the largest card.
    options = f"root_owner=0:0,offset={part.start * _MIB},resize={_MIB * _MIB // _BLOCK}"
    _run("mke2fs", "-q", "-F", "-t", "ext4", "-d", directory, "-L", part.label,
         "-b", _BLOCK, "-E", options, image, f"{part.size}M")  # fmt: skip


def _copy_owners(source: Path, target: Path) -> None:
    for path in [source, *source.rglob("*")]:
        found = path.lstat()
        os.chown(target / path.relative_to(source), found.st_uid, found.st_gid,
                 follow_symlinks=False)  # fmt: skip


def _run(tool: str, *arguments: object, text: str | None = None) -> None:
    program = shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or tool
    done = subprocess.run(
        [program, *map(str, arguments)], input=text, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{tool} failed: {done.stdout}{done.stderr}")
