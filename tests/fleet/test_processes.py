"""Processes are started, watched, measured, and all ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.errors import FleetError
from edge_runtime.fleet.processes import Child, MemoryWatch, Processes, memory_of

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('deaf', flush=True); time.sleep(600)"
)
SLEEPER = "import time; print('ready', flush=True); time.sleep(600)"


def wait_until(condition: Callable[[], bool], *, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def start(processes: Processes, code: str, log: Path, name: str = "child") -> Child:
    return processes.start([sys.executable, "-c", code], name=name, log=log)


def test_all_end_with_the_block_even_those_that_do_not_listen(tmp_path: Path) -> None:
    with Processes(grace_s=0.5) as processes:
        polite = start(processes, SLEEPER, tmp_path / "polite.log")
        deaf = start(processes, STUBBORN, tmp_path / "logs" / "deaf.log")
        wait_until(lambda: polite.last_words() == "ready" and deaf.last_words() == "deaf")
        assert polite.running
        assert deaf.running
        processes.check()
    assert polite.process.returncode == -signal.SIGTERM
    assert deaf.process.returncode == -signal.SIGKILL
    assert processes.children == []


def test_they_end_when_the_block_fails(tmp_path: Path) -> None:
    children: list[Child] = []

    def fail() -> None:
        with Processes() as processes:
            children.append(start(processes, SLEEPER, tmp_path / "x.log"))
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert not children[0].running


def test_a_second_interrupt_kills_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    children: list[Child] = []

    def impatient(*_: object) -> None:
        raise KeyboardInterrupt

    def interrupted() -> None:
        with Processes(grace_s=60) as processes:
            children.append(start(processes, STUBBORN, tmp_path / "x.log"))
            wait_until(lambda: children[0].last_words() == "deaf")
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, impatient)
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert children[0].process.returncode == -signal.SIGKILL


def test_an_early_end_names_the_process_and_its_last_words(tmp_path: Path) -> None:
    with Processes() as processes:
        child = start(
            processes, "print('disk on fire'); raise SystemExit(3)", tmp_path / "x.log", "device 7"
        )
        child.process.wait(20)
        with pytest.raises(FleetError, match=r"(?s)device 7 ended with exit code 3.*disk on fire"):
            processes.check()
        with pytest.raises(FleetError):
            processes.check(may_end=[child])  # only a clean end may be early
        child.signal(signal.SIGTERM)  # gone already: no error


def test_a_clean_end_can_be_allowed_and_some_can_be_stopped_alone(tmp_path: Path) -> None:
    with Processes() as processes:
        done = start(processes, "pass", tmp_path / "a.log")
        done.process.wait(20)
        processes.check(may_end=[done])
        stays = start(processes, SLEEPER, tmp_path / "b.log")
        goes = start(processes, SLEEPER, tmp_path / "c.log")
        processes.stop([goes, done])
        assert processes.children == [stays]
        assert stays.running
        assert not goes.running


def test_what_cannot_start_and_what_makes_no_sense(tmp_path: Path) -> None:
    with Processes() as processes, pytest.raises(FleetError, match="ghost cannot be started"):
        processes.start(["/nonexistent/program"], name="ghost", log=tmp_path / "x.log")
    with pytest.raises(FleetError, match="must be positive"):
        Processes(grace_s=0)
    missing = Child(
        name="x", command=[sys.executable, "-c", "pass"], log=tmp_path / "gone.log", nice=0
    )
    missing.process.wait(20)
    missing.log.unlink()
    assert missing.last_words() == ""


def test_niceness_and_single_threads(tmp_path: Path) -> None:
    code = "import os; print(os.nice(0), os.environ['OMP_NUM_THREADS'])"
    with Processes() as processes:
        child = processes.start([sys.executable, "-c", code], name="n", log=tmp_path / "n", nice=7)
        child.process.wait(20)
        assert child.last_words() == f"{os.nice(0) + 7} 1"


def test_children_do_not_hear_the_terminal(tmp_path: Path) -> None:
    with Processes() as processes:
        child = start(processes, SLEEPER, tmp_path / "x.log")
        assert os.getpgid(child.process.pid) != os.getpgid(0)


def test_memory_of_all_processes_together(tmp_path: Path) -> None:
    megabytes = 120
    code = f"x = bytearray({megabytes} << 20); print('ready', flush=True); input()"
    with MemoryWatch(interval_s=0.05) as watch:
        before = watch.sample()
        # a grandchild, as behind `nice` or a shell
        child = subprocess.Popen(
            ["/bin/sh", "-c", '"$0" -c "$1"; true', sys.executable, code],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            with_child = watch.sample()
        finally:
            child.communicate(b"\n", timeout=20)
        wait_until(lambda: watch.sample() < before + (megabytes << 19))
    assert with_child > before + (megabytes << 20)
    assert watch.peak_bytes >= with_child
    assert watch.peak_processes >= 3


def test_memory_of_processes_that_are_gone() -> None:
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait(20)
    sizes = memory_of([os.getpid(), gone.pid])
    assert list(sizes) == [os.getpid()]
    assert sizes[os.getpid()] > 5 << 20


def test_memory_without_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("edge_runtime.fleet.processes._PROC", tmp_path)
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait(20)
    sizes = memory_of([os.getpid(), gone.pid])
    assert sizes[os.getpid()] > 5 << 20
    assert gone.pid not in sizes
    # PSS is not readable for processes of others: RSS takes its place
    own = tmp_path / str(os.getpid())
    own.mkdir()
    (own / "status").write_text("Name:\tx\nVmRSS:\t    2048 kB\n")
    assert memory_of([os.getpid()]) == {os.getpid(): 2048 * 1024}
