"""The link over brokers that are killed, stopped, missing or impersonated."""

from __future__ import annotations

import contextlib
import logging
import shutil
import socket
import threading
import time
from collections.abc import Callable

import pytest

from edge_runtime.errors import LinkError
from edge_runtime.fleet.broker import Broker, free_port
from edge_runtime.messages import Link
from tests.messages.links import Inbox, Until, make_link, stop


def test_link_survives_a_killed_broker(broker: Broker, until: Until) -> None:
    inbox = Inbox()
    connects: list[float] = []
    with (
        make_link(
            broker,
            "reader",
            topics=["t"],
            on_message=inbox,
            on_connect=lambda: connects.append(time.monotonic()),
        ) as reader,
        make_link(broker, "writer") as writer,
    ):
        reader.wait_connected(10)
        writer.wait_connected(10)
        for kill in range(2):
            broker.kill()
            until(lambda: not reader.connected.is_set() and not writer.connected.is_set())
            assert str(broker.port) in writer.problem

            began = time.monotonic()
            lost = writer.publish("t", b"nobody hears this")
            kept = writer.publish("state", f"while away {kill}".encode(), retain=True)
            assert time.monotonic() - began < 3
            assert lost.failed
            assert not lost.wait(5)
            assert not kept.failed
            assert not kept.confirmed

            broker.restart()
            reader.wait_connected(20)
            writer.wait_connected(20)
            assert kept.wait(10)
            sent = f"back {kill}".encode()
            assert writer.publish("t", sent).wait(10)
            until(lambda sent=sent: sent in inbox.payloads("t"))  # type: ignore[misc]
        assert len(connects) == 3


def test_retained_messages_come_back_after_the_broker_lost_its_disk(
    broker: Broker, until: Until
) -> None:
    inbox = Inbox()
    with make_link(broker, "writer") as writer:
        writer.wait_connected(10)
        assert writer.publish("plan", b"1", retain=True).wait(10)
        assert writer.publish("plan", b"2", retain=True).wait(10)
        broker.kill()
        for left in broker.log.parent.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
            elif left.suffix == ".db":
                left.unlink()
        until(lambda: not writer.connected.is_set())
        broker.restart()
        with make_link(broker, "reader", topics=["plan"], on_message=inbox):
            until(lambda: bool(inbox.all))
            assert set(inbox.payloads("plan")) == {b"2"}


def test_what_was_in_flight_at_a_kill_never_overtakes_a_newer_state(
    broker: Broker, until: Until
) -> None:
    inbox = Inbox()
    with make_link(broker, "writer") as writer:
        writer.wait_connected(10)
        stop(broker, until)  # it takes bytes but confirms nothing
        old = writer.publish("state", b"old", retain=True)
        pending = writer.publish("t", b"unconfirmed")
        assert not old.wait(0.2)
        broker.kill()
        until(lambda: not writer.connected.is_set())
        assert pending.failed
        new = writer.publish("state", b"new", retain=True)
        assert old.failed
        broker.restart()
        assert new.wait(20)
        with make_link(broker, "reader", topics=["state"], on_message=inbox):
            until(lambda: bool(inbox.all))
            assert set(inbox.payloads("state")) == {b"new"}


def test_the_will_speaks_for_a_lost_client_only(broker: Broker, until: Until) -> None:
    inbox = Inbox()
    with make_link(broker, "reader", topics=["s/+"], on_message=inbox) as reader:
        reader.wait_connected(10)

        clean = make_link(broker, "clean", will=("s/clean", b"offline")).start()
        clean.wait_connected(10)
        clean.close(farewell=b"stopped")
        clean.close()
        until(lambda: bool(inbox.payloads("s/clean")))

        lost = make_link(broker, "lost", will=("s/lost", b"offline")).start()
        lost.wait_connected(10)
        current = lost._current
        assert current is not None
        lost._closing.set()  # so that it stays away
        current.socket().shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
        until(lambda: bool(inbox.payloads("s/lost")))

        polite = make_link(broker, "polite", will=("s/polite", b"offline")).start()
        polite.wait_connected(10)
        polite.close()
        until(lambda: bool(inbox.payloads("s/polite")))
        assert inbox.payloads("s/clean") == [b"stopped"]
        assert inbox.payloads("s/lost") == [b"offline"]
        assert inbox.payloads("s/polite") == [b"offline"]


def test_a_broker_that_is_not_there_is_named_and_reported_once(
    caplog: pytest.LogCaptureFixture, until: Until
) -> None:
    port = free_port()
    link = Link(
        host="127.0.0.1", port=port, client_id="a", will=("s", b"x"), retry_min_s=0.01,
        retry_max_s=0.02,
    )  # fmt: skip
    with caplog.at_level(logging.DEBUG, logger="edge_runtime.messages.link"):
        link.start()
        until(lambda: link.problem)
        with pytest.raises(LinkError, match=rf"127\.0\.0\.1:{port}.*refused.*start one"):
            link.wait_connected(0.3)
        until(lambda: len([r for r in caplog.records if "no broker" in r.message]) > 3)
    assert [r.levelno for r in caplog.records].count(logging.WARNING) == 1
    began = time.monotonic()
    link.close()
    assert time.monotonic() - began < 2
    assert not link._thread.is_alive()


def test_something_that_is_no_broker_is_given_up_and_tried_again(until: Until) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    accepted.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        with Link(
            host="127.0.0.1",
            port=server.getsockname()[1],
            client_id="a",
            connect_timeout_s=0.1,
            retry_min_s=0.01,
            retry_max_s=0.01,
        ) as link:
            until(lambda: len(accepted) >= 2)
            assert "does not answer as an MQTT broker" in link.problem
        assert not link._thread.is_alive()
        server.shutdown(socket.SHUT_RDWR)
        for connection in accepted:
            connection.close()
        thread.join(5)


def test_a_damaged_answer_ends_the_connection_not_the_link(until: Until) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        answers = [b"\x20\x02\x00\x05", b"\xf0\x00", b"\x90\x01\x00"]
        served: list[bytes] = []

        def serve() -> None:
            for answer in answers:
                connection, _ = server.accept()
                # The link may leave with a reset, as it does not read to the end.
                with connection, contextlib.suppress(ConnectionResetError):
                    connection.recv(100)
                    connection.sendall(answer)
                    served.append(answer)
                    while connection.recv(100):
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        problems = set()
        with Link(
            host="127.0.0.1",
            port=server.getsockname()[1],
            client_id="a",
            connect_timeout_s=0.5,
            retry_min_s=0.01,
            retry_max_s=0.01,
        ) as link:

            def all_served() -> bool:
                problems.add(link.problem)
                return len(served) == len(answers)

            until(all_served)
        assert any("refuses client 'a'" in p and "password" in p for p in problems)
        assert not link._thread.is_alive()
        thread.join(5)


def test_two_clients_of_one_id_do_not_spin(broker: Broker) -> None:
    counts = [0, 0]

    def count(which: int) -> Callable[[], None]:
        def add() -> None:
            counts[which] += 1

        return add

    with (
        make_link(broker, "same", on_connect=count(0), retry_min_s=0.1, retry_max_s=5.0),
        make_link(broker, "same", on_connect=count(1), retry_min_s=0.1, retry_max_s=5.0),
    ):
        deadline = time.monotonic() + 1.2
        while time.monotonic() < deadline:
            time.sleep(0.05)
    assert 2 <= sum(counts) <= 12
