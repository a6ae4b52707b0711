"""The aggregator's other process: what it hands over, and how each ends with the other."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.errors import AggregatorError, ConfigError
from edge_runtime.fleet.broker import Broker, start_broker
from edge_runtime.messages import Ack, DeviceState, Link, Topics, encode_state
from edge_runtime.process.tls import TlsFiles
from edge_runtime.reception import Delivery, Parcel, Reception, ReceptionSettings
from edge_runtime.reception import receiver as receiver_module
from edge_runtime.reception.channel import Channel, ClosedError
from edge_runtime.reception.frames import Close, Collect, Start, decode, encode
from edge_runtime.reception.receiver import Receiver
from tests.aggregator.conftest import make_schema, write_config
from tests.aggregator.live import AggregatorProcess, wait_for
from tests.messages.samples import some_batch

FLEET = "f"
TOPICS = Topics(FLEET)


def _settings(port: int, **changes: object) -> ReceptionSettings:
    fields = {"fleet": FLEET, "host": "127.0.0.1", "port": port, "client_id": "aggregator-f"}
    return ReceptionSettings(**fields | {"will": b"gone"} | changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with start_broker(tmp_path_factory.mktemp("broker")) as running:
        yield running


class Listener:
    """Somebody at the broker, who sees what is published and can publish himself."""

    def __init__(self, broker: Broker) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.link = Link(
            host="127.0.0.1",
            port=broker.port,
            client_id="listener",
            topics=[TOPICS.status, TOPICS.plan, TOPICS.ack("a")],
            on_message=lambda topic, payload, _: self.heard.append((topic, payload)),
        ).start()
        self.link.wait_connected(20)

    def close(self) -> None:
        for topic in (TOPICS.status, TOPICS.plan):
            assert self.link.publish(topic, b"", retain=True).wait(20)
        self.link.close()


@pytest.fixture
def listener(broker: Broker) -> Iterator[Listener]:
    somebody = Listener(broker)
    yield somebody
    somebody.close()


def _pair() -> tuple[Channel, Channel]:
    one, other = socket.socketpair()
    return Channel(one), Channel(other)


def _alive(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _reception_of(aggregator: AggregatorProcess) -> int:
    pid = aggregator.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children")
    wait_for(lambda: children.read_text().split(), "no second process")
    return int(children.read_text().split()[0])


def test_it_hands_over_what_arrives_and_says_what_it_is_told(
    broker: Broker, listener: Listener
) -> None:
    reception = Reception(_settings(broker.port))
    try:
        reception.check()
        reception.publish(TOPICS.plan, b"a plan")
        reception.start()
        wait_for(lambda: (TOPICS.plan, b"a plan") in listener.heard, "not published")
        state = DeviceState(device="x", status="idle")
        sent = {TOPICS.batch("a"): some_batch(), TOPICS.summary("a"): b"no summary",
                TOPICS.state("a"): encode_state(state)}  # fmt: skip
        for topic, payload in sent.items():
            assert listener.link.publish(topic, payload).wait(20)
        parcels: list[Parcel] = []
        states: dict[str, DeviceState] = {}
        while len(parcels) < 2 or not states:
            reception.collect(1)
            delivery = reception.receive()
            assert len(delivery.parcels) <= 1
            parcels += delivery.parcels
            states |= delivery.states
        assert states == {"a": state}
        batch, summary = sorted(parcels, key=lambda one: one.kind)
        assert batch.payload == some_batch()
        assert batch.header is not None
        assert batch.problem == ""
        assert batch.rows is not None
        codes = batch.rows.codes(cardinalities=(3, 300), names=("a", "b"))
        assert codes.tolist() == [[0, 299], [2, 0], [1, 256]]
        assert summary.header is None
        assert summary.problem
        ack = Ack(id=batch.header.id, sequence=7, sha256=batch.sha256, status="accepted")
        reception.answer([batch], [ack])
        wait_for(lambda: any(topic == TOPICS.ack("a") for topic, _ in listener.heard), "no answer")
    finally:
        reception.close(farewell=b"farewell")
    wait_for(lambda: (TOPICS.status, b"farewell") in listener.heard, "no farewell")
    assert not _alive(reception.pid)


def test_settings_that_cannot_be_used_are_named_by_the_aggregator(tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    tls = TlsFiles(ca=missing, certificate=missing, key=missing)
    reception = Reception(_settings(1, tls=tls))
    try:
        with pytest.raises(ConfigError, match=r"missing\.pem"):
            reception.check()
    finally:
        reception.close()
    assert not _alive(reception.pid)


def test_when_it_is_killed_whoever_uses_it_is_told(broker: Broker, listener: Listener) -> None:
    reception = Reception(_settings(broker.port))
    try:
        reception.check()
        reception.start()
        os.kill(reception.pid, signal.SIGKILL)
        with pytest.raises(AggregatorError, match="SIGKILL"):
            reception.receive()
        with pytest.raises(AggregatorError, match="SIGKILL"):
            reception.publish(TOPICS.plan, b"")
    finally:
        reception.close()


@pytest.fixture
def aggregator(tmp_path: Path, broker: Broker, listener: Listener) -> Iterator[AggregatorProcess]:
    """The real one, connected."""
    sections = {"broker": {"port": broker.port}, "fleet": {"name": FLEET}}
    running = AggregatorProcess(write_config(tmp_path, make_schema(), **sections))
    try:
        wait_for(lambda: listener.heard, running.text())
        yield running
    finally:
        running.kill()


def test_the_aggregator_ends_with_it_and_says_why(aggregator: AggregatorProcess) -> None:
    os.kill(_reception_of(aggregator), signal.SIGKILL)
    assert aggregator.process.wait(30) == AggregatorError.exit_code
    assert "the process that receives messages was ended by SIGKILL" in aggregator.text()


def test_it_ends_with_a_killed_aggregator_and_the_broker_publishes_the_will(
    aggregator: AggregatorProcess, listener: Listener
) -> None:
    reception = _reception_of(aggregator)
    aggregator.kill()
    wait_for(lambda: not _alive(reception), "it lives on")
    wait_for(lambda: b'"phase":"offline"' in listener.heard[-1][1], "no will")


def test_a_signal_to_both_ends_them_in_order(
    aggregator: AggregatorProcess, listener: Listener
) -> None:
    """As Ctrl-C and systemd send it: to all processes of the terminal or of the service."""
    reception = _reception_of(aggregator)
    for pid in (reception, aggregator.process.pid):
        os.kill(pid, signal.SIGTERM)
    assert aggregator.process.wait(30) == 0
    assert not _alive(reception)
    wait_for(lambda: b'"phase":"offline"' in listener.heard[-1][1], "no farewell")
    assert "Traceback" not in aggregator.text()


def test_little_that_becomes_much_is_handed_over_in_parts(
    broker: Broker, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver_module, "_MOST_BYTES", 1)
    mine, its = _pair()
    receiver = Receiver(_settings(broker.port, client_id="in-parts"), its)
    serving = threading.Thread(target=receiver.serve)
    serving.start()
    try:
        mine.send(encode(Start()))
        found: list[int] = []
        while sum(found) < 3:
            # Again each time: it may not have subscribed yet.
            for _ in range(3):
                assert listener.link.publish(TOPICS.batch("a"), some_batch()).wait(20)
            mine.send(encode(Collect(most=256)))
            delivery = decode(mine.receive(), Delivery)
            found += [len(delivery.parcels)] if delivery.parcels else []
        assert set(found) == {1}
    finally:
        mine.send(encode(Close(None)))
        serving.join(30)
    assert not serving.is_alive()
    mine.close()


def test_frames_of_any_size_arrive_whole_and_in_order_in_both_directions() -> None:
    one, other = _pair()
    frames = [b"", b"x", bytes(range(256)) * 40_000, b"last"]

    def echo() -> None:
        for _ in frames:
            other.send(bytes(other.receive()))

    thread = threading.Thread(target=echo)
    thread.start()
    for frame in frames:
        one.send(frame)
        assert one.receive() == frame
    thread.join(30)
    one.close()
    with pytest.raises(ClosedError):
        other.receive()
    with pytest.raises(ClosedError):
        other.send(bytes(1 << 20))
    other.close()
    with pytest.raises(ClosedError):
        one.receive()


def test_nobody_starts_it_by_mistake() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edge_runtime.reception"], capture_output=True, check=False
    )
    assert done.returncode == 2
    assert b"aggregator" in done.stderr
