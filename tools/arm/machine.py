"""An emulated arm64 board with 512 MB: a disk from a root, a boot, a shell on its serial console.

`qemu-system-aarch64 -M virt -cpu cortex-a72` is not a Raspberry Pi: instructions and memory are a
board's, devices are virtual ones, and time says nothing. This machine's loopback is 10.0.2.2 in
there.
"""

from __future__ import annotations

import queue
import shutil
import subprocess
import threading
import time
from pathlib import Path

__all__ = ["HOST_ADDRESS", "Machine", "make_disk"]

#: under which the emulated board reaches this machine's loopback
HOST_ADDRESS = "10.0.2.2"
MEMORY_MB = 512
_READY = "@@ready"
_DONE = "@@done "
# A shell for the test, as soon as the system is up. No password is asked for: nobody else is there.
_SHELL = f"""\
[Unit]
After=multi-user.target
[Service]
Type=idle
Environment=PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root TERM=dumb PS1=
ExecStart=/bin/sh -c 'stty -echo -opost cols 500; echo {_READY}; exec bash --noprofile --norc'
# an interactive shell ends on nothing less
SendSIGHUP=yes
StandardInput=tty-force
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyAMA0
[Install]
WantedBy=multi-user.target
"""


def make_disk(root: Path, disk: Path, *, size_mb: int = 1024) -> None:
    """Write a root directory into a new ext4 image, and into it the shell for tests.

    Parameters
    ----------
    root : Path
        Ready to boot; two units are added.
    disk : Path
    size_mb : int
    """
    units = root / "etc/systemd/system"
    (units / "test-shell.service").write_text(_SHELL, encoding="utf-8")
    for command in (["enable", "test-shell.service"], ["mask", "serial-getty@ttyAMA0.service"]):
        subprocess.run(["systemctl", f"--root={root}", "--quiet", *command], check=True)
    disk.unlink(missing_ok=True)
    make = shutil.which("mke2fs", path="/usr/sbin:/sbin") or "mke2fs"
    subprocess.run(
        [make, "-q", "-t", "ext4", "-d", str(root), "-E", "root_owner=0:0", str(disk),
         f"{size_mb}M"],
        check=True,
    )  # fmt: skip


class Machine:
    """A running board.

    Parameters
    ----------
    disk : Path
        From `make_disk`; it is written to.
    kernel, initrd : Path
        From `root.make_root`.
    log : Path
        Everything that the console printed, with the seconds since the start.
    count_instructions : bool
        One core whose clock goes on by a nanosecond with every instruction; much slower.
    """

    def __init__(
        self, *, disk: Path, kernel: Path, initrd: Path, log: Path, count_instructions: bool = False
    ) -> None:
        processor = (
            ["-accel", "tcg,thread=single", "-icount", "shift=0", "-smp", "1"]
            if count_instructions
            else ["-accel", "tcg,thread=multi", "-smp", "2"]
        )
        self.started_s = time.monotonic()
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._log = log.open("a", encoding="utf-8")
        self._process = subprocess.Popen(
            ["qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72", *processor,
             "-m", str(MEMORY_MB),
             "-kernel", str(kernel), "-initrd", str(initrd),
             "-append", "console=ttyAMA0 root=/dev/vda rw quiet loglevel=3 panic=-1",
             # writeback: what the board has not flushed is lost with it, as in a power cut
             "-drive", f"if=none,file={disk},format=raw,id=d0,cache=writeback",
             "-device", "virtio-blk-pci,drive=d0", "-netdev", "user,id=n0",
             "-device", "virtio-net-pci,netdev=n0,romfile=", "-device", "virtio-rng-pci",
             "-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0,
        )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as console:
            for raw in iter(console.readline, b""):
                line = raw.decode(errors="replace").rstrip("\r\n")
                self._log.write(f"{time.monotonic() - self.started_s:8.2f} {line}\n")
                self._log.flush()
                self._lines.put(line)
        self._lines.put(None)

    def wait_ready(self, *, timeout_s: float = 300.0) -> float:
        """Wait for the shell; return the seconds since the start."""
        self._until(_READY, timeout_s)
        return time.monotonic() - self.started_s

    def run(self, command: str, *, timeout_s: float = 120.0, check: bool = True) -> str:
        """Run a command in the shell and return what it printed.

        Raises
        ------
        RuntimeError
            It failed, or did not end in time.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(
            f"( {command} ) </dev/null 2>&1; echo; echo '{_DONE}'$?\n".encode()
        )
        printed = self._until(_DONE, timeout_s)
        code = int(printed.pop().rpartition(_DONE)[2])
        text = "\n".join(printed).strip()
        if check and code:
            raise RuntimeError(f"{command}: exit code {code}: {text}")
        return text

    def power_off(self, *, timeout_s: float = 120.0) -> float:
        """Switch it off as a person would; return the seconds that it took.

        Raises
        ------
        subprocess.TimeoutExpired
            It does not go off.
        """
        assert self._process.stdin is not None
        begin_s = time.monotonic()
        self._process.stdin.write(b"systemctl poweroff\n")
        self._process.wait(timeout_s)
        return time.monotonic() - begin_s

    def cut(self) -> None:
        """Take the power away."""
        self._process.kill()
        self._process.wait()

    @property
    def running(self) -> bool:
        """Whether the emulator still runs."""
        return self._process.poll() is None

    def _until(self, marker: str, timeout_s: float) -> list[str]:
        seen: list[str] = []
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline_s - time.monotonic()))
            except queue.Empty:
                raise RuntimeError(f"no {marker} within {timeout_s:g} s: {seen[-20:]}") from None
            if line is None:
                raise RuntimeError(f"the machine went off before {marker}: {seen[-20:]}")
            seen.append(line)
            if marker in line:
                return seen
