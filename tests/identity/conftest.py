"""A fleet with its broker, for one test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.fleet.broker import find_broker
from tests.identity.site import Site
from tests.identity.wards import Wards


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    if find_broker("mosquitto") is None:
        (pytest.fail if "CI" in os.environ else pytest.skip)("mosquitto is not installed")
    made = Site(tmp_path / "a fleet")  # a space: the broker's configuration must carry it
    yield made
    made.close()


@pytest.fixture
def wards(tmp_path: Path) -> Iterator[Wards]:
    if find_broker("mosquitto") is None:
        (pytest.fail if "CI" in os.environ else pytest.skip)("mosquitto is not installed")
    made = Wards(tmp_path)
    yield made
    made.close()
