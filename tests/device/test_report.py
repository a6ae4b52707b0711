from __future__ import annotations

from edge_runtime.device.report import Reporter
from edge_runtime.messages import DeviceState


def make(**options: object) -> Reporter:
    return Reporter(first=DeviceState(device="a", status="online"), interval_s=0.5, **options)  # type: ignore[arg-type]


def test_the_first_state_is_due_at_once_and_then_only_changes() -> None:
    reporter = make()
    assert reporter.wait_s(now_s=0.0) == 0.0
    assert reporter.due(now_s=0.0) is not None
    assert reporter.due(now_s=9.0) is None
    assert reporter.wait_s(now_s=9.0) is None
    assert reporter.set(status="online") is False
    assert reporter.due(now_s=9.0) is None


def test_at_most_two_a_second_and_the_latest_wins() -> None:
    reporter = make()
    published = []
    for step in range(1000):
        reporter.set(status="training", progress=step / 1000)
        state = reporter.due(now_s=step / 100)
        if state is not None:
            published.append(state.progress)
    assert len(published) == 20
    assert published[1] == 0.05
    assert reporter.wait_s(now_s=9.99) is not None
    final = reporter.due(now_s=10.5)
    assert final is not None
    assert final.progress == 0.999


def test_the_publisher_is_woken_once_per_published_state() -> None:
    calls: list[int] = []
    reporter = make(on_change=lambda: calls.append(1))
    reporter.due(now_s=0.0)
    for step in range(100):
        reporter.set(progress=step / 100)
    assert len(calls) == 1
    reporter.due(now_s=1.0)
    reporter.set(progress=1.0)
    assert len(calls) == 2


def test_a_reconnect_publishes_again() -> None:
    reporter = make()
    reporter.due(now_s=0.0)
    reporter.again()
    assert reporter.due(now_s=0.01) is not None


def test_long_reasons_are_cut_to_what_a_state_may_hold() -> None:
    reporter = make()
    reporter.set(reason="x" * 5000)
    assert len(reporter.state.reason) == 2000
