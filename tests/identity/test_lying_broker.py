"""A broker that makes messages up, changes, replays and misdirects them: the pool is the same.

Real processes on both sides, each with its certificate; `tests/aggregator/test_lying_broker.py`
has what a broker can do to a fleet without certificates.
"""

from __future__ import annotations

import hashlib
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_runtime.device.toml import toml_text
from edge_runtime.errors import MessageError
from edge_runtime.fleet.authority import Authority
from edge_runtime.fleet.broker import find_broker, free_port
from edge_runtime.fleet.fleet_dir import init_fleet
from edge_runtime.generator import Bundle
from edge_runtime.messages import (
    Ack,
    DeviceState,
    Topics,
    decode_ack,
    decode_batch,
    decode_plan,
    decode_status,
    encode_ack,
    encode_batch,
    encode_state,
    new_id,
)
from edge_runtime.messages.seal import decode_sealed, seal
from edge_runtime.process.agreement import Agreement
from tests.aggregator.live import AggregatorProcess
from tests.cli.conftest import SCHEMA, make_csv
from tests.identity.liar import Liar
from tests.identity.site import FLEET, make_identity, wait_for

TOPICS = Topics(FLEET)
STATE, BATCH, SUMMARY, ACK = (
    getattr(TOPICS, kind)("ward-7") for kind in ("state", "batch", "summary", "ack")
)
WRONG_KEY = b"w" * 32

AGGREGATOR = """
[fleet]
name = "clinics"
devices = 1
[data]
dir = "data"
[schema]
path = "schema.json"
[privacy]
epsilon = 8.0
[rounds]
count = 1
quorum = 1
deadline_s = 600.0
[train]
steps = 20
[rows]
minimum = 10
maximum = 400
[fusion]
hidden = 32
epochs = 1
max_seconds = 20.0
[release]
on_finish = false
[broker]
host = "127.0.0.1"
port = {port}
[broker.tls]
ca = "aggregator/ca.pem"
certificate = "aggregator/certificate.pem"
key = "aggregator/key.pem"
"""


class Wards:
    """A fleet of one device whose broker lies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fleet = init_fleet(
            folder / "fleet", name=FLEET, host="127.0.0.1", port=free_port(), enrol_port=free_port()
        )
        self.authority = self.fleet.authority()
        self.liar = Liar(folder, self.fleet)
        self.data = self.fleet.path / "data"
        (self.fleet.path / "schema.json").write_text(SCHEMA)
        config = self.fleet.path / "aggregator.toml"
        config.write_text(AGGREGATOR.format(port=self.liar.to_aggregator.port))
        self.log, self.state_dir = folder / "device.log", folder / "state"
        self.config = self._device_config()
        self.aggregator = AggregatorProcess(config)
        self.device: subprocess.Popen[bytes] | None = None
        self.forged = 0

    def _device_config(self) -> Path:
        tls, _ = make_identity(self.authority, self.folder / "ward-7", "ward-7")
        sections: dict[str, dict[str, Any]] = {
            "device": {"id": "ward-7", "fleet": FLEET, "state_dir": str(self.state_dir)},
            "broker": {"port": self.liar.to_devices.port, "ack_timeout_s": 1.0, "tls": {
                "ca": str(tls.ca), "certificate": str(tls.certificate), "key": str(tls.key)}},
            "source": {"path": str(make_csv(self.folder / "rows.csv", 600)), "poll_s": 0.2},
            "limits": {"look_s": 0.5},
            "privacy": {"epsilon": 8.0},
        }  # fmt: skip
        config = self.folder / "device.toml"
        config.write_text(toml_text(sections))
        return config

    def start_device(self) -> None:
        with self.log.open("ab") as log:
            self.device = subprocess.Popen(
                [sys.executable, "-m", "edge_runtime.device", "--config", self.config],
                stdout=log, stderr=log,
            )  # fmt: skip

    def waits_in_log(self, words: str) -> None:
        wait_for(lambda: words in self.log.read_text(), words)

    def forge(self, *messages: tuple[str, bytes]) -> None:
        """Send the aggregator what it must drop, and wait until it has dropped all of it."""
        for topic, payload in messages:
            self.liar.say(topic, payload)
        self.forged += len(messages)
        wait_for(lambda: self.status().unauthentic >= self.forged, "forgeries that are dropped")
        assert self.status().unauthentic == self.forged

    def status(self) -> Any:
        return decode_status(self.liar.of(TOPICS.status)[-1])

    def stored(self) -> dict[str, Any]:
        """Everything that the aggregator holds of messages and rounds."""
        uri = f"file:{self.data / 'catalogue.sqlite'}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as catalogue:
            tables = {
                name: sorted(catalogue.execute(f"SELECT * FROM {name}").fetchall())
                for name in ("messages", "rounds")
            }
        kept = [p for n in ("pool", "summaries", "quarantine") for p in (self.data / n).rglob("*")]
        return {**tables, "files": {str(p): p.read_bytes() for p in kept if p.is_file()}}

    def waiting(self) -> list[str]:
        """Digests of what the device still holds."""
        uri = f"file:{self.state_dir / 'device.sqlite'}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as store:
            rows = store.execute("SELECT sha256 FROM outbox WHERE status = 'pending'").fetchall()
        return [sha256 for (sha256,) in rows]

    def tell_the_device_that_it_is_stored(self, body: bytes) -> None:
        """Make acknowledgements up, and see that the device goes on sending."""
        sha256 = hashlib.sha256(body).hexdigest()
        made_up = [
            encode_ack(Ack(id=new_id(), sequence=0, sha256=sha256, status=status))
            for status in ("accepted", "duplicate", "quarantined", "refused")
        ]
        for ack in made_up:
            self.liar.say(ACK, ack)
            self.liar.say(ACK, seal(ack, topic=ACK, key=WRONG_KEY))
            # What the device itself has sealed, sent back to it.
            self.liar.say(ACK, self.liar.of(STATE)[-1])
        kind = BATCH if self.liar.of(BATCH) else SUMMARY
        self.liar.wait_for(kind, more_than=len(self.liar.of(kind)) + 1)
        assert sha256 in self.waiting()

    def close(self) -> None:
        if self.device is not None:
            self.device.kill()
            self.device.wait()
        self.aggregator.kill()
        self.liar.close()


@pytest.fixture
def wards(tmp_path: Path) -> Iterator[Wards]:
    if find_broker("mosquitto") is None:
        pytest.skip("mosquitto is not installed")
    made = Wards(tmp_path)
    yield made
    made.close()


def test_it_changes_nothing_in_the_pool(wards: Wards) -> None:
    liar = wards.liar
    liar.withheld = {"certificate", "summary", "batch"}
    own = liar.wait_for(TOPICS.certificate)

    # Certificates that are not the aggregator's: the device says nothing at all.
    foreign = Authority.create(
        fleet=FLEET, certificate_path=wards.folder / "2.pem", key_path=wards.folder / "2.key"
    )
    for number, (authority, name, words) in enumerate(
        [(foreign, "aggregator", "another fleet"), (wards.authority, "ward-8", "another name")]
    ):
        tls, _ = make_identity(authority, wards.folder / f"not {number}", name)
        liar.say(TOPICS.certificate, Agreement(tls=tls, fleet=FLEET).certificate)
        if wards.device is None:
            wards.start_device()
        wards.waits_in_log(words)
    assert liar.up == []
    liar.let_pass("certificate")
    assert liar.of(TOPICS.certificate) == [own]

    # The census is answered, and the answer withheld, changed, and said to have been stored.
    sealed = liar.wait_for(SUMMARY)
    body = decode_sealed(sealed).body
    plan = decode_plan(liar.of(TOPICS.plan)[-1])
    done = encode_state(DeviceState(device="ward-7", status="idle", plan_id=plan.id))
    before = wards.stored()
    wards.forge(
        (SUMMARY, sealed[:-1] + bytes([sealed[-1] ^ 1])),
        (SUMMARY, sealed[:-1]),
        (SUMMARY, body),
        (BATCH, sealed),
        (TOPICS.summary("ward-8"), sealed),
        # That the device is done: the round would end without its answer.
        (STATE, done),
        (
            STATE,
            seal(done, topic=STATE, key=WRONG_KEY, certificate=decode_sealed(sealed).certificate),
        ),
    )
    wards.tell_the_device_that_it_is_stored(body)
    assert wards.stored() == before
    assert wards.status().phase == "census"
    liar.let_pass("summary")

    # A batch of its own making, in the device's name.
    sealed = liar.wait_for(BATCH)
    certificate, _, body = decode_sealed(sealed)
    bundle = Bundle.from_bytes(next(p for t, p in liar.down if "/bundle/" in t and p))
    names, cards = bundle.schema.names, bundle.codec.cardinalities
    header, codes = decode_batch(body, cardinalities=cards, names=names)
    made_up = encode_batch(
        msgspec.structs.replace(header, id=new_id()), codes[::-1], cardinalities=cards, names=names
    )
    tls, _ = make_identity(wards.authority, wards.folder / "ward-8", "ward-8")
    other = Agreement(tls=tls, fleet=FLEET)
    agreed = other.agree(own, name="aggregator", device="ward-8", now_unix_s=time.time())

    def by_ward_8(topic: str, certificate: bytes) -> bytes:
        return seal(made_up, topic=topic, key=agreed.key, certificate=certificate)

    before = wards.stored()
    wards.forge(
        (BATCH, made_up),
        (BATCH, seal(made_up, topic=BATCH, key=WRONG_KEY, certificate=certificate)),
        # Around a true seal, which fits the true body only.
        (BATCH, sealed[: -len(body)] + made_up),
        # By a device of the fleet that helps: in its own name, and in the other's.
        (BATCH, by_ward_8(BATCH, other.certificate)),
        (BATCH, by_ward_8(BATCH, certificate)),
        (BATCH, by_ward_8(TOPICS.batch("ward-8"), other.certificate)),
    )
    wards.tell_the_device_that_it_is_stored(body)
    assert wards.stored() == before
    liar.let_pass("batch")
    wait_for(lambda: wards.status().phase == "done", wards.aggregator.text())
    wait_for(lambda: not wards.waiting(), "the true acknowledgements")

    # The agreement was not in the agent itself: it is not the larger by it.
    assert wards.device is not None
    assert "cryptography" not in Path(f"/proc/{wards.device.pid}/maps").read_text()

    # The truth again, backwards and twice: duplicates, as without seals.
    before = wards.stored()
    assert {status for *_, status in map(_answer, liar.of(ACK))} <= {"accepted", "duplicate"}
    truth = {payload: topic for topic, payload in liar.up if topic in (SUMMARY, BATCH)}
    for payload, topic in [*reversed(truth.items())] * 2:
        count = len(liar.of(ACK))
        liar.say(topic, payload)
        answer = _answer(liar.wait_for(ACK, more_than=count))
        assert answer == (hashlib.sha256(decode_sealed(payload).body).hexdigest(), "duplicate")
    assert wards.stored() == before
    assert wards.status().unauthentic == wards.forged
    assert "Traceback" not in wards.log.read_text() + wards.aggregator.text()
    # Said, but not each time.
    assert wards.log.read_text().count("ignored what is not from the aggregator") <= 2
    assert wards.aggregator.text().count("dropped what is not authentic") <= 2

    # The aggregator has another key after a restart: the device follows, and says again what it is.
    assert wards.aggregator.stop() == 0
    renewed, _ = make_identity(wards.authority, wards.fleet.path / "aggregator", "aggregator")
    wards.aggregator.restart()
    key = (
        Agreement(tls=renewed, fleet=FLEET)
        .agree(certificate, name="ward-7", device="ward-7", now_unix_s=time.time())
        .key
    )
    wait_for(lambda: _is_by(key, liar.of(STATE)[-1]), "a state under the new key")


def _is_by(key: bytes, payload: bytes) -> bool:
    try:
        return bool(decode_sealed(payload).check(topic=STATE, key=key))
    except MessageError:
        return False


def _answer(payload: bytes) -> tuple[str, str]:
    ack = decode_ack(decode_sealed(payload).body)
    return ack.sha256, ack.status
