"""The link over real brokers, which are killed, restarted and impersonated."""

from __future__ import annotations

import logging
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, LinkError, RangeError
from edge_runtime.fleet.broker import Broker, find_broker, free_port
from edge_runtime.messages import Link
from edge_runtime.messages.subscriptions import Subscriptions

Until = Callable[[Callable[[], bool]], None]


class Inbox:
    """Everything a link delivered, by topic."""

    def __init__(self) -> None:
        self.all: list[tuple[str, bytes, bool]] = []

    def __call__(self, topic: str, payload: bytes, retained: bool) -> None:
        self.all.append((topic, payload, retained))

    def payloads(self, topic: str) -> list[bytes]:
        return [p for t, p, _ in self.all if t == topic]


def make_link(broker: Broker, client_id: str, **options: object) -> Link:
    options = {"retry_min_s": 0.05, "retry_max_s": 0.2, "keepalive_s": 5} | options
    return Link(host=broker.host, port=broker.port, client_id=client_id, **options)  # type: ignore[arg-type]


def stop(broker: Broker, until: Until) -> None:
    """Stop a broker and wait until every thread of it stands still: the signal only asks."""
    broker.process.send_signal(signal.SIGSTOP)
    tasks = Path("/proc", str(broker.process.pid), "task")
    until(
        lambda: all(
            # the state follows the name, which stands in brackets
            task.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "T"
            for task in tasks.iterdir()
        )
    )


def test_messages_arrive_in_order_and_the_handle_confirms(broker: Broker, until: Until) -> None:
    inbox = Inbox()
    with (
        make_link(broker, "reader", topics=["t/+"], on_message=inbox) as reader,
        make_link(broker, "writer") as writer,
    ):
        reader.wait_connected(10)
        writer.wait_connected(10)
        assert reader.problem == ""
        handles = [writer.publish("t/a", str(i).encode()) for i in range(200)]
        assert all(handle.wait(10) for handle in handles)
        assert not any(handle.failed for handle in handles)
        until(lambda: len(inbox.all) >= 200)
        assert inbox.payloads("t/a") == [str(i).encode() for i in range(200)]
        assert not any(retained for _, _, retained in inbox.all)


def test_answers_from_the_handler_while_others_publish(broker: Broker, until: Until) -> None:
    """What the aggregator does with its acknowledgements, from the network thread itself."""
    acks = Inbox()
    server = make_link(
        broker, "server", topics=["up"],
        on_message=lambda _topic, payload, _retained: server.publish("down", payload) and None,
    )  # fmt: skip
    with server, make_link(broker, "client", topics=["down"], on_message=acks) as client:
        server.wait_connected(10)
        client.wait_connected(10)

        def publish(thread: int) -> None:
            for i in range(150):
                client.publish("up", f"{thread} {i}".encode())
                server.publish("state", str(i).encode(), retain=True)

        threads = [threading.Thread(target=publish, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        until(lambda: len(acks.all) >= 450)
        assert {p for _, p, _ in acks.all} == {
            f"{n} {i}".encode() for n in range(3) for i in range(150)
        }


def test_large_retained_message_reaches_a_later_subscriber(broker: Broker, until: Until) -> None:
    bundle = np.random.default_rng(1).bytes(6 << 20)
    inbox = Inbox()
    with make_link(broker, "writer") as writer:
        writer.wait_connected(10)
        assert writer.publish("b/1", bundle, retain=True).wait(20)
        # An exact topic and not b/+: nats-server confirms before it has stored, and a subscriber in
        # between needs to ask again.
        with make_link(broker, "reader", topics=["b/1"], on_message=inbox, ask_again_s=0.5):
            until(lambda: bool(inbox.all))
            assert set(inbox.all) == {("b/1", bundle, True)}


def test_subscriptions_come_and_go_and_bring_what_is_retained(broker: Broker, until: Until) -> None:
    inbox = Inbox()
    with (
        make_link(broker, "writer") as writer,
        make_link(broker, "reader", topics=["base"], on_message=inbox) as reader,
    ):
        writer.wait_connected(10)
        reader.wait_connected(10)
        assert writer.publish("more", b"1", retain=True).wait(10)
        reader.subscribe("more")
        until(lambda: len(inbox.all) == 1)
        reader.subscribe("more")  # asks for the retained message again
        until(lambda: len(inbox.all) == 2)
        broker.kill()
        until(lambda: not reader.connected.is_set())
        broker.restart()
        until(lambda: len(inbox.all) >= 3)
        assert set(inbox.payloads("more")) == {b"1"}

        writer.wait_connected(10)
        reader.unsubscribe("more")
        # Over the same connection, so that the broker sees them after the request.
        reader.publish("more", b"2")
        reader.publish("base", b"end")
        until(lambda: bool(inbox.payloads("base")))
        assert b"2" not in inbox.payloads("more")


def test_silent_topics_are_asked_for_again_and_then_left_alone() -> None:
    listening = Subscriptions(["plan", "up/+/state"], ask_again_s=1.0)
    listening.begin(now_s=100.0)
    listening.add("bundle", now_s=100.5)
    assert listening.due(now_s=100.9) == []
    assert listening.due(now_s=101.0) == ["plan"]
    listening.hear("bundle")
    listening.hear("something else")
    assert listening.due(now_s=110.9) == []
    assert listening.due(now_s=111.0) == ["plan"]
    assert listening.due(now_s=999.0) == []
    listening.begin(now_s=1000.0)
    listening.remove("plan")
    listening.remove("never there")
    assert listening.due(now_s=1001.0) == ["bundle"]
    assert listening.topics == ["up/+/state", "bundle"]


def test_a_link_asks_again_on_the_wire(until: Until) -> None:
    subscribes: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"\x20\x02\x00\x00")
                while packet := connection.recv(100):
                    if packet[0] == 0x82:
                        subscribes.append(packet[4:])
                        granted = b"\x01" if len(subscribes) == 1 else b"\x80"
                        connection.sendall(b"\x90\x03" + packet[2:4] + granted)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with Link(
            host="127.0.0.1",
            port=server.getsockname()[1],
            client_id="a",
            topics=["plan"],
            ask_again_s=0.1,
        ) as link:
            link.wait_connected(5)
            until(lambda: len(subscribes) == 3)
        thread.join(5)
    assert subscribes == [b"\x00\x04plan\x01"] * 3


def test_empty_retained_payload_removes_the_message(broker: Broker, until: Until) -> None:
    inbox = Inbox()
    with make_link(broker, "writer") as writer:
        writer.wait_connected(10)
        assert writer.publish("old", b"1", retain=True).wait(10)
        assert writer.publish("old", b"", retain=True).wait(10)
        assert writer.publish("new", b"2", retain=True).wait(10)
        broker.kill()
        until(lambda: not writer.connected.is_set())
        broker.restart()
        writer.wait_connected(20)
        with make_link(broker, "reader", topics=["old", "new"], on_message=inbox):
            until(lambda: bool(inbox.payloads("new")))
            assert inbox.payloads("old") == []


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
            assert time.monotonic() - began < 0.5
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


def test_an_error_in_a_handler_is_logged_without_its_text_and_ends_nothing(
    broker: Broker, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    inbox = Inbox()

    def handle(topic: str, payload: bytes, retained: bool) -> None:
        inbox(topic, payload, retained)
        if payload == b"bug":
            raise ValueError("secret 4711")
        if payload == b"typed":
            raise RangeError("out of range")

    with make_link(broker, "one", topics=["t"], on_message=handle) as link:
        link.wait_connected(10)
        for payload in (b"bug", b"typed", b"fine"):
            link.publish("t", payload)
        until(lambda: b"fine" in inbox.payloads("t"))
    assert "ValueError at" in caplog.text
    assert "out of range" in caplog.text
    assert "4711" not in caplog.text


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
                with connection:
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


def test_an_unusable_client_id_is_refused() -> None:
    for client_id in ("a.b", "", "a/b", "a\n"):
        with pytest.raises(ConfigError, match="client id"):
            Link(host="127.0.0.1", port=1, client_id=client_id)


@pytest.mark.skipif(
    find_broker("mosquitto") is None or shutil.which("openssl") is None,
    reason="needs mosquitto and openssl",
)
def test_password_access_rules_and_tls(
    tmp_path: Path, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    program = find_broker("mosquitto")
    passwords = shutil.which("mosquitto_passwd")
    assert program is not None
    if passwords is None:
        pytest.skip("mosquitto_passwd is not installed")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    subprocess.run([passwords, "-b", "-c", tmp_path / "users", "ada", "secret"], check=True)
    port = free_port()
    (tmp_path / "m.conf").write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous false\nuser root\n"
        f"password_file {tmp_path / 'users'}\n"
        f"certfile {tmp_path / 'cert.pem'}\nkeyfile {tmp_path / 'key.pem'}\n"
    )
    with subprocess.Popen(
        [program, "-c", tmp_path / "m.conf"], stderr=subprocess.DEVNULL
    ) as process:
        try:
            tls = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
            options: dict[str, object] = {
                "host": "localhost", "port": port, "client_id": "a", "tls": tls,
                "retry_min_s": 0.05, "retry_max_s": 0.1, "username": "ada",
            }  # fmt: skip
            with Link(password="secret", **options) as link:  # type: ignore[arg-type]
                link.wait_connected(10)
                assert link.publish("t", b"1").wait(10)
            with Link(password="wrong", **options) as link:  # type: ignore[arg-type]
                until(lambda: "refuses client" in link.problem)
                assert "password" in link.problem
            options["tls"] = ssl.create_default_context()
            with Link(password="secret", **options) as link:  # type: ignore[arg-type]
                until(lambda: "certificate" in link.problem.lower())
        finally:
            process.terminate()
            process.wait(10)
