"""The network between one process and the broker, in our hands: cut, slow, late, twice; and a tap.

Packets are taken apart far enough to repeat whole ones and to see what is published; everything
else passes as it came.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable
from typing import NamedTuple

from edge_runtime.errors import FleetError

__all__ = ["Network", "Publication", "Wire"]

_PUBLISH, _DUP = 0x30, 0x08


class Publication(NamedTuple):
    """A message that a client has published, as it left it."""

    client: str
    topic: str
    payload: bytes


class Wire:
    """The connection of one client to the broker; the attributes may change at any moment.

    Attributes
    ----------
    refuse : bool
        Connections are accepted and closed at once.
    delay_s : float
        What every packet waits for, both ways.
    bytes_per_s : float
        What the client reads at most; 0: no limit.
    twice : float
        Share of the published messages that arrive twice, both ways.
    """

    def __init__(self, network: Network, client: str) -> None:
        self._network, self.client = network, client
        self.port = 0
        self.heal()
        self._writers: set[asyncio.StreamWriter] = set()
        self._torn = False

    def heal(self) -> None:
        """Take every trouble back."""
        self.refuse, self.delay_s, self.bytes_per_s, self.twice = False, 0.0, 0.0, 0.0

    def cut(self, *, torn: bool) -> None:
        """Break what is connected; torn: in the middle of the next packet."""
        if torn:
            self._torn = True
        else:
            self._network.call(self._break)

    def _break(self) -> None:
        self._torn = False
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self) -> None:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            writer.transport.abort()
            return
        try:
            there = await asyncio.open_connection("127.0.0.1", self._network.broker_port)
        except OSError:
            writer.transport.abort()
            return
        mine = {writer, there[1]}
        self._writers |= mine
        try:
            ways = [
                asyncio.ensure_future(self._pass_on(reader, there[1], up=True)),
                asyncio.ensure_future(self._pass_on(there[0], writer, up=False)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        finally:
            self._writers -= mine
            for each in mine:
                each.transport.abort()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool
    ) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                packet = await _read_packet(reader)
                published = packet[0] & 0xF0 == _PUBLISH
                if published and up:
                    self._network.saw(self.client, packet)
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if self._torn:
                    writer.write(packet[: len(packet) // 2])
                    await writer.drain()
                    self._break()
                    return
                writer.write(packet)
                if published and packet[0] & 0x06 and self._network.rng.random() < self.twice:
                    self._network.repeated += 1
                    writer.write(bytes([packet[0] | _DUP]) + packet[1:])
                await writer.drain()
                if self.bytes_per_s and not up:
                    await asyncio.sleep(len(packet) / self.bytes_per_s)


class Network:
    """All wires, on a thread of their own.

    Parameters
    ----------
    broker_port : int
    on_publication : callable (Publication)
        Called on that thread for whatever a client publishes.
    rng : random.Random
        Decides which messages are repeated.
    """

    def __init__(
        self,
        *,
        broker_port: int,
        on_publication: Callable[[Publication], None],
        rng: random.Random,
    ) -> None:
        self.broker_port = broker_port
        self.rng = rng
        #: messages that were sent twice
        self.repeated = 0
        self._on_publication = on_publication
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._thread.start()

    def wire(self, client: str) -> Wire:
        """Make the connection of one client."""
        wire = Wire(self, client)
        asyncio.run_coroutine_threadsafe(wire.serve(), self._loop).result(10.0)
        return wire

    def call(self, what: Callable[[], None]) -> None:
        """Have something done on the network's thread."""
        self._loop.call_soon_threadsafe(what)

    def saw(self, client: str, packet: bytes) -> None:
        """Take the tap's copy of a PUBLISH packet apart."""
        place = 2
        while packet[place - 1] & 0x80:
            place += 1
        length = int.from_bytes(packet[place : place + 2], "big")
        place += 2
        topic = packet[place : place + length].decode()
        place += length + (2 if packet[0] & 0x06 else 0)
        self._on_publication(Publication(client, topic, packet[place:]))

    def close(self) -> None:
        """End it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)
        if self._thread.is_alive():
            raise FleetError("the network's thread does not end")


async def _read_packet(reader: asyncio.StreamReader) -> bytes:
    """Read one MQTT packet: a byte, a length of seven bits per byte, and the rest."""
    head = await reader.readexactly(2)
    while head[-1] & 0x80:
        head += await reader.readexactly(1)
    length = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(head[1:]))
    return head + await reader.readexactly(length)
