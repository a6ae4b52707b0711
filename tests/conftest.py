"""Options of the whole suite, and its randomness: a test draws tomorrow what it draws today."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# How long examples take says nothing about the code on a busy machine. What was in force before is
# kept: under emulation there are few examples.
settings.register_profile(
    "patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("repeatable", settings.get_profile("patient"), derandomize=True)

_KEY_BYTES = 32


class RepeatableKeys:
    """Keys of `os.urandom` that follow from who asks: a test, or a fixture that outlives it.

    Noise with a key of the system fails every bound once in a while, and the failure does not come
    again. Only keys (32 bytes) are replaced, and only in this process: what a test starts draws
    from the system.
    """

    def __init__(self, urandom: Callable[[int], bytes]) -> None:
        self._urandom = urandom
        self._process = os.getpid()
        self._asking: list[tuple[str, Iterator[int]]] = []

    @contextmanager
    def asked_by(self, name: str) -> Iterator[None]:
        self._asking.append((name, count()))
        try:
            yield
        finally:
            self._asking.pop()

    def __call__(self, size: int) -> bytes:
        if size != _KEY_BYTES or not self._asking:
            return self._urandom(size)
        name, number = self._asking[-1]
        # The child of a fork must not repeat what its parent draws next.
        forked = os.getpid() != self._process
        return hashlib.sha256(f"{name}\0{next(number)}\0{forked}".encode()).digest()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--arm", action="store_true", help="also run emulated boards (make test-arm)")
    parser.addoption("--deb", action="store_true", help="boot Debian 12 and 13 (make test-deb)")
    parser.addoption("--image", action="store_true", help="start the SD image (make test-image)")
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow (CI does)")
    parser.addoption(
        "--fresh",
        action="store_true",
        help="draw noise and examples anew, which looks further and may fail by bad luck",
    )


_keys = RepeatableKeys(os.urandom)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--fresh"):
        settings.load_profile("patient")
    else:
        settings.load_profile("repeatable")
        os.urandom = _keys


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    with _keys.asked_by(item.nodeid):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Iterator[None]:
    if fixturedef.scope == "function":
        return (yield)
    # Whichever test comes first, what all share is the same.
    which = getattr(request, "param_index", 0)  # a SubRequest's only
    with _keys.asked_by(f"{fixturedef.baseid}::{fixturedef.argname}::{which}"):
        return (yield)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow: run with --slow, as CI does")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)
