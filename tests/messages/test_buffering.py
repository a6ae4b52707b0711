"""Many packets with one call: none is lost, changed or moved, whatever pieces they travel in."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable

import pytest

from edge_runtime.fleet.broker import Broker
from edge_runtime.messages import Link
from tools.load import mqtt

from .links import Inbox, make_link

Until = Callable[[Callable[[], bool]], None]


def _payloads(count: int) -> list[bytes]:
    rng = random.Random(7)
    sizes = [rng.choice((0, 1, 100, 9_000, 140_000)) for _ in range(count)]
    return [number.to_bytes(4, "big") + rng.randbytes(size) for number, size in enumerate(sizes)]


class Wire:
    """A broker's end of one connection: grants what is asked for and notes what is confirmed."""

    def __init__(self, *, window_bytes: int | None = None) -> None:
        self.published: list[bytes] = []
        self.confirmed: list[int] = []
        self.server = socket.create_server(("127.0.0.1", 0))
        if window_bytes is not None:
            self.server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window_bytes)
        self.reading = threading.Event()
        self.reading.set()
        self.subscribed = threading.Event()
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def close(self) -> None:
        self._thread.join(10)
        self.server.close()

    def _serve(self) -> None:
        packets = mqtt.Packets()
        self._connection, _ = self.server.accept()
        with self._connection as connection:
            while data := connection.recv(5_000):
                for kind, flags, body in packets.feed(data):
                    if kind == 1:
                        connection.sendall(b"\x20\x02\x00\x00")
                    elif kind == 8:
                        connection.sendall(b"\x90\x03" + body[:2] + b"\x01")
                        self.subscribed.set()
                    elif kind == mqtt.PUBACK:
                        self.confirmed.append(int.from_bytes(body, "big"))
                    elif kind == mqtt.PUBLISH:
                        number, payload = mqtt.split_publish(flags, body)
                        self.published.append(payload)
                        if number:
                            connection.sendall(mqtt.puback(number))
                    elif kind == 14:
                        self.ended.set()
                self.reading.wait(30)


def _link(wire: Wire, on_message: Callable[[str, bytes, bool], None]) -> Link:
    port = wire.server.getsockname()[1]
    return Link(host="127.0.0.1", port=port, client_id="a", topics=["t"], on_message=on_message)


@pytest.mark.parametrize("piece", [1_000, 1 << 20])
def test_all_that_came_together_is_handled_and_confirmed_in_order(piece: int, until: Until) -> None:
    payloads, found, wire = _payloads(200), Inbox(), Wire()
    stream = b"".join(mqtt.publish(n + 1, "t", payload) for n, payload in enumerate(payloads))
    with _link(wire, found) as link:
        link.wait_connected(10)
        for at in range(0, len(stream), piece):
            wire.send(stream[at : at + piece])
        # Nothing comes behind them that could push the last one through.
        until(lambda: len(wire.confirmed) == len(payloads))
    wire.close()
    assert found.payloads("t") == payloads
    assert wire.confirmed == [n + 1 for n in range(len(payloads))]


def test_all_that_waits_is_written_in_order_also_to_who_reads_slowly(until: Until) -> None:
    """And before the goodbye, behind which paho hangs up."""
    payloads, wire = _payloads(300), Wire(window_bytes=4_096)
    with _link(wire, Inbox()) as link:
        link.wait_connected(10)
        wire.reading.clear()
        for payload in payloads:
            link.answer("u", payload)
        last = link.publish("u", b"last")
        assert not last.confirmed
        wire.reading.set()
        until(lambda: last.confirmed)
        link.answer("u", b"goodbye")
    until(wire.ended.is_set)
    wire.close()
    assert wire.published == [*payloads, b"last", b"goodbye"]


def test_a_handler_that_waits_does_not_cost_the_connection(
    monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    """What is read ahead is confirmed meanwhile, and not only when all of it is handled."""
    monkeypatch.setattr("edge_runtime.messages.buffering._TURN_S", 0.0)
    wire, seen = Wire(), []

    def handle(_topic: str, payload: bytes, _retained: bool) -> None:
        if payload == b"last":
            until(lambda: wire.confirmed == [1])
        seen.append(payload)

    with _link(wire, handle) as link:
        link.wait_connected(10)
        wire.send(mqtt.publish(1, "t", b"first") + mqtt.publish(2, "t", b"last"))
        until(lambda: wire.confirmed == [1, 2])
    wire.close()
    assert seen == [b"first", b"last"]


def test_an_answer_reaches_who_is_there_and_nobody_else(broker: Broker, until: Until) -> None:
    found = Inbox()
    with make_link(broker, "aggregator") as link:
        link.wait_connected(10)
        link.answer("down/a/ack", b"nobody listens")
        # Confirmed after what was sent before it: nobody who comes now is handed that.
        assert link.publish("down/a/other", b"").wait(10)
        with make_link(broker, "device", topics=["down/a/ack"], on_message=found) as device:
            device.wait_connected(10)
            link.answer("down/a/ack", b"stored")
            until(lambda: found.payloads("down/a/ack") == [b"stored"])
    link.answer("down/a/ack", b"without a connection")
