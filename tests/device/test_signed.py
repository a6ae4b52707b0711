"""A device with a root, over a real broker that lies, replays and reorders."""

from __future__ import annotations

import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from edge_runtime.generator import Bundle
from edge_runtime.messages import DeviceState, Link, encode_plan
from edge_runtime.schema import Schema
from edge_runtime.updates import encode_envelope
from tests.updates.forge import Forge, expire, target


class Fleet:
    """A device, and somebody who has the topics and, in `forge`, the keys."""

    def __init__(self, device: Any, stand_in: Any, forge: Forge) -> None:
        self.device, self.stand_in, self.forge = device, stand_in, forge
        self.signed: dict[str, Any] = {}
        root = device.directory / "root.json"
        root.write_text(forge.first_root)
        device.extra = f'[updates]\nroot = "{root}"\n'

    def say(self, topic: str, payload: bytes) -> None:
        assert self.stand_in.link.publish(topic, payload, retain=True).wait(10)

    def sign(self, **files: bytes) -> bytes:
        """Return metadata about these files and all before; a bundle by its digest's name."""
        for name, data in files.items():
            role = name.partition("_")[0]
            self.signed[name.replace("_", "/")] = target(data, role)
        self.forge.now = max(self.forge.now + 1, time.time())
        assert self.forge.repository.sign(self.signed, now_unix_s=self.forge.now)
        message = self.forge.repository.message
        assert message is not None
        return message

    def wait_state(self, what: str, condition: Any, *, timeout_s: float = 60.0) -> DeviceState:
        def there() -> DeviceState | None:
            state = self.stand_in.state()
            return state if state is not None and condition(state) else None

        wait: Any = self.stand_in.wait
        found: DeviceState = wait(what, there, timeout_s=timeout_s)
        return found

    def stored(self) -> dict[str, Any]:
        """All that a lie could have changed on the device."""
        path = self.device.state_dir / "device.sqlite"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            meta = dict(database.execute("SELECT key, value FROM meta"))
            return {
                "plans": database.execute("SELECT id, status, plan FROM plans").fetchall(),
                "bundles": sorted(p.name for p in (self.device.state_dir / "bundles").iterdir()),
                **{key: meta.get(key) for key in ("schema", "schema.offered", "updates")},
            }


@pytest.fixture
def fleet(device: Any, stand_in: Any, kit: SimpleNamespace, tmp_path: Any) -> Iterator[Fleet]:
    stand_in.wait = kit.wait_for
    made = Fleet(device, stand_in, Forge(tmp_path / "fleet"))
    yield made
    device.end()
    stand_in.link.publish(stand_in.topics.update, b"", retain=True).wait(5)


def test_a_broker_that_lies_replays_and_reorders_changes_nothing(
    fleet: Fleet, kit: SimpleNamespace, schema: Schema, bundle: Bundle
) -> None:
    topics, stand_in = fleet.stand_in.topics, fleet.stand_in
    first = kit.census_plan(schema, epsilon=1.0)
    text = schema.to_json()
    # Unsigned, and before any metadata.
    fleet.say(topics.schema, text)
    fleet.say(topics.plan, encode_plan(first))
    process = fleet.device.start()
    fleet.wait_state("online and waiting", lambda state: state.updates == "waiting")
    # The right metadata at last, after what it is about: everything is let in.
    old = fleet.sign(schema=text, plan=encode_plan(first))
    fleet.say(topics.update, old)
    stand_in.wait_state("idle", plan=first, timeout_s=60)
    fleet.wait_state("nothing refused", lambda s: (s.updates, s.refused) == ("verified", ""))
    data = bundle.to_bytes()
    second = kit.train_plan(bundle, steps=5, epsilon=6.0)
    stand_in.publish_bundle(bundle)
    fleet.say(
        topics.update,
        newest := fleet.sign(plan=encode_plan(second), **{f"bundle_{bundle.digest}": data}),
    )
    fleet.say(topics.plan, encode_plan(second))
    stand_in.wait_state("idle", plan=second, timeout_s=60)
    fleet.wait_state("nothing refused", lambda s: (s.updates, s.refused) == ("verified", ""))
    assert stand_in.state().bundle == bundle.digest
    before = fleet.stored()

    forged = kit.train_plan(bundle, steps=7, epsilon=6.5)
    foreign = Forge(fleet.device.directory / "foreign")
    foreign.now = fleet.forge.now + 100
    other_schema = kit.make_schema("another")
    frozen = fleet.forge.sign_anew(
        fleet.forge.publish(plan=encode_plan(forged)), "timestamp", expire
    )
    mixed = msgspec.structs.replace(
        fleet.forge.publish(plan=encode_plan(first)), targets=frozen.targets
    )
    lies = (
        (topics.plan, encode_plan(forged), "plan: SignatureError"),
        (topics.plan, encode_plan(first), "plan: S"),  # replayed: was signed once
        (topics.schema, other_schema.to_json(), "schema: S"),
        (topics.update, old, "metadata: RollbackError"),
        (topics.update, encode_envelope(foreign.publish(plan=encode_plan(forged))),
         "metadata: SignatureError"),
        (topics.update, encode_envelope(frozen), "metadata: ExpiredError"),
        (topics.update, encode_envelope(mixed), "metadata: MixError"),
        (topics.update, b"{" * 1000, "metadata: MessageError"),
        (topics.update, b" " * (1 << 20), "metadata: SizeError"),
    )  # fmt: skip
    for topic, payload, words in lies:
        fleet.say(topic, payload)
        fleet.wait_state(words, lambda state, words=words: words in state.refused)
        assert fleet.stored() == before, words
    # Whole again: the refusals end.
    fleet.say(topics.update, newest)
    fleet.say(topics.schema, text)
    fleet.say(topics.plan, encode_plan(second))
    fleet.wait_state("nothing refused", lambda s: (s.updates, s.refused) == ("verified", ""))
    assert fleet.stored() == before
    # Verification is not the agent's own: it is not the larger by it.
    assert "cryptography" not in Path(f"/proc/{process.pid}/maps").read_text()
    log = fleet.device.log.read_text()
    assert "Traceback" not in log
    assert log.count("refused: metadata: RollbackError") == 1
    left = {path.name for path in fleet.device.state_dir.iterdir()}
    assert "updates.part" not in left


def test_keys_rotate_while_the_device_is_away_and_old_ones_are_refused(
    fleet: Fleet, kit: SimpleNamespace, schema: Schema
) -> None:
    topics, stand_in = fleet.stand_in.topics, fleet.stand_in
    text = schema.to_json()
    first = kit.census_plan(schema, epsilon=1.0)
    stolen = fleet.sign(schema=text, plan=encode_plan(first))
    for topic, payload in (
        (topics.update, stolen), (topics.schema, text), (topics.plan, encode_plan(first)),
    ):  # fmt: skip
        fleet.say(topic, payload)
    process = fleet.device.start()
    stand_in.wait_state("idle", plan=first, timeout_s=60)
    process.kill()
    process.wait()
    for root_too in (True, False, True):
        fleet.forge.rotate(root_too=root_too)
        fleet.sign()
    second = kit.census_plan(schema, epsilon=2.0)
    fleet.say(topics.update, fleet.sign(plan=encode_plan(second)))
    fleet.say(topics.plan, encode_plan(second))
    fleet.device.start()
    stand_in.wait_state("idle", plan=second, timeout_s=60)
    kept = msgspec.json.decode(fleet.stored()["updates"])
    assert kept["trusted"]["root"] == 4
    fleet.say(topics.update, stolen)
    fleet.wait_state("a refusal", lambda state: "metadata: " in state.refused)
    assert msgspec.json.decode(fleet.stored()["updates"]) == kept


def test_what_is_too_large_is_not_even_read() -> None:
    """A broker that announces a packet of 200 MB loses the connection before it sends it."""
    server = socket.create_server(("127.0.0.1", 0))
    received: list[int] = []

    def lie() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(1024)
            connection.sendall(b"\x20\x02\x00\x00")  # CONNACK
            connection.recv(1024)
            # PUBLISH, remaining length 200,000,000, and the beginning of it.
            connection.sendall(b"\x30\x80\x84\xaf\x5f" + b"\x00\x01a" + b"x" * 1000)
            connection.settimeout(30)
            try:
                while connection.recv(1024):
                    pass
            except OSError:
                pass
            received.append(1)

    thread = threading.Thread(target=lie)
    thread.start()
    link = Link(
        host="127.0.0.1", port=server.getsockname()[1], client_id="one", topics=["a"],
        packet_bytes=4 << 20, retry_min_s=30.0,
    )  # fmt: skip
    with link:
        thread.join(30)
        assert received == [1]
        deadline = time.monotonic() + 30
        while "200000000" not in link.problem and time.monotonic() < deadline:
            threading.Event().wait(0.01)
        assert "announces a packet of 200000000 bytes; at most 4194304 are accepted" in link.problem
    server.close()
