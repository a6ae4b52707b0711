"""One real process of the fleet: its own small disk and clock, and what systemd does for it."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from mmap import mmap
from pathlib import Path

from edge_runtime.errors import FleetError
from tests.faults.proxy import Wire

__all__ = ["Node", "build_shim"]

#: short, so that schedules are; systemd waits 5 s
_RESTART_S = 0.3
#: how the units have it: a mistake in the configuration, which no restart mends
_NO_RESTART = 2


def build_shim(folder: Path) -> Path:
    """Compile shim.c; the library that processes are started with."""
    library = folder / "shim.so"
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise FleetError("no C compiler is installed; install one (apt-get install gcc libc6-dev)")
    source = Path(__file__).with_name("shim.c")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl", "-lpthread"],
        check=True,
    )
    return library


class Node:
    """A device or the aggregator.

    Parameters
    ----------
    name : str
    command : sequence of str
        What Python is started with.
    folder : Path
        For configuration and log; the state is in `folder/disk/state`.
    shim : Path
        From `build_shim`.
    wire : Wire
        Its connection to the broker.
    disk_bytes : int
        Size of its disk; 0: a plain directory, where no file system can be mounted.
    """

    def __init__(
        self,
        *,
        name: str,
        command: Sequence[str],
        folder: Path,
        shim: Path,
        wire: Wire,
        disk_bytes: int,
    ) -> None:
        self.name, self.folder, self.wire = name, folder, wire
        self.command = command
        self.disk = folder / "disk"
        self.disk.mkdir(parents=True)
        self.mounted = disk_bytes > 0
        if self.mounted:
            size = f"size={disk_bytes},mode=0700"
            subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", self.disk], check=True)
        self.state = self.disk / "state"
        self.state.mkdir()
        self.state.with_name("state.graves").mkdir()
        self.config = folder / "node.toml"
        self.log = folder / "node.log"
        self.journal = folder / "journal"
        self.journal.touch()
        page = folder / "control"
        page.write_bytes(bytes(4096))
        with page.open("r+b") as file:
            self._control = mmap(file.fileno(), 4096)
        self._environment = {
            **os.environ,
            "LD_PRELOAD": str(shim),
            "FAULT_ROOT": str(self.state),
            "FAULT_JOURNAL": str(self.journal),
            "FAULT_CONTROL": str(page),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self.process: subprocess.Popen[bytes] | None = None
        #: a fault keeps it down, or a person has to come
        self.held = False
        #: how it ended by itself: exit code and last words
        self.ends: list[tuple[int, str]] = []
        self._ended_s = 0.0
        self._log_from = 0

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start it."""
        self._log_from = self.log.stat().st_size if self.log.exists() else 0
        self.process = self.also(self.command)

    def also(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start Python on its disk with something else; it writes into the same log."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
            )

    def kill(self) -> None:
        """End it at once."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def hold(self) -> None:
        """End it at once and keep it down."""
        self.kill()
        self.held = True

    def let_go(self) -> None:
        """Start what was held."""
        self.held = False
        self.start()

    def stop(self) -> None:
        """End it as an operator would.

        Raises
        ------
        FleetError
            When it does not, or not cleanly.
        """
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(20.0)
        except subprocess.TimeoutExpired as error:
            raise FleetError(f"{self.name} does not end within 20 s of SIGTERM") from error
        self.process = None
        if code not in (0, -signal.SIGTERM):
            raise FleetError(f"{self.name} ended with {code}: {self.last_words()}")

    def tend(self) -> None:
        """Do what systemd does: start it again some time after it has ended with an error.

        Raises
        ------
        FleetError
            When it ended without a clear word, or in a way that only a person could mend.
        """
        if self.held or self.running:
            return
        if self.process is not None:
            code, words = self.process.wait(), self.last_words()
            self.process = None
            self._ended_s = time.monotonic()
            self.ends.append((code, words))
            self.check_words()
            if code == _NO_RESTART:
                raise FleetError(f"{self.name} waits for a person, and the fault passes: {words}")
            if code <= 0:
                raise FleetError(f"{self.name} ended with {code} by itself: {words}")
        if time.monotonic() - self._ended_s > _RESTART_S:
            self.start()

    def check_words(self) -> None:
        """Make sure that it says what is wrong, and not where in the program.

        Raises
        ------
        FleetError
        """
        with self.log.open("rb") as log:
            log.seek(self._log_from)
            text = log.read().decode(errors="replace")
        if "Traceback" in text or "internal error" in text:
            raise FleetError(f"{self.name} fails without a clear state:\n{text[-3000:]}")

    def last_words(self) -> str:
        """Return the last line of its log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return lines[-1] if lines else ""

    def shift_clock(self, seconds: float) -> None:
        """Have its wall clock be off by so much."""
        self._control[0:8] = struct.pack("=q", int(seconds * 1e9))

    def read_only(self, on: bool) -> None:
        """Have its disk refuse every write, as a failing card does to a running system."""
        self._control[8:16] = struct.pack("=q", on)

    def remount(self, *, read_only: bool) -> None:
        """Mount its disk anew; nothing may run on it."""
        options = "remount,ro" if read_only else "remount,rw"
        subprocess.run(["mount", "-o", options, self.disk], check=True)

    def fill(self, left: int) -> None:
        """Fill its disk up to so many bytes."""
        with (self.disk / "filler").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(65536))
            except OSError:
                size = os.fstat(file.fileno()).st_size
        os.truncate(self.disk / "filler", max(0, size - left))

    def free(self) -> None:
        """Empty it again."""
        (self.disk / "filler").unlink(missing_ok=True)

    def close(self) -> None:
        """End the process and let its disk go."""
        self.kill()
        self._control.close()
        if self.mounted:
            subprocess.run(["umount", "-l", self.disk], check=True)
