"""A fleet of one device, real processes on both sides, whose broker lies."""

from __future__ import annotations

import hashlib
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from edge_runtime.device.toml import toml_text
from edge_runtime.fleet.broker import free_port
from edge_runtime.fleet.fleet_dir import init_fleet
from edge_runtime.messages import Ack, Topics, decode_status, encode_ack, new_id
from edge_runtime.messages.seal import seal
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
revoked = "aggregator/crl.pem"
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
        tls, serial = make_identity(self.authority, self.folder / "ward-7", "ward-7")
        with self.fleet.register() as register:
            register.add_certificate(
                serial=serial, name="ward-7", service=False, issued_s=0, expires_s=2**40
            )
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

    def waits_in_log(self, words: str, *, times: int = 1) -> None:
        wait_for(lambda: self.log.read_text().count(words) >= times, words)

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
