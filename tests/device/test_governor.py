"""Readings from real files, and the levels that follow from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.device.config import LimitsConfig
from edge_runtime.device.governor import Governor, Level
from edge_runtime.device.readings import Readings

_MB = 1 << 20
#: only what a test is about is looked at
OFF = {
    "free_disk_bytes": 0,
    "free_memory_bytes": 0,
    "temperature_slow_c": 0.0,
    "temperature_stop_c": 0.0,
}


class Board:
    """The kernel's files, in a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.readings = Readings(
            state_dir=root / "not" / "made",
            thermal_dir=root / "thermal",
            proc_dir=root / "proc",
            cgroup_dir=root / "cgroup",
        )

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def heat(self, celsius: float, zone: int = 0) -> None:
        self.write(f"thermal/thermal_zone{zone}/temp", f"{celsius * 1000:.0f}\n")

    def memory(self, free_mb: float) -> None:
        self.write(
            "proc/meminfo",
            f"MemTotal: 948304 kB\nMemFree: 1 kB\nMemAvailable: {free_mb * 1024:.0f} kB\n",
        )

    def pressure(self, percent: float) -> None:
        self.write(
            "proc/pressure/memory",
            "some avg10=99.00 avg60=0.00 avg300=0.00 total=0\n"
            f"full avg10={percent:.2f} avg60=0.00 avg300=0.00 total=0\n",
        )

    def cgroup(
        self, where: str, *, most: str, high: str = "max", used: int, cache: int = 0
    ) -> None:
        for name, text in {
            "memory.max": most,
            "memory.high": high,
            "memory.current": str(used),
            "memory.stat": f"anon 5\ninactive_file {cache // 4}\nactive_file {cache * 3 // 4}",
        }.items():
            self.write(f"cgroup/{where}/{name}", f"{text}\n")


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


def levels(
    board: Board, set_to: Callable[[float], None], limits: LimitsConfig
) -> Callable[..., list[Level]]:
    governor = Governor(readings=board.readings, limits=limits)

    def through(*values: float) -> list[Level]:
        found = []
        for value in values:
            set_to(value)
            governor.look()
            found.append(governor.level)
        return found

    return through


def test_the_board_this_runs_on_can_be_read(tmp_path: Path) -> None:
    readings = Readings(state_dir=tmp_path / "not" / "made")
    assert (readings.free_disk_bytes() or 0) > 0
    assert 0 < (readings.free_memory_bytes() or 0) <= (readings.total_memory_bytes() or 0)


def test_what_is_not_there_is_not_known(board: Board) -> None:
    assert board.readings.temperature_c() is None
    assert board.readings.free_memory_bytes() is None
    assert board.readings.memory_to_reclaim_bytes() is None
    assert board.readings.memory_pressure_percent() is None
    governor = Governor(readings=board.readings, limits=LimitsConfig(free_disk_bytes=0))
    assert not governor.look()
    assert governor.level is Level.OK


def test_the_hottest_zone_counts_and_broken_ones_do_not(board: Board) -> None:
    board.heat(61.5)
    board.heat(72.0, zone=1)
    board.heat(999.0, zone=2)
    board.write("thermal/thermal_zone3/temp", "no number")
    (board.root / "thermal/thermal_zone4/temp").mkdir(parents=True)
    assert board.readings.temperature_c() == 72.0


def test_memory_is_what_the_tightest_limit_leaves(board: Board) -> None:
    board.memory(500)
    assert board.readings.free_memory_bytes() == 500 * _MB
    board.write("proc/self/cgroup", "4:memory:/old\n0::/system.slice/edge.service\n")
    board.cgroup("system.slice/edge.service", most=str(200 * _MB), used=150 * _MB, cache=20 * _MB)
    assert board.readings.free_memory_bytes() == 70 * _MB
    assert board.readings.memory_to_reclaim_bytes() is None
    board.cgroup("system.slice", most="max", high=str(300 * _MB), used=290 * _MB)
    assert board.readings.free_memory_bytes() == 70 * _MB
    assert board.readings.memory_to_reclaim_bytes() == 10 * _MB
    board.cgroup("system.slice", most=str(310 * _MB), used=400 * _MB)
    assert board.readings.free_memory_bytes() == 0


def test_temperature_slows_then_pauses_and_comes_back_late(board: Board) -> None:
    limits = LimitsConfig(**{**OFF, "temperature_slow_c": 75.0, "temperature_stop_c": 85.0})
    through = levels(board, board.heat, limits)
    ok, slow, paused = Level.OK, Level.SLOW, Level.PAUSED
    assert through(60, 74.9, 75, 84, 85) == [ok, ok, slow, slow, paused]
    # Not at once below the limit, but 5 degrees below it, three times in a row.
    assert through(84, 81, 81, 81, 81) == [paused] * 5
    assert through(79, 79, 86, 79, 79, 79) == [paused] * 5 + [slow]
    assert through(74, 71, 71, 71) == [slow] * 4
    assert through(69, 69, 69) == [slow, slow, ok]
    assert through(90) == [paused]


def test_memory_slows_at_twice_the_least(board: Board) -> None:
    limits = LimitsConfig(**{**OFF, "free_memory_bytes": 32 * _MB})
    through = levels(board, board.memory, limits)
    assert through(100, 63, 31) == [Level.OK, Level.SLOW, Level.PAUSED]
    assert through(40, 40, 40, 40) == [Level.PAUSED] * 4
    assert through(50, 50, 50) == [Level.PAUSED, Level.PAUSED, Level.SLOW]
    assert through(100, 100, 100) == [Level.SLOW, Level.SLOW, Level.OK]


def test_pressure_and_the_services_own_limit_slow_but_never_pause(board: Board) -> None:
    limits = LimitsConfig(**{**OFF, "free_memory_bytes": 32 * _MB})
    assert levels(board, board.pressure, limits)(9, 11, 90) == [Level.OK, Level.SLOW, Level.SLOW]
    board.pressure(0)
    board.write("proc/self/cgroup", "0::/\n")

    def leave(room_mb: float) -> None:
        board.cgroup(".", most="max", high=str(100 * _MB), used=int((100 - room_mb) * _MB))

    assert levels(board, leave, limits)(50, 10, 0) == [Level.OK, Level.SLOW, Level.SLOW]


def test_a_full_disk_pauses(board: Board) -> None:
    free = board.readings.free_disk_bytes()
    assert free is not None
    for least, level in ((1, Level.OK), (int(free / 1.5), Level.SLOW), (2 * free, Level.PAUSED)):
        governor = Governor(
            readings=board.readings, limits=LimitsConfig(**{**OFF, "free_disk_bytes": least})
        )
        governor.look()
        assert governor.level is level


def test_it_speaks_once_per_change_and_of_limits_not_of_what_is_left(board: Board) -> None:
    limits = LimitsConfig(
        free_disk_bytes=0,
        free_memory_bytes=32_000_000,
        temperature_slow_c=75.0,
        temperature_stop_c=85.0,
    )
    governor = Governor(readings=board.readings, limits=limits)
    board.heat(60)
    board.memory(500)
    assert not governor.look()
    board.heat(80.2)
    assert governor.look()
    assert governor.reason == "slow: temperature 80 C"
    board.heat(81)
    assert not governor.look()
    assert governor.reason == "slow: temperature 80 C"
    board.memory(50)
    assert governor.look()
    assert governor.reason == "slow: temperature 80 C, less than 64 MB free of memory"
    board.memory(17)
    assert governor.look()
    assert governor.reason == "paused: temperature 80 C, less than 32 MB free of memory"
    board.heat(50)
    board.memory(500)
    assert [governor.look() for _ in range(3)] == [False, False, True]
    assert governor.reason == ""
