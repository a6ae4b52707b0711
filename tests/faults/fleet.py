"""A fleet of real processes that troubles are made for: three devices, an aggregator, Mosquitto.

Plain, or secure: then everything on the network has to be TLS, and sealed where devices and
aggregator speak to each other.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edge_runtime.device.identity import IdentityDir
from edge_runtime.errors import FleetError, MessageError
from edge_runtime.fleet.broker import Broker, start_broker
from edge_runtime.messages import (
    Ack,
    AggregatorStatus,
    Header,
    Topics,
    decode_ack,
    decode_state,
    decode_status,
    peek_batch,
    peek_summary,
)
from edge_runtime.messages.seal import decode_sealed, is_sealed
from edge_runtime.schema import Column, Schema
from tests.faults.node import Node
from tests.faults.proxy import Network, Publication
from tests.faults.secure import Secured, tls_sections
from tests.identity.site import FLEET

__all__ = ["DEVICES", "Fleet", "can_mount"]

DEVICES = ("north", "middle", "south")
_ROWS = 400
_START_S = 240.0
_EPSILON = 400.0
_SEALED = ("batch", "summary", "ack", "state")
#: of a round; a revoked device is waited for that long
_DEADLINE_S, _SECURE_DEADLINE_S = 20.0, 8.0

_SCHEMA = Schema(
    name="trips",
    columns=(
        Column(name="late", kind="boolean", condition=True),
        Column(name="hour", kind="integer", low=0.0, high=23.0),
        Column(name="origin", kind="category", values=("EWR", "JFK", "LGA"), other=True),
    ),
)


def can_mount(folder: Path) -> bool:
    """Whether small file systems can be mounted here: only then can a disk be full."""
    if os.geteuid() != 0:
        return False
    place = folder / "mount"
    place.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=65536", "tmpfs", place]
    tried = subprocess.run(command, check=False, capture_output=True)
    if tried.returncode == 0:
        subprocess.run(["umount", place], check=True)
    place.rmdir()
    return tried.returncode == 0


class Fleet:
    """All of it, in one folder.

    Parameters
    ----------
    folder : Path
        New.
    shim : Path
        From `build_shim`.
    mounts : bool
        Whether every node has a small file system of its own.
    rounds : int
        Training rounds that the aggregator plans.
    seed : int
        Of the rows and of what the network repeats.
    secure : bool
        Whether it is as `edge-runtime fleet init` makes one.
    """

    def __init__(
        self, *, folder: Path, shim: Path, mounts: bool, rounds: int, seed: int, secure: bool
    ) -> None:
        folder.mkdir(parents=True)
        self.folder, self.shim = folder, shim
        self.topics = Topics(FLEET)
        self._lock = threading.Lock()
        #: what has left each device, by the digest of its bytes
        self.sent: dict[str, tuple[str, Header, bytes]] = {}
        #: what the aggregator has acknowledged, by the digest of the bytes
        self.acks: dict[str, Ack] = {}
        self.status: AggregatorStatus | None = None
        #: the last sealed message of each device, as it left it
        self.sealed: dict[str, Publication] = {}
        #: what is left to be done and checked once all faults of a schedule are over
        self.afterwards: list[Callable[[], None]] = []
        self.secured: Secured | None = None
        self.broker: Broker | Secured
        if secure:
            self.secured = self.broker = Secured(folder / "fleet", machine=folder / "machine")
        else:
            self.broker = start_broker(folder / "broker", name="mosquitto")
        self.network = Network(
            broker_port=self.broker.port,
            on_publication=self._saw,
            rng=random.Random(seed),
        )
        _SCHEMA.save(folder / "schema.json")
        self.nodes = {
            name: Node(
                name=name,
                command=(
                    "-m",
                    f"edge_runtime.{'device' if name in DEVICES else 'aggregator'}",
                    "--config",
                    str(folder / name / "node.toml"),
                ),
                folder=folder / name,
                shim=shim,
                wire=self.network.wire(
                    name,
                    keys=self.secured and self.secured.keys(name, folder / name / "disk" / "state"),
                ),
                disk_bytes=(24 << 20 if name in DEVICES else 64 << 20) if mounts else 0,
            )
            for name in (*DEVICES, "aggregator")
        }
        for number, name in enumerate(DEVICES):
            if self.secured is not None:
                self.secured.equip(name, self.nodes[name].state)
            self._write_rows(folder / name / "rows.csv", seed=seed + number)
            self._configure_device(self.nodes[name])
        self._configure_aggregator(self.nodes["aggregator"], rounds=rounds, seed=seed)
        for node in self.nodes.values():
            node.start()

    def wait_ready(self) -> None:
        """Wait for the first generator: from then on devices train and send rows.

        Raises
        ------
        FleetError
        """
        self.wait(
            "the first round",
            lambda: self.status is not None and self.status.round > 0,
            patience_s=_START_S,
        )

    @property
    def devices(self) -> list[Node]:
        """The devices' nodes."""
        return [self.nodes[name] for name in DEVICES]

    @property
    def aggregator(self) -> Node:
        """The aggregator's node."""
        return self.nodes["aggregator"]

    def kill_broker(self) -> None:
        """End the broker at once and lose all that it kept."""
        self.broker.kill()
        kept = self.folder / "broker" if self.secured is None else self.secured.data
        for path in kept.glob("*.db*"):
            path.unlink()

    def tend(self) -> None:
        """Start what has ended, as systemd does."""
        for node in self.nodes.values():
            node.tend()
        if self.secured is not None:
            self.secured.check_service()

    def wait(self, what: str, condition: Callable[[], bool], *, patience_s: float) -> None:
        """Wait for a condition while the processes are tended.

        Raises
        ------
        FleetError
            When it does not come true in time.
        """
        ends = time.monotonic() + patience_s
        while not condition():
            if time.monotonic() > ends:
                raise FleetError(f"not within {patience_s:g} s: {what}; status {self.status}")
            self.tend()
            time.sleep(0.02)

    def left_of(self, device: str) -> list[tuple[str, Header, bytes]]:
        """What has left a device: digest, header, bytes."""
        with self._lock:
            return [(sha, h, data) for sha, (name, h, data) in self.sent.items() if name == device]

    def acknowledged(self) -> dict[str, Ack]:
        """What the aggregator has said of messages, the first time."""
        with self._lock:
            return dict(self.acks)

    def close(self) -> None:
        """End everything."""
        for node in self.nodes.values():
            node.close()
        self.broker.kill()
        if self.secured is not None:
            self.secured.close()
        self.network.close()

    def _saw(self, seen: Publication) -> None:
        address = self.topics.parse(seen.topic)
        payload = self._opened(seen, address.kind)
        if not payload:
            return
        with self._lock:
            if address.kind in ("batch", "summary"):
                peek = peek_batch if address.kind == "batch" else peek_summary
                sha = hashlib.sha256(payload).hexdigest()
                try:
                    header = peek(payload)
                except MessageError as error:
                    raise FleetError(f"{seen.client} sends nonsense: {error}") from error
                self.sent.setdefault(sha, (seen.client, header, payload))
            elif address.kind == "ack":
                ack = decode_ack(payload)
                if ack.status == "accepted" or ack.sha256 not in self.acks:
                    self.acks[ack.sha256] = ack
            elif address.kind == "status":
                self.status = decode_status(payload)

    def _opened(self, seen: Publication, kind: str) -> bytes:
        """Return a message without its seal; one that should have a seal and has none is noted."""
        payload = seen.payload
        if self.secured is None or kind not in _SEALED or not payload:
            return payload
        if is_sealed(payload):
            sealed = decode_sealed(payload)
            if sealed.certificate:
                self.sealed[seen.client] = seen
            return sealed.body
        # A device says farewell as the will has it that it made before it had a key.
        if kind != "state" or decode_state(payload).status != "offline":
            self.network.in_the_clear.append(f"{kind} of {seen.client} without a seal")
        return payload

    @staticmethod
    def _write_rows(path: Path, *, seed: int) -> None:
        rng = np.random.default_rng(seed)
        lines = ["late,hour,origin"]
        for _ in range(_ROWS):
            late = rng.random() < 0.3
            hour = int(np.clip(rng.normal(18 if late else 9, 3), 0, 23))
            origin = rng.choice(["EWR", "JFK", "LGA", "SWF"], p=[0.5, 0.3, 0.15, 0.05])
            lines.append(f"{str(late).lower()},{hour},{origin}")
        path.write_text("\n".join(lines) + "\n")

    def _configure_device(self, node: Node) -> None:
        tls = ""
        if self.secured is not None:
            identity = IdentityDir(node.state)
            tls = tls_sections(identity.tls, more="", updates=f'root = "{identity.root}"')
        node.config.write_text(
            f"""
[device]
id = "{node.name}"
fleet = "{FLEET}"
state_dir = "{node.state}"
[broker]
port = {node.wire.port}
keepalive_s = 4
ack_timeout_s = 1.0
[source]
path = "rows.csv"
poll_s = 0.3
follow = false
[privacy]
epsilon = {_EPSILON}
[engine]
name = "kernel"
[training]
checkpoint_s = 0.0
checkpoint_steps = 5
minimum_rows = 1
[limits]
free_disk_bytes = 0
{tls}"""
        )

    def _configure_aggregator(self, node: Node, *, rounds: int, seed: int) -> None:
        tls = ""
        if self.secured is not None:
            machine = self.secured.machine
            tls = tls_sections(
                self.secured.machine_tls(),
                more=f'revoked = "{machine / "crl.pem"}"',
                updates=f'keys = "{machine / "updates"}"',
            )
        node.config.write_text(
            f"""
seed = {seed % 1000}
[fleet]
name = "{FLEET}"
devices = {len(DEVICES)}
[broker]
port = {node.wire.port}
keepalive_s = 4
[data]
dir = "{node.state}"
[schema]
path = "../schema.json"
[privacy]
epsilon = {_EPSILON}
[rounds]
count = {rounds}
quorum = 2
deadline_s = {_DEADLINE_S if self.secured is None else _SECURE_DEADLINE_S}
interactions = 0
moments = "none"
[train]
steps = 10
expected_batch = 32
[rows]
minimum = 60
maximum = 400
[fusion]
hidden = 8
bins = 8
prior = 0.0
epochs = 1
max_seconds = 30.0
[release]
on_finish = false
{tls}"""
        )
