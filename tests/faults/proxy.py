"""The network between one process and the broker, in our hands: cut, slow, late, twice; and a tap.

Packets are taken apart far enough to repeat whole ones and to see what is published; everything
else passes as it came.

A secure wire has two parts. What is between the process and the first is TLS, and whatever befalls
it befalls its bytes: a cut may come in a handshake or in the middle of a record. The second holds
both sides' keys: it shows the process the broker's certificate and Mosquitto the process's own, and
sees the packets between the two.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from edge_runtime.errors import ConfigError, FleetError
from edge_runtime.messages import TlsFiles

__all__ = ["Keys", "Network", "Publication", "Wire"]

_HOST = "127.0.0.1"
_PUBLISH, _DUP = 0x30, 0x08
#: how a TLS connection begins: a record with a handshake
_HANDSHAKE = 0x16
_BYTES = 16_384


class Keys(NamedTuple):
    """What it takes to be inside a TLS connection.

    Attributes
    ----------
    broker : Path
        The directory of the fleet's broker.
    client : TlsFiles
        Those of the process; they may be replaced at any moment.
    """

    broker: Path
    client: TlsFiles

    def for_process(self) -> ssl.SSLContext:
        """Be the broker, and ask for a certificate as it does."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.broker / "server.pem", self.broker / "server.key")
        context.load_verify_locations(self.broker / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def for_broker(self, shown: bytes) -> ssl.SSLContext:
        """Be the process that has shown a certificate (DER), and not one that has another by now.

        Raises
        ------
        ConfigError
            The files are another's, or not whole at the moment.
        """
        assert self.client.certificate is not None
        context = self.client.context()
        if ssl.PEM_cert_to_DER_cert(self.client.certificate.read_text()) != shown:
            raise ConfigError(f"{self.client.certificate} is not what was shown")
        return context


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

    def __init__(
        self, network: Network, client: str, *, port: int, keys: Keys | None, opaque: bool
    ) -> None:
        self._network, self.client, self._there, self._keys = network, client, port, keys
        #: only bytes are seen of what passes the first part
        self._opaque = opaque or keys is not None
        self.port = 0
        #: connections that a process has begun
        self.connections = 0
        self.heal()
        self._writers: set[asyncio.StreamWriter] = set()
        #: of those, whom the process hears packets from
        self._down: set[asyncio.StreamWriter] = set()
        self._torn = False

    def heal(self) -> None:
        """Take every trouble back."""
        self.refuse, self.delay_s, self.bytes_per_s, self.twice = False, 0.0, 0.0, 0.0

    def cut(self, *, torn: bool) -> None:
        """Break what is connected; torn: in the middle of the next packet, or bytes of TLS."""
        if torn:
            self._torn = True
        else:
            self._network.call(self._break)

    def say(self, topic: str, payload: bytes) -> None:
        """Tell the process something in the broker's name, at QoS 0."""
        name = topic.encode()
        body = len(name).to_bytes(2, "big") + name + payload
        packet = bytes([_PUBLISH]) + _length(len(body)) + body
        self._network.call(lambda: [writer.write(packet) for writer in self._down])

    def _break(self) -> None:
        self._torn = False
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self) -> list[asyncio.Server]:
        """Listen; return what does."""
        server = await asyncio.start_server(self._connect, _HOST, 0)
        self.port = server.sockets[0].getsockname()[1]
        if self._keys is None:
            return [server]
        inner = await asyncio.start_server(
            self._connect_inside, _HOST, 0, ssl=self._keys.for_process()
        )
        self._there = inner.sockets[0].getsockname()[1]
        return [server, inner]

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refuse:
            writer.transport.abort()
            return
        await self._join(reader, writer, self._there, None, packets=not self._opaque, troubled=True)

    async def _connect_inside(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        assert self._keys is not None
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        try:
            context = self._keys.for_broker(shown)
        except (ConfigError, OSError):
            writer.transport.abort()
            return
        port = self._network.broker_port
        await self._join(reader, writer, port, context, packets=True, troubled=False)

    async def _join(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        port: int,
        context: ssl.SSLContext | None,
        *,
        packets: bool,
        troubled: bool,
    ) -> None:
        try:
            there = await asyncio.open_connection(_HOST, port, ssl=context)
        except OSError:
            writer.transport.abort()
            return
        mine = {writer, there[1]}
        self._writers |= mine
        if packets:
            self._down.add(writer)
        ways = [
            asyncio.ensure_future(
                self._pass_on(each, other, up=up, packets=packets, troubled=troubled)
            )
            for each, other, up in ((reader, there[1], True), (there[0], writer, False))
        ]
        try:
            self._network.ways |= {*ways}
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        finally:
            self._network.ways -= {*ways}
            self._writers -= mine
            self._down.discard(writer)
            for each in mine:
                each.transport.abort()

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        up: bool,
        packets: bool,
        troubled: bool,
    ) -> None:
        """Pass on one way, packet by packet or as it comes, with the wire's troubles or without."""
        first = True
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while data := await (_read_packet(reader) if packets else reader.read(_BYTES)):
                if first and up and not packets and data[0] != _HANDSHAKE:
                    self._network.in_the_clear.append(f"{self.client} begins with {data[:20]!r}")
                first = False
                published = packets and data[0] & 0xF0 == _PUBLISH
                if published and up:
                    self._network.saw(self.client, data)
                if troubled and self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if troubled and self._torn:
                    writer.write(data[: len(data) // 2])
                    await writer.drain()
                    self._break()
                    return
                writer.write(data)
                if published and data[0] & 0x06 and self._network.rng.random() < self.twice:
                    self._network.repeated += 1
                    writer.write(bytes([data[0] | _DUP]) + data[1:])
                await writer.drain()
                if troubled and self.bytes_per_s and not up:
                    await asyncio.sleep(len(data) / self.bytes_per_s)


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
        #: what should have been TLS and was not
        self.in_the_clear: list[str] = []
        self._on_publication = on_publication
        self._servers: list[asyncio.Server] = []
        #: what passes something on now
        self.ways: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._thread.start()

    def wire(self, client: str, *, keys: Keys | None = None, port: int = 0) -> Wire:
        """Make the connection of one client.

        Parameters
        ----------
        client : str
            Whose.
        keys : Keys, optional
            Of a secure wire.
        port : int
            Another of the broker's, for TLS that is passed on as it is.
        """
        there = port or self.broker_port
        wire = Wire(self, client, port=there, keys=keys, opaque=port > 0)
        self._servers += asyncio.run_coroutine_threadsafe(wire.serve(), self._loop).result(10.0)
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
        """End it, with all its connections."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)
        if self._thread.is_alive():
            raise FleetError("the network's thread does not end")
        self._loop.close()

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        # Each connection's own task ends once both its ways have: cancelled itself, it would be
        # reported as a failure of the server.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for way in others & self.ways:
                way.cancel()
            for stuck in (await asyncio.wait(others, timeout=1.0))[1]:
                stuck.cancel()  # in a handshake that nobody answers


def _length(count: int) -> bytes:
    """Write a length as MQTT does: seven bits a byte, the lowest first."""
    coded = bytearray()
    while count > 0x7F:
        coded.append(count & 0x7F | 0x80)
        count >>= 7
    return bytes([*coded, count])


async def _read_packet(reader: asyncio.StreamReader) -> bytes:
    """Read one MQTT packet: a byte, a length of seven bits per byte, and the rest."""
    head = await reader.readexactly(2)
    while head[-1] & 0x80:
        head += await reader.readexactly(1)
    length = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(head[1:]))
    return head + await reader.readexactly(length)
