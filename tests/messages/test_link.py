"""The link over real brokers: delivery, subscriptions, handlers, access."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.errors import ConfigError, RangeError
from edge_runtime.fleet.broker import Broker, find_broker, free_port
from edge_runtime.messages import Link
from edge_runtime.messages.subscriptions import Subscriptions
from tests.messages.links import Inbox, Until, make_link


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


def test_an_unusable_client_id_is_refused() -> None:
    for client_id in ("a.b", "", "a/b", "a\n"):
        with pytest.raises(ConfigError, match="client id"):
            Link(host="127.0.0.1", port=1, client_id=client_id)


@pytest.mark.skipif(
    "CI" not in os.environ and (find_broker("mosquitto") is None or not shutil.which("openssl")),
    reason="needs mosquitto and openssl",
)
def test_password_access_rules_and_tls(
    tmp_path: Path, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    program = find_broker("mosquitto")
    passwords = shutil.which("mosquitto_passwd")
    assert program is not None
    assert passwords is not None, "mosquitto_passwd comes with mosquitto"
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
