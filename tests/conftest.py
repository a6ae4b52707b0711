"""Options of the whole suite."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# How long examples take says nothing about the code on a busy machine. What was in force before is
# kept: under emulation there are few examples.
settings.register_profile(
    "patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--arm", action="store_true", help="also run emulated boards (make test-arm)")
    parser.addoption("--deb", action="store_true", help="boot Debian 12 and 13 (make test-deb)")
    parser.addoption("--image", action="store_true", help="start the SD image (make test-image)")
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow (CI does)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow: run with --slow, as CI does")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)
