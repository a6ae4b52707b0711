"""Real processes, started together, watched, measured, and all ended whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from edge_runtime.errors import FleetError

__all__ = ["Child", "MemoryWatch", "Processes", "memory_of"]

_PROC = Path("/proc")
#: one process runs one thread of arithmetic: many processes share few cores here
_SINGLE_THREADED = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}


class Child:
    """One started process and its log.

    Attributes
    ----------
    name : str
    log : Path
        Everything it prints.
    process : subprocess.Popen
    """

    def __init__(self, *, name: str, command: Sequence[str], log: Path, nice: int) -> None:
        self.name = name
        self.log = log
        if nice:
            command = ["nice", "-n", str(nice), *command]
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self.process = subprocess.Popen(  # noqa: S603 - our own modules, no shell
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_SINGLE_THREADED},
                # Ctrl-C in a terminal goes to the whole foreground group. Children are ended in
                # order by us, so they are put into groups of their own.
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    def last_words(self, lines: int = 8) -> str:
        """Return the end of its log."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(text.rstrip().splitlines()[-lines:])

    def signal(self, number: int) -> None:
        """Send a signal; a process that is gone is left alone."""
        if self.running:
            try:
                self.process.send_signal(number)
            except ProcessLookupError:
                return


class Processes:
    """A set of processes that never outlives its ``with`` block.

    Parameters
    ----------
    grace_s : float
        How long a process may take to end by itself before it is killed.

    Examples
    --------
    >>> with Processes() as processes:                                     # doctest: +SKIP
    ...     processes.start_module("edge_runtime.device", ["--config", "device.toml"],
    ...                            name="device ua", log=Path("ua.log"))
    """

    def __init__(self, *, grace_s: float = 8.0) -> None:
        if grace_s <= 0:
            raise FleetError(f"grace_s is {grace_s}; it must be positive")
        self.grace_s = grace_s
        self.children: list[Child] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        except BaseException:
            # A second Ctrl-C while they were being asked politely: no more waiting.
            for child in self.children:
                child.signal(signal.SIGKILL)
                child.process.wait()
            raise

    def start(self, command: Sequence[str], *, name: str, log: Path, nice: int = 0) -> Child:
        """Start a command; its output goes to `log`.

        Parameters
        ----------
        command : sequence of str
        name : str
            For messages.
        log : Path
        nice : int
            Added niceness: above 0 it yields to the others.

        Raises
        ------
        FleetError
            The program cannot be started.
        """
        try:
            child = Child(name=name, command=command, log=log, nice=nice)
        except OSError as error:
            raise FleetError(f"{name} cannot be started: {error}") from error
        self.children.append(child)
        return child

    def start_module(
        self, module: str, arguments: Sequence[str], *, name: str, log: Path, nice: int = 0
    ) -> Child:
        """Start ``python -m module`` with this interpreter."""
        return self.start([sys.executable, "-m", module, *arguments], name=name, log=log, nice=nice)

    def check(self, *, may_end: Sequence[Child] = ()) -> None:
        """Raise when a process has ended that should not have.

        Raises
        ------
        FleetError
            Names the process, its exit code, its log and its last words.
        """
        for child in self.children:
            code = child.process.poll()
            if code is None or (child in may_end and code == 0):
                continue
            raise FleetError(
                f"{child.name} ended with exit code {code}; its log is {child.log}\n"
                f"{child.last_words()}"
            )

    def stop(self, children: Mapping[str, Child] | Sequence[Child] | None = None) -> None:
        """End these processes (all when None): SIGTERM together, SIGKILL after the grace time."""
        if children is None:
            chosen = list(self.children)
        elif isinstance(children, Mapping):
            chosen = list(children.values())
        else:
            chosen = list(children)
        for child in chosen:
            child.signal(signal.SIGTERM)
        deadline = time.monotonic() + self.grace_s
        for child in chosen:
            try:
                child.process.wait(max(0.01, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.signal(signal.SIGKILL)
                child.process.wait()
        self.children = [child for child in self.children if child not in chosen]


def memory_of(pids: Sequence[int]) -> dict[int, int]:
    """Return each process's memory in bytes; processes that are gone are left out.

    PSS from ``smaps_rollup`` where Linux gives it (a page shared by n processes counts 1/n in
    each, so that a sum over processes is right), otherwise RSS, which counts shared pages in each.
    """
    sizes: dict[int, int] = {}
    for pid in pids:
        size = _field(_PROC / str(pid) / "smaps_rollup", b"Pss:")
        if size is None:
            size = _field(_PROC / str(pid) / "status", b"VmRSS:")
        if size is None and not _PROC.joinpath("self").exists():
            size = _psutil_rss(pid)
        if size is not None:
            sizes[pid] = size
    return sizes


def _field(path: Path, name: bytes) -> int | None:
    try:
        for line in path.read_bytes().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return None
    return None


def _psutil_rss(pid: int) -> int | None:
    try:
        import psutil  # noqa: PLC0415 - the demo extra; only where there is no /proc
    except ImportError:
        return None
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None


def _children_of(root: int) -> list[int]:
    """Return all descendants of a process, from /proc; empty where there is none."""
    parents: dict[int, list[int]] = {}
    for entry in _PROC.glob("[0-9]*"):
        try:
            # The command name in brackets may hold spaces: the parent stands behind the last one.
            stat = (entry / "stat").read_bytes().rpartition(b")")[2].split()
            parents.setdefault(int(stat[1]), []).append(int(entry.name))
        except (OSError, ValueError, IndexError):
            continue
    found: list[int] = []
    todo = [root]
    while todo:
        for pid in parents.get(todo.pop(), []):
            found.append(pid)
            todo.append(pid)
    return found


class MemoryWatch:
    """Samples this process and all its descendants, and keeps the largest sum.

    Parameters
    ----------
    interval_s : float
        Between samples; a sample of twenty processes takes about 20 ms.
    """

    def __init__(self, *, interval_s: float = 1.0) -> None:
        self._interval_s = interval_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)
        self.peak_bytes = 0
        self.peak_processes = 0

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def sample(self) -> int:
        """Measure now, and return the sum in bytes."""
        own = os.getpid()
        sizes = memory_of([own, *_children_of(own)])
        total = sum(sizes.values())
        if total > self.peak_bytes:
            self.peak_bytes, self.peak_processes = total, len(sizes)
        return total

    def _run(self) -> None:
        while True:
            self.sample()
            if self._ended.wait(self._interval_s):
                return
