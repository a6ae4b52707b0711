"""What waits for the inbox: bounded, in turn, and nobody kept out by somebody else."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from edge_runtime.reception import Incoming
from edge_runtime.reception.arrivals import Arrivals, Excess
from edge_runtime.reception.flooding import Flooding
from edge_runtime.reception.settings import LimitSettings


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def message(device: str, size: int = 1000, what: int = 0) -> Incoming:
    return Incoming(device, "batch", what.to_bytes(4, "big") + bytes(size - 4))


def drained(arrivals: Arrivals) -> list[str]:
    return [message.device for message in arrivals.take(1 << 20, timeout=0.0)]


def test_devices_take_turns_and_each_keeps_its_order() -> None:
    arrivals = Arrivals(LimitSettings())
    for number in range(4):
        assert arrivals.put(message("flood", what=number))
    for device in ("a", "b"):
        assert arrivals.put(message(device))
    assert len(arrivals) == 6
    first = arrivals.take(3, timeout=1.0)
    first += arrivals.take(1, timeout=1.0)
    assert [one.device for one in first] == ["flood", "a", "b", "flood"]
    assert [one.payload[:4] for one in first if one.device == "flood"] == [bytes(4), b"\0\0\0\1"]
    assert drained(arrivals) == ["flood", "flood"]


@pytest.mark.parametrize("size", [4, 1000, 60_000])
def test_a_device_with_little_finds_a_place_in_a_queue_that_a_flood_has_filled(size: int) -> None:
    """Also when the flood's messages are tiny and the other's is not."""
    limits = LimitSettings(queue_messages=100, queue_bytes=2 << 20, device_burst_bytes=64 << 20)
    arrivals = Arrivals(limits)
    held = sum(arrivals.put(message("flood", size)) for _ in range(3000))
    assert held == min(100, (2 << 20) // size)
    for device in "abcdefghi":
        assert arrivals.put(message(device, 10_000))
    assert arrivals.overflow > 0
    found = Counter(drained(arrivals))
    assert found.total() <= 100
    assert all(found[device] == 1 for device in "abcdefghi")


def test_nobody_gains_by_many_devices_with_little_each() -> None:
    arrivals = Arrivals(LimitSettings(queue_messages=4))
    assert [arrivals.put(message(device)) for device in "abcdef"] == [True] * 4 + [False] * 2
    assert drained(arrivals) == list("abcd")


def test_a_rate_has_room_for_an_outbox_and_then_lets_through_what_was_earned() -> None:
    clock = Clock()
    limits = LimitSettings(
        device_bytes_per_s=1 << 20, device_burst_bytes=8 << 20, queue_messages=1 << 20
    )
    arrivals = Arrivals(limits, clock=clock)
    assert sum(arrivals.put(message("a", 1 << 20)) for _ in range(20)) == 8
    assert arrivals.excess() == {"a": Excess(12, 12 << 20)}
    assert arrivals.put(message("b", 1 << 20))
    clock.now_s += 2.5
    assert sum(arrivals.put(message("a", 1 << 20)) for _ in range(20)) == 2
    clock.now_s += 1e6
    assert sum(arrivals.put(message("a", 1 << 20)) for _ in range(20)) == 8
    # Tiny ones cost a commit as well.
    assert sum(arrivals.put(message("c", 4)) for _ in range(2000)) == (8 << 20) // (16 << 10)


def test_one_message_always_fits_and_a_taker_waits_for_it() -> None:
    arrivals = Arrivals(LimitSettings(queue_bytes=1))
    assert arrivals.take(9, timeout=0.01) == []
    timer = threading.Timer(0.05, lambda: arrivals.put(message("a")))
    timer.start()
    assert [one.device for one in arrivals.take(9, timeout=30.0)] == ["a"]
    timer.join()


def test_a_flood_is_named_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    arrivals = Arrivals(LimitSettings(device_burst_bytes=4 << 20), clock=clock)
    flooding = Flooding(arrivals, clock=clock)
    assert flooding.news() == {}
    for _ in range(1000):
        arrivals.put(message("noisy", 50_000))
    arrivals.put(message("quiet"))
    said = flooding.news()
    assert said.keys() == {"noisy"}
    assert said["noisy"].startswith("sends more than its share: 917 messages, 45.9 MB not taken")
    for _ in range(10):
        arrivals.put(message("noisy", 50_000))
        assert flooding.news() == {}
    clock.now_s += 60.0
    assert flooding.news().keys() == {"noisy"}
    assert flooding.news() == {}
    assert len([r for r in caplog.records if "noisy" in r.getMessage()]) == 2


def test_a_full_queue_waits_for_a_place_before_anybody_makes_room() -> None:
    arrivals = Arrivals(LimitSettings(queue_messages=1))
    assert arrivals.put(message("a"))
    taken: list[Incoming] = []
    taker = threading.Timer(0.05, lambda: taken.extend(arrivals.take(9, timeout=0.0)))
    taker.start()
    assert arrivals.put(message("b"), timeout=30.0)
    taker.join()
    assert [one.device for one in taken] == ["a"]
    assert arrivals.overflow == 0
