"""The datagrams that systemd gets, on real sockets."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.process import Notifier, Pulse


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.settimeout(5.0)
        if request.param == "path":
            name = str(tmp_path / "notify")
            made.bind(name)
        else:
            name = f"@edge-runtime-{os.getpid()}-{id(made)}"
            made.bind(f"\0{name[1:]}")
        yield name, made


def test_each_message_is_one_datagram(listener: tuple[str, socket.socket]) -> None:
    name, received = listener
    notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "10000000"})
    notifier.ready()
    notifier.status("waiting\nfor a plan")
    notifier.status("waiting for a plan")
    notifier.feed()
    notifier.feed()  # not due again before five seconds
    notifier.stopping()
    assert [received.recv(4096) for _ in range(4)] == [
        b"READY=1",
        b"STATUS=waiting for a plan",
        b"WATCHDOG=1",
        b"STOPPING=1",
    ]
    received.setblocking(False)
    with pytest.raises(BlockingIOError):
        received.recv(4096)
    notifier.close()
    notifier.ready()  # says nothing any more, and harms nobody


def test_what_is_said_once_waits_for_room(listener: tuple[str, socket.socket]) -> None:
    name, received = listener
    notifier = Notifier({"NOTIFY_SOCKET": name})
    for number in range(5000):  # more than a queue holds
        notifier.status(str(number))
    speaker = threading.Thread(target=notifier.stopping)
    speaker.start()
    heard = []
    while not heard or heard[-1] != b"STOPPING=1":
        heard.append(received.recv(4096))
    speaker.join()
    assert len(heard) < 5000
    notifier.close()


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_twice_in_its_time(
    given: dict[str, str], seconds: float | None, tmp_path: Path
) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody"), **given})
    assert notifier.watchdog_s == seconds
    notifier.feed()  # nobody listens there: no error
    notifier.close()


def test_without_systemd_nothing_is_said() -> None:
    notifier = Notifier({"WATCHDOG_USEC": "30000000"})
    notifier.ready()
    notifier.feed()
    assert notifier.watchdog_s is None


def test_a_pulse_is_silent_only_while_there_is_work() -> None:
    pulse = Pulse()
    assert pulse.silent_s == 0.0
    pulse.beat()
    first = pulse.silent_s
    assert 0.0 <= first <= pulse.silent_s
    pulse.rest()
    assert pulse.silent_s == 0.0
