"""How long work rests, measured."""

from __future__ import annotations

import threading
import time

import pytest

from edge_runtime.device.governor import Level
from edge_runtime.device.pace import Pace


def work(seconds: float) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        pass


def asked(pace: Pace) -> tuple[bool, float]:
    began = time.monotonic()
    return pace.should_leave(), time.monotonic() - began


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


def test_slow_work_rests_three_times_as_long_as_it_worked(stop: threading.Event) -> None:
    pace = Pace(stop)
    pace.begin()
    work(0.1)
    leave, rested = asked(pace)
    assert not leave
    assert rested < 0.3
    pace.level = Level.SLOW
    work(0.05)
    leave, rested = asked(pace)
    assert not leave
    assert rested >= 0.14
    # The rest is no work: three times as long would be .42 s and more.
    assert asked(pace)[1] < 0.4


def test_a_paused_or_stopped_worker_leaves_at_once(stop: threading.Event) -> None:
    pace = Pace(stop)
    pace.level = Level.PAUSED
    assert asked(pace)[0]
    assert pace.is_paused()
    pace.level = Level.SLOW
    pace.begin()
    work(0.2)
    stop.set()
    leave, rested = asked(pace)
    assert leave
    assert rested < 0.6


def test_each_question_is_a_sign_of_life(stop: threading.Event) -> None:
    pace = Pace(stop)
    pace.begin()
    work(0.02)
    silent_s = pace.pulse.silent_s
    assert silent_s >= 0.02
    pace.should_leave()
    assert pace.pulse.silent_s < silent_s
