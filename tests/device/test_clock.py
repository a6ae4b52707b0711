"""A minimum time that never goes back, and nothing else in the device that trusts the clock."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_runtime.device import clock
from edge_runtime.device.clock import (
    RELEASED_S,
    MinimumTime,
    read_minimum,
    set_if_behind,
    synchronised,
)

_HOUR_S = 3600


def test_the_file_is_written_rarely_and_never_goes_back(tmp_path: Path) -> None:
    path = tmp_path / "minimum-time"
    minimum = MinimumTime(path)
    assert minimum.unix_s == RELEASED_S
    start = RELEASED_S + 1_000_000
    minimum.raise_to(start)
    assert read_minimum(path) == start
    minimum.raise_to(start + _HOUR_S - 1)
    assert (minimum.unix_s, read_minimum(path)) == (start + _HOUR_S - 1, start)
    minimum.raise_to(start - 500_000)  # a clock that jumped back
    assert minimum.unix_s == start + _HOUR_S - 1
    minimum.raise_to(0, write=True)
    assert read_minimum(path) == MinimumTime(path).unix_s == start + _HOUR_S - 1
    assert list(tmp_path.iterdir()) == [path]


def test_the_time_to_judge_by_is_the_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minimum = MinimumTime(tmp_path / "minimum-time")
    minimum.raise_to(RELEASED_S + 1000)
    assert minimum.now() >= time.time() - 1
    monkeypatch.setattr(clock.time, "time", lambda: 12.0)  # a board that has just been switched on
    assert RELEASED_S + 1000 <= minimum.now() < RELEASED_S + 1060


def test_time_passes_on_a_board_whose_clock_nothing_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else whoever keeps the network's time from it could have it take old metadata for ever.
    passed_s = 5000.0
    monkeypatch.setattr(clock.time, "time", lambda: 12.0)
    monkeypatch.setattr(clock.time, "monotonic", lambda: passed_s)
    path = tmp_path / "minimum-time"
    minimum = MinimumTime(path)
    passed_s += 8 * 86_400
    assert minimum.now() == RELEASED_S + 8 * 86_400
    minimum.raise_to(RELEASED_S + 7 * 86_400)  # a clock that was set back meanwhile
    assert minimum.now() == RELEASED_S + 8 * 86_400
    minimum.raise_to(0)
    assert MinimumTime(path).now() == RELEASED_S + 8 * 86_400
    minimum.raise_to(RELEASED_S + 9 * 86_400)
    passed_s += 60
    assert minimum.now() == RELEASED_S + 9 * 86_400 + 60


@pytest.mark.parametrize("text", ["", "soon", "12", "-5", "9" * 18, "1e9", "\x00" * 40, "²"])
def test_a_file_that_says_nothing_usable_is_ignored(tmp_path: Path, text: str) -> None:
    path = tmp_path / "minimum-time"
    path.write_text(text, encoding="utf-8")
    assert read_minimum(path) == RELEASED_S


def test_neither_a_link_nor_a_pipe_is_read(tmp_path: Path) -> None:
    # Root reads the file of a user that may have been taken over, before the network is there.
    (tmp_path / "there").write_text(f"{RELEASED_S + 1000}\n")
    (tmp_path / "link").symlink_to(tmp_path / "there")
    os.mkfifo(tmp_path / "pipe")
    assert read_minimum(tmp_path / "there") == RELEASED_S + 1000
    for name in ("link", "pipe"):
        assert read_minimum(tmp_path / name) == RELEASED_S


def test_a_time_that_cannot_be_is_not_learnt(tmp_path: Path) -> None:
    minimum = MinimumTime(tmp_path / "minimum-time")
    minimum.raise_to(RELEASED_S + 40 * 365 * 86_400)
    assert minimum.unix_s == RELEASED_S


def test_a_directory_that_is_gone_is_no_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    minimum = MinimumTime(tmp_path / "gone" / "minimum-time")
    minimum.raise_to(RELEASED_S + 1_000_000)
    assert "cannot be written" in caplog.text
    assert minimum.unix_s == RELEASED_S + 1_000_000


def test_the_clock_is_stepped_forward_only(tmp_path: Path) -> None:
    path = tmp_path / "minimum-time"
    steps: list[float] = []
    assert "is not behind" in set_if_behind(path, set_clock=steps.append)
    ahead = int(time.time()) + 86_400
    path.write_text(f"{ahead}\n")
    assert "the clock was set from" in set_if_behind(
        tmp_path / "none", path, set_clock=steps.append
    )
    assert steps == [float(ahead)]


def test_the_entry_point_leaves_a_right_clock_alone(tmp_path: Path) -> None:
    path = tmp_path / "minimum-time"
    path.write_text(f"{int(time.time()) - 100}\n")
    command = [sys.executable, "-m", "edge_runtime.device.clock", "--set-if-behind", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0
    assert "is not behind the last time known" in done.stdout


def test_a_clock_that_may_not_be_set_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "minimum-time"
    path.write_text(f"{int(time.time()) + 86_400}\n")

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    # As root this test would move the machine's clock by a day.
    monkeypatch.setattr(clock.time, "clock_settime", refuse)
    assert clock.main(["--set-if-behind", str(path)]) == 1
    assert "cannot be set (Operation not permitted); run this as root" in capsys.readouterr().err


def test_timesyncd_is_believed_where_it_runs(tmp_path: Path) -> None:
    assert synchronised(tmp_path) is False
    (tmp_path / "synchronized").touch()
    assert synchronised(tmp_path) is True
    assert synchronised(tmp_path / "none") in (True, False, None)  # the kernel's own word


def test_it_starts_without_numpy_and_the_link() -> None:
    program = (
        "import sys, edge_runtime.device.clock as clock; print(clock.synchronised()); "
        "print([name for name in ('numpy', 'msgspec', 'paho', 'asyncio') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    said = done.stdout.splitlines()
    assert said[0] in ("True", "False", "None")
    assert said[1] == "[]"


def test_nothing_that_the_agent_runs_reads_the_wall_clock() -> None:
    """Durations are measured with a clock that no setting moves: jumps both ways do no harm."""
    program = (
        "import sys, edge_runtime.device.agent\n"
        "for name, module in sorted(sys.modules.items()):\n"
        "    if name.startswith('edge_runtime'):\n"
        "        print(getattr(module, '__file__', None))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    sources = [Path(line) for line in done.stdout.splitlines() if line.endswith(".py")]
    assert len(sources) > 50
    wall = re.compile(r"time\.time\(|time_ns\(|datetime\.now|utcnow|localtime\(")
    users = [path.name for path in sources if wall.search(path.read_text(encoding="utf-8"))]
    # `vitals` teaches the minimum time, in `clock`, what a synchronised clock says.
    assert users == ["clock.py", "vitals.py"]
