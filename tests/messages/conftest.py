"""Real brokers, and bounded waiting."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_runtime.fleet.broker import BROKERS, Broker, find_broker, start_broker


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    """Each broker that is installed."""
    if find_broker(request.param) is None:
        (pytest.fail if "CI" in os.environ else pytest.skip)(f"{request.param} is not installed")
    with start_broker(tmp_path / "broker", name=request.param) as running:
        yield running


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Wait for a condition, at most `timeout_s`."""

    def wait(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true in time"
            time.sleep(0.005)

    return wait
