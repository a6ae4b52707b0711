"""Ten thousand light devices in one process: connected, sending batches until acknowledged.

A light device is a TCP connection of its own with a client id, a retained state, a will and a
subscription to its acknowledgements; it draws no rows and keeps no disk. It sends a batch again
when its acknowledgement does not come, as an agent does. Loopback only, and bounded.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import ipaddress
import json
import sys
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

from edge_runtime.errors import ConfigError, LinkError
from edge_runtime.generator import GraphBundle, load_bundle
from edge_runtime.messages import DeviceState, Link, Plan, Topics, decode_plan, encode_state
from tools.load import mqtt
from tools.load.batches import BatchMaker

__all__ = ["MOST_DEVICES", "MOST_MINUTES", "MOST_RATE", "Generator", "Settings", "main"]

MOST_DEVICES, MOST_RATE, MOST_MINUTES = 20_000, 5_000, 60.0
_TICK_S = 0.01
#: batches of one device, and of all, that may wait for their acknowledgement
_IN_FLIGHT, _MOST_WAITING = 8, 20_000
#: connections that are being made at once: a broker's backlog is finite
_CONNECTING = 100
_KEEPALIVE_S = 1200
_DRAIN_S = 180.0


class Settings(NamedTuple):
    """What is offered, and to whom.

    `seconds` is how long batches are made for; `resend_s` how long one waits for its
    acknowledgement before it is sent again.
    """

    host: str
    port: int
    fleet: str
    bundle: Path
    out: Path
    devices: int
    rate: float
    size_bytes: int
    seconds: float
    resend_s: float

    def checked(self) -> Settings:
        """Return the same settings.

        Raises
        ------
        ConfigError
            If they go beyond this machine, or beyond what is meant for it.
        """
        try:
            loopback = ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise ConfigError(
                f"host {self.host!r}: the load generator sends to loopback addresses only, such as "
                "127.0.0.1"
            )
        if not (
            1 <= self.devices <= MOST_DEVICES
            and 0 < self.rate <= MOST_RATE
            and 0 < self.seconds <= 60 * MOST_MINUTES
        ):
            raise ConfigError(
                f"{self.devices} devices, {self.rate:g} batches/s, {self.seconds:g} s: at most "
                f"{MOST_DEVICES}, {MOST_RATE} and {60 * MOST_MINUTES:g} are offered"
            )
        return self


class Waiting(NamedTuple):
    """A batch without an acknowledgement; times of `time.monotonic`."""

    message_id: str
    payload: bytes
    made_s: float


class LightDevice(asyncio.Protocol):
    """One connection; `generator` holds everything else."""

    def __init__(self, name: str, generator: Generator) -> None:
        self.name, self._generator = name, generator
        topics = generator.topics
        self._ack, self._batch, self._state = (
            topics.ack(name),
            topics.batch(name),
            topics.state(name),
        )
        self._packets = mqtt.Packets()
        self._number = 0
        self._transport: asyncio.Transport | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        #: by SHA-256 of the payload
        self.waiting: dict[str, Waiting] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Introduce the device."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        will = (self._state, encode_state(DeviceState(device=self.name, status="offline")))
        transport.write(mqtt.connect(self.name, will=will, keepalive_s=_KEEPALIVE_S))

    def data_received(self, data: bytes) -> None:
        """Read what the broker says."""
        for kind, flags, body in self._packets.feed(data):
            if kind == mqtt.PUBLISH:
                number, payload = mqtt.split_publish(flags, body)
                if number:
                    self._write(mqtt.puback(number))
                self._generator.acknowledged(self, payload)
            elif kind == mqtt.CONNACK:
                if body[1:2] != b"\0":
                    self.ready.set_exception(LinkError(f"{self.name}: refused, code {body!r}"))
                    return
                self._write(mqtt.subscribe(self._next(), self._ack))
            elif kind == mqtt.SUBACK:
                state = encode_state(DeviceState(device=self.name, status="sending"))
                self._write(mqtt.publish(self._next(), self._state, state, retain=True))
                self.ready.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end, wanted or not."""
        self._transport = None
        if not self.ready.done():
            self.ready.set_exception(LinkError(f"{self.name}: the broker hung up ({exc})"))
        self._generator.lost_connection()

    def send(self, payload: bytes) -> None:
        """Publish a batch."""
        self._write(mqtt.publish(self._next(), self._batch, payload))

    def close(self) -> None:
        """Leave properly."""
        self._write(mqtt.DISCONNECT)
        if self._transport is not None:
            self._transport.close()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _next(self) -> int:
        self._number = self._number % 65535 + 1
        return self._number


class Generator:
    """All light devices of a run."""

    def __init__(self, settings: Settings, maker: BatchMaker, names: list[str]) -> None:
        self.settings = settings
        self.topics = Topics(settings.fleet)
        self._maker, self._names = maker, names
        self._devices: list[LightDevice] = []
        self._resends: deque[tuple[float, LightDevice, str]] = deque()
        self._waiting = 0
        self._closing = False
        self.counts = dict.fromkeys(
            ("offered", "resent", "held_back", "acknowledged", "unknown", "disconnected"), 0
        )
        self.statuses: dict[str, int] = {}
        #: per acknowledged batch: second since the start at which it was made, and its wait
        self.waits: list[tuple[float, float]] = []
        self._acknowledged = (settings.out / "acknowledged.txt").open("w", buffering=1 << 16)
        self._began_s = 0.0

    async def run(self) -> None:
        """Connect, offer batches for as long as asked, wait for the rest."""
        began_s = time.monotonic()
        await self._connect()
        self.connect_s = time.monotonic() - began_s
        (self.settings.out / "connected").touch()
        cpu_s, self._began_s = time.process_time(), time.monotonic()
        await self._offer()
        self.offered_s = time.monotonic() - self._began_s
        ends = time.monotonic() + _DRAIN_S
        while self._waiting and time.monotonic() < ends:
            self._send_again()
            await asyncio.sleep(_TICK_S)
        self.cpu_s = time.process_time() - cpu_s
        self._closing = True
        for device in self._devices:
            device.close()
        self._acknowledged.close()

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        place = self.settings.host, self.settings.port
        for start in range(0, len(self._names), _CONNECTING):
            made = await asyncio.gather(
                *(
                    loop.create_connection(lambda name=name: LightDevice(name, self), *place)
                    for name in self._names[start : start + _CONNECTING]
                )
            )
            some = [protocol for _, protocol in made]
            await asyncio.wait_for(asyncio.gather(*(device.ready for device in some)), 60)
            self._devices += some

    async def _offer(self) -> None:
        rate, ends = self.settings.rate, self._began_s + self.settings.seconds
        turn = tried = 0
        while (now := time.monotonic()) < ends:
            due = int((now - self._began_s) * rate) - tried
            tried += due
            for _ in range(due):
                device = self._devices[turn % len(self._devices)]
                turn += 1
                if len(device.waiting) >= _IN_FLIGHT or self._waiting >= _MOST_WAITING:
                    self.counts["held_back"] += 1
                    continue
                self._send_new(device)
            self._send_again()
            await asyncio.sleep(_TICK_S)

    def _send_new(self, device: LightDevice) -> None:
        message_id, payload = self._maker.make(device.name)
        digest = hashlib.sha256(payload).hexdigest()
        now = time.monotonic()
        device.waiting[digest] = Waiting(message_id, payload, now)
        self._waiting += 1
        self.counts["offered"] += 1
        self._resends.append((now + self.settings.resend_s, device, digest))
        device.send(payload)

    def _send_again(self) -> None:
        now = time.monotonic()
        while self._resends and self._resends[0][0] <= now:
            _, device, digest = self._resends.popleft()
            waiting = device.waiting.get(digest)
            if waiting is not None:
                self.counts["resent"] += 1
                device.send(waiting.payload)
                self._resends.append((now + self.settings.resend_s, device, digest))

    def acknowledged(self, device: LightDevice, payload: bytes) -> None:
        """Take an acknowledgement."""
        ack = json.loads(payload)
        waiting = device.waiting.pop(ack["sha256"], None)
        if waiting is None:
            self.counts["unknown"] += 1  # of a batch that was sent twice and acknowledged before
            return
        self._waiting -= 1
        self.counts["acknowledged"] += 1
        status = ack["status"]
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self._acknowledged.write(f"{waiting.message_id} {status}\n")
        self.waits.append((waiting.made_s - self._began_s, time.monotonic() - waiting.made_s))

    def lost_connection(self) -> None:
        """Count connections that ended before their time."""
        self.counts["disconnected"] += not self._closing

    def report(self) -> dict[str, object]:
        """Return the figures of the run."""
        return {
            "connections": len(self._devices),
            "connect_s": self.connect_s,
            "offered_s": self.offered_s,
            "cpu_s": self.cpu_s,
            "rows": self._maker.rows,
            "never_acknowledged": self._waiting,
            "counts": self.counts,
            "statuses": self.statuses,
            "waits": self.waits,
        }


def wait_for_plan(settings: Settings, client_id: str) -> Plan:
    """Return the plan that the aggregator retains; it opens a round for whoever is online."""
    topics = Topics(settings.fleet)
    found: list[Plan] = []
    state = encode_state(DeviceState(device=client_id, status="online"))
    with Link(
        host=settings.host,
        port=settings.port,
        client_id=client_id,
        topics=[topics.plan],
        on_message=lambda _topic, payload, _retained: found.append(decode_plan(payload)),
    ) as link:
        link.wait_connected(30)
        link.publish(topics.state(client_id), state, retain=True)
        ends = time.monotonic() + 60
        while not found:
            if time.monotonic() > ends:
                raise LinkError(f"no plan of fleet {settings.fleet} within 60 s")
            time.sleep(0.05)
    return found[-1]


def main(arguments: list[str] | None = None) -> int:
    """Run the generator; `settings` as JSON, the report goes to `report.json` in `out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", type=json.loads)
    given = parser.parse_args(arguments).settings
    settings = Settings(**{**given, "bundle": Path(given["bundle"]), "out": Path(given["out"])})
    settings.checked()
    bundle = load_bundle(settings.bundle)
    assert isinstance(bundle, GraphBundle)
    names = [f"light-{number:05d}" for number in range(settings.devices)]
    maker = BatchMaker(
        plan=wait_for_plan(settings, names[0]),
        bundle=bundle,
        devices=names,
        size_bytes=settings.size_bytes,
    )
    generator = Generator(settings, maker, names)
    asyncio.run(generator.run())
    report = settings.out / "report.json"
    report.with_suffix(".new").write_text(json.dumps(generator.report()))
    report.with_suffix(".new").replace(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
