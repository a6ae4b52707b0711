"""A configured arm64 Debian for boards, as an archive that is made once.

Every package's own script is run, under emulation, which takes minutes; what comes after it, our
package and the board's settings, is done anew for each image.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from root import CACHE, RELEASE, sources

__all__ = ["make_base"]

FILES = Path(__file__).parent / "files"
PACKAGES = (
    "systemd-sysv", "systemd-timesyncd", "systemd-resolved", "udev", "dbus", "kmod", "iproute2",
    "procps", "linux-image-arm64", "raspi-firmware", "firmware-brcm80211", "wireless-regdb",
    "wpasupplicant", "cloud-guest-utils", "fdisk", "e2fsprogs", "dosfstools", "openssh-server",
    "ca-certificates", "python3.11", "zlib1g", "libstdc++6",
)  # fmt: skip


def make_base(*, fresh: bool) -> Path:
    """Return the archive of the root, made when it is not cached.

    Parameters
    ----------
    fresh : bool
        Make it again, for what Debian has updated since.

    Raises
    ------
    SystemExit
        When mmdebstrap fails; what it said has been printed.
    """
    made_from = Path(__file__).read_bytes()
    for name in ("before-packages", "after-packages"):
        made_from += (FILES / name).read_bytes()
    directory = CACHE / f"image-base-{hashlib.sha256(made_from).hexdigest()[:12]}"
    archive = directory / "root.tar"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if fresh or not archive.exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            _install(directory, archive)
    return archive


def _install(directory: Path, archive: Path) -> None:
    listed = directory / "sources.list"
    listed.write_text(sources("main", "non-free-firmware"), encoding="utf-8")
    partial = archive.with_suffix(".part.tar")
    command = [
        # What it mounts in the root is gone with it, however it ends: the root is removed later.
        "unshare", "--mount", "mmdebstrap", "--verbose", "--architectures=arm64",
        "--variant=minbase", "--format=tar",
        "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", f"--include={','.join(PACKAGES)}",
        "--dpkgopt=force-unsafe-io",
        f"--essential-hook={FILES / 'before-packages'}",
        f"--customize-hook={FILES / 'after-packages'}",
        RELEASE, str(partial), str(listed),
    ]  # fmt: skip
    done = subprocess.run(command, env={**os.environ, "TMPDIR": str(directory)}, check=False)
    if done.returncode:
        sys.exit("Debian was not installed; see above")
    partial.rename(archive)
