"""A broker that replays, reorders, misdirects, alters and retains changes nothing in the pool.

The liar reads every topic and publishes on any, in any order, with any flag: all that a broker can
do to messages that it does not make up itself. What it makes up is in docs/security.md.
"""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.aggregator import status
from edge_runtime.aggregator.catalogue import Catalogue
from edge_runtime.fleet.broker import start_broker
from edge_runtime.messages import Link, Topics, decode_ack

from .conftest import FLEET, Device, make_schema, make_table, write_config
from .live import AggregatorProcess, LiveDevice, wait_for


class Liar:
    """Hears everything; keeps what devices have sent."""

    def __init__(self, port: int) -> None:
        self.sent: list[tuple[str, str, bytes]] = []
        self.acks: list[tuple[str, str, str]] = []
        self.topics = Topics(FLEET)
        self.lying = False
        self.link = Link(
            host="127.0.0.1", port=port, client_id="liar", topics=[f"er/v1/{FLEET}/#"],
            on_message=self._hear,
        ).start()  # fmt: skip
        self.link.wait_connected(20)

    def _hear(self, topic: str, payload: bytes, _retained: bool) -> None:
        address = self.topics.parse(topic)
        if address.kind == "ack":
            ack = decode_ack(payload)
            self.acks.append((address.device, ack.sha256, ack.status))
        elif address.kind in ("batch", "summary") and not self.lying:
            self.sent.append((address.device, address.kind, payload))

    def send(self, device: str, kind: str, payload: bytes, *, retain: bool = False) -> None:
        topic = getattr(self.topics, kind)(device)
        assert self.link.publish(topic, payload, retain=retain).wait(20)

    def hears(self, device: str, payload: bytes, among: set[str]) -> str:
        """Wait for the answer to a message; return what it says."""
        sha256 = hashlib.sha256(payload).hexdigest()

        def answer() -> str:
            found = [s for d, h, s in self.acks if (d, h) == (device, sha256)]
            return next((s for s in reversed(found) if s in among), "")

        return wait_for(answer, f"no answer among {among} for {device}: {self.acks[-5:]}")


def pool_of(data: Path) -> dict[str, Any]:
    """Everything that counts: what was accepted, and the bytes of its files."""
    catalogue = Catalogue(f"sqlite:///{data / 'catalogue.sqlite'}", create=False)
    accepted = [
        record
        for kind in ("batch", "anchor", "census")
        for record in catalogue.messages(kind=kind)
        if record.status == "accepted"
    ]
    catalogue.close()
    kept = [*(data / "pool").rglob("*"), *(data / "summaries").rglob("*")]
    return {
        "records": sorted(accepted),
        "files": {str(path): path.read_bytes() for path in kept if path.is_file()},
    }


@pytest.fixture
def reported() -> random.Random:
    return random.Random(20261126)


def test_it_changes_nothing_in_the_pool(tmp_path: Path, reported: random.Random) -> None:
    data = tmp_path / "data"
    schema = make_schema()
    devices: list[LiveDevice] = []
    with start_broker(tmp_path / "broker") as broker:
        config = write_config(
            tmp_path, schema, broker={"port": broker.port}, rounds={"count": 1},
            release={"on_finish": False},
        )  # fmt: skip
        process = AggregatorProcess(config)
        liar = Liar(broker.port)
        try:
            for number, name in enumerate("ab"):
                device = Device(name, make_table(schema, 1500, seed=number, origin=number), schema)
                device.epsilon = 0.1
                devices.append(LiveDevice(device, broker.port, seed=100 * number))
            wait_for(
                lambda: devices[0].statuses and devices[0].statuses[-1].phase == "done",
                f"never done: {process.text()}",
            )
            before = pool_of(data)
            assert len(before["records"]) == 2 * (1 + 1 + 3)
            originals = list({payload: (d, k, payload) for d, k, payload in liar.sent}.values())
            liar.lying = True

            # Replayed, backwards and twice.
            for device, kind, payload in [*reversed(originals)] * 2:
                liar.send(device, kind, payload)
                assert liar.hears(device, payload, {"duplicate"})
            for device, kind, payload in originals:
                # Under another device's name, and under that of one that never was.
                for other in ({"a": "b", "b": "a"}[device], "ghost"):
                    liar.send(other, kind, payload)
                    assert liar.hears(other, payload, {"refused"})
                # With one byte altered, anywhere; cut off; with something after it.
                place = reported.randrange(len(payload))
                altered = bytearray(payload)
                altered[place] ^= 1 << reported.randrange(8)
                for wrong in (bytes(altered), payload[:-1], payload + b"\0"):
                    liar.send(device, kind, wrong)
                    assert liar.hears(device, wrong, {"refused"})
                # On the other topic of the same device.
                swapped = {"batch": "summary", "summary": "batch"}[kind]
                liar.send(device, swapped, payload + b" ")
                assert liar.hears(device, payload + b" ", {"refused"})
            # Retained: whoever subscribes later, as after a restart, is sent it first.
            for device, kind, payload in originals:
                liar.send(device, kind, payload, retain=True)
            assert process.stop() == 0
            process.restart()
            device, kind, payload = originals[-1]
            answered = len(liar.acks)
            sha256 = hashlib.sha256(payload).hexdigest()

            def heard_again() -> list[tuple[str, str, str]]:
                liar.send(device, kind, payload)
                return liar.acks[answered:]

            wait_for(heard_again, process.text())
            # What is retained was not even looked at: answers to the one that was not, no others.
            wait_for(lambda: "ignored a retained message" in process.text(), process.text())
            assert set(liar.acks[answered:]) == {(device, sha256, "duplicate")}

            assert pool_of(data) == before
            shown = status(data)
            assert {name: shown["devices"][name]["accepted"]["batches"] for name in "ab"} == {
                "a": 3,
                "b": 3,
            }
            # A device takes no acknowledgement of other bytes for one of its own.
            assert not [ack for one in devices for ack in one.acks if ack.status == "quarantined"]
        finally:
            for one in devices:
                one.close()
            liar.link.close()
            process.stop()
