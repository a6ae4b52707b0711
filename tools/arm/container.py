"""A Debian for this machine's own processor, booted in namespaces.

Its systemd starts units as they are, walls included, in seconds and without emulation. The kernel
is this machine's.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from root import CACHE, RELEASE, sources

__all__ = ["Container", "make_debian", "missing"]

PACKAGES = ("systemd", "python3", "libstdc++6", "mosquitto", "lintian")
#: systemd 256 and later boot on a kernel's older control groups when they are told to only
_LEGACY = "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"


def missing() -> str:
    """Say what this machine lacks, or nothing."""
    lacking = shutil.which("systemd-nspawn") is None
    return "apt install --no-install-recommends systemd-container" if lacking else ""


def make_debian(codename: str) -> Path:
    """Return an archive of a configured root of a release, made when it is not cached.

    Parameters
    ----------
    codename : str
        As in `trixie`; it comes from where this machine has its own release from.
    """
    made_from = Path(__file__).read_bytes() + codename.encode()
    archive = CACHE / f"debian-{hashlib.sha256(made_from).hexdigest()[:12]}.tar"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "debian.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            listed = archive.with_suffix(".list")
            text = re.sub(rf"\b{RELEASE}\b", codename, sources())
            listed.write_text(text, encoding="utf-8")
            part = archive.with_suffix(".part.tar")
            done = subprocess.run(
                ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}",
                 codename, part, listed],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                sys.exit(f"the root of Debian {codename} was not made:\n{done.stdout}{done.stderr}")
            part.rename(archive)
    return archive


class Container:
    """A root that boots, and a way to run commands in it.

    Parameters
    ----------
    root : Path
    binds : mapping of Path to str
        Directories of this machine to show, read-only, at a path of the root.
    log : Path
        For what the console shows.
    """

    def __init__(self, root: Path, *, binds: Mapping[Path, str], log: Path) -> None:
        command = ["systemd-nspawn", "-D", str(root), "--register=no", "--keep-unit"]
        # A loopback of its own.
        command += ["--private-network", f"--setenv={_LEGACY}", "--setenv=SYSTEMD_PROC_CMDLINE="]
        command += [f"--bind-ro={source}:{target}" for source, target in binds.items()]
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [*command, "--boot"], stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )
        self._log = log

    def wait_ready(self, *, timeout_s: float) -> None:
        """Wait until everything that starts at boot has started or failed."""
        deadline_s = time.monotonic() + timeout_s
        while not re.search("running|degraded", self._said("systemctl is-system-running")):
            assert self._process.poll() is None, self._log.read_text(errors="replace")[-3000:]
            assert time.monotonic() < deadline_s, self._log.read_text(errors="replace")[-3000:]
            time.sleep(0.2)

    def run(self, command: str, *, timeout_s: float = 300.0) -> str:
        """Run a line of shell in there as root, and return what it said.

        Raises
        ------
        AssertionError
            When it fails.
        """
        done = self._enter(command, timeout_s)
        assert done.returncode == 0, f"{command}: {done.stdout[-6000:]}"
        return done.stdout.strip()

    def power_off(self) -> None:
        """Shut it down, and end it where that does not work."""
        if self._process.poll() is None:
            self._said("systemctl poweroff")
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _said(self, command: str) -> str:
        return self._enter(command, 60.0).stdout

    def _enter(self, command: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        pid = self._process.pid
        # Before it has one there is nothing to enter, and nsenter says so.
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        target = children[0] if children else "none"
        return subprocess.run(
            ["nsenter", "--target", target, "--all", "env", "-i", "HOME=/root", "LC_ALL=C.UTF-8",
             "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "sh", "-c", command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=timeout_s, check=False,
        )  # fmt: skip
