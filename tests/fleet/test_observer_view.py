"""What is seen of a fleet, through a real broker, and how it is shown."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from edge_runtime.fleet.broker import Broker, start_broker
from edge_runtime.fleet.observer import Observer, Snapshot
from edge_runtime.fleet.view import FleetView, describe
from edge_runtime.messages import (
    AggregatorStatus,
    DeviceProgress,
    DeviceState,
    Link,
    Topics,
    encode_state,
    encode_status,
)

TOPICS = Topics("flights")
NAMES = {"ua": "United", "b6": "JetBlue", "aa": "American"}
STATUS = AggregatorStatus(
    phase="round", round=1, rounds=2, rows=700,
    devices={"ua": DeviceProgress(status="training", rows=700)},
)  # fmt: skip
STATES = {
    "ua": DeviceState(
        device="ua", status="training", progress=0.5, epsilon_spent=3.25, epsilon_limit=8.0
    ),
    "b6": DeviceState(device="b6", status="declined", reason="over the budget"),
}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with start_broker(tmp_path_factory.mktemp("broker")) as running:
        yield running


def test_retained_and_fresh_states_are_seen(broker: Broker) -> None:
    place = {"host": broker.host, "port": broker.port}
    with Link(**place, client_id="fleet") as link:
        link.wait_connected(20)
        link.publish(TOPICS.state("ua"), encode_state(STATES["ua"]), retain=True).wait(20)
        link.publish(TOPICS.status, encode_status(STATUS), retain=True).wait(20)
        with Observer(**place, fleet="flights") as observer:
            wait_until(lambda: observer.snapshot().aggregator is not None)
            wait_until(lambda: "ua" in observer.snapshot().devices)
            link.publish(TOPICS.state("b6"), encode_state(STATES["b6"]), retain=True)
            link.publish(TOPICS.state("aa"), b"not a state")
            link.publish(Topics("other").state("ua"), b"another fleet's")
            wait_until(lambda: observer.snapshot().ignored == 1)
            wait_until(lambda: "b6" in observer.snapshot().devices)
            seen = observer.snapshot()
    assert seen.aggregator == STATUS
    assert seen.devices == STATES
    assert seen.problem == ""


def test_no_broker_is_said(tmp_path: Path) -> None:
    with Observer(host="127.0.0.1", port=9, fleet="flights") as observer:
        assert "127.0.0.1:9" in observer.snapshot().problem
        assert observer.snapshot().aggregator is None


def shown(
    snapshot: Snapshot, *, private: bool = True, terminal: bool = True, note: str = ""
) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=110, color_system=None)
    with FleetView(console=console, names=NAMES, private=private) as view:
        view.update(snapshot, memory_bytes=123_000_000, note=note)
        view.update(snapshot, memory_bytes=123_000_000, note=note)
    return out.getvalue()


def test_a_terminal_shows_every_device() -> None:
    text = shown(Snapshot(aggregator=STATUS, devices=STATES, problem="no broker"), note="judging")
    for part in ("round 1 of 2", "United", "training", "3.25", "700", "123 MB", "no broker"):
        assert part in text
    for part in ("declined", "over the budget", "starting", "judging"):
        assert part in text
    assert "WITHOUT PRIVACY" not in text


def test_lines_elsewhere_and_not_twice_the_same() -> None:
    text = shown(Snapshot(aggregator=STATUS, devices=STATES), terminal=False)
    lines = text.splitlines()
    assert len(lines) == 1
    assert "1 declined, 1 starting, 1 training" in lines[0]
    assert "700 synthetic rows accepted" in lines[0]
    assert "starting" in shown(Snapshot(), terminal=False)


@pytest.mark.parametrize("terminal", [True, False])
def test_without_privacy_is_always_said(terminal: bool) -> None:
    states = {"ua": DeviceState(device="ua", status="idle", private=False)}
    text = shown(Snapshot(aggregator=STATUS, devices=states), private=False, terminal=terminal)
    assert "WITHOUT PRIVACY" in text


def test_phases_are_described() -> None:
    assert describe(None) == "starting"
    assert describe(AggregatorStatus(phase="done")) == "done"
    assert "census" in describe(AggregatorStatus(phase="census"))
