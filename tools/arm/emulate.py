"""Run programs of an arm64 root on this machine, on the processor of a named board.

The root is entered in a mount namespace of its own, so nothing stays mounted. A board's
`/proc/cpuinfo` lies over this machine's: onnxruntime and LiteRT choose their instructions by it,
and crash when an x86 one is there.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["BOARDS", "missing", "prepare", "run"]

#: qemu's name of the processor, its part number, and BogoMIPS as the board's kernel prints it
BOARDS = {
    "pi3": ("cortex-a53", "0xd03", "38.40"),
    "pi4": ("cortex-a72", "0xd08", "108.00"),
}
_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_PACKAGES = {
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",
    "dpkg-deb": "dpkg",
    "mmdebstrap": "mmdebstrap",
    "qemu-aarch64-static": "qemu-user-static",
    "qemu-system-aarch64": "qemu-system-arm",
    "mke2fs": "e2fsprogs",
    "depmod": "kmod",
    "mcopy": "mtools",
    "mkfs.vfat": "dosfstools",
    "sfdisk": "fdisk",
    "cpio": "cpio",
    "mosquitto": "mosquitto",
    "lintian": "lintian",
    "systemd-analyze": "systemd",
}


def missing() -> str:
    """Say what this machine lacks for the emulation, or nothing."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    packages = [name for tool, name in _PACKAGES.items() if shutil.which(tool, path=path) is None]
    if packages:
        return f"apt install --no-install-recommends {' '.join(packages)}"
    if os.geteuid() != 0:
        return "run as root: a Debian root is made and entered"
    return ""


def prepare() -> None:
    """Let the kernel start arm64 programs through qemu, as Debian's own packages would at boot."""
    # One process at a time: the kernel refuses a second mount and a second registration.
    with (Path(tempfile.gettempdir()) / "edge-runtime-binfmt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (_BINFMT / "register").exists():
            subprocess.run(["mount", "-t", "binfmt_misc", "none", str(_BINFMT)], check=True)
        if not (_BINFMT / "qemu-aarch64").exists():
            line = Path("/usr/lib/binfmt.d/qemu-aarch64.conf").read_text(encoding="utf-8").strip()
            (_BINFMT / "register").write_text(line, encoding="utf-8")


def run(
    root: Path,
    command: Sequence[str],
    *,
    board: str,
    binds: Mapping[Path, str] | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 600.0,
) -> subprocess.CompletedProcess[str]:
    """Run a command in a root, after `prepare`.

    Parameters
    ----------
    root : Path
    command : sequence of str
    board : str
        A key of `BOARDS`.
    binds : mapping of Path to str, optional
        Files and directories of this machine to show, read-only, at a path of the root.
    environment : mapping, optional
        Beside PATH and LC_ALL; nothing else is taken over.
    timeout_s : float

    Returns
    -------
    subprocess.CompletedProcess
        With standard output and error together in ``stdout``.
    """
    processor, part, bogomips = BOARDS[board]
    cpuinfo = root / "run" / f"cpuinfo.{board}"
    cpuinfo.parent.mkdir(exist_ok=True)
    cpuinfo.write_text(_cpuinfo(part, bogomips), encoding="utf-8")
    mounts = ["set -e", f"cd {shlex.quote(str(root))}", "mkdir -p proc dev sys"]
    mounts += ["mount --rbind /dev dev", "mount --rbind /sys sys", "mount -t proc proc proc"]
    mounts.append(f"mount --bind run/cpuinfo.{board} proc/cpuinfo")
    for source, target in (binds or {}).items():
        there = shlex.quote(target.lstrip("/"))
        mounts.append(f"mkdir -p {there}" if source.is_dir() else f"touch {there}")
        mounts.append(f"mount --bind -o ro {shlex.quote(str(source))} {there}")
    mounts.append('exec chroot . "$@"')
    variables = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"}
    variables |= {"QEMU_CPU": processor, **(environment or {})}
    enter = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    return subprocess.run(
        [*enter, "bash", "-c", "\n".join(mounts), "run", *command],
        env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        stdin=subprocess.DEVNULL, timeout=timeout_s, check=False,
    )  # fmt: skip


def _cpuinfo(part: str, bogomips: str) -> str:
    core = (
        f"BogoMIPS\t: {bogomips}\nFeatures\t: fp asimd evtstrm crc32 cpuid\n"
        "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\n"
        f"CPU part\t: {part}\nCPU revision\t: 4\n"
    )
    return "\n".join(f"processor\t: {i}\n{core}" for i in range(4))
