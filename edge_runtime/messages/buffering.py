"""A client that reads and writes many packets with one system call each.

paho reads a packet in pieces, the first of them a byte long, and sends each on its own. At a
thousand messages a second these calls, and the interpreter lock that is given away for each and
has to be waited for, take longer than everything else about receiving.
"""

from __future__ import annotations

import time

from paho.mqtt.enums import MQTTErrorCode

from edge_runtime.messages.paho import mqtt

__all__ = ["BufferedClient"]

#: read ahead, or written together, at most: a dozen batches of 10 kB
_CHUNK_BYTES = 1 << 17
#: between two looks at what has to be written and at the keep-alive, while there is much to read
_TURN_S = 1.0


class BufferedClient(mqtt.Client):
    """`paho.mqtt.client.Client` with its own buffers before its socket; for one connection."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        # What has been read from the socket, and how much of it paho has asked for.
        self._ahead, self._taken = b"", 0
        #: what paho takes for sent and waits for the packets behind it
        self._held = bytearray()

    def _sock_recv(self, bufsize: int) -> bytes:
        if self._taken == len(self._ahead):
            if bufsize >= _CHUNK_BYTES:
                return super()._sock_recv(bufsize)
            self._ahead, self._taken = super()._sock_recv(_CHUNK_BYTES), 0
        data = self._ahead[self._taken : self._taken + bufsize]
        self._taken += len(data)
        return data

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """Handle all packets that have been read: nothing else would ask for them."""
        ends_s = time.monotonic() + _TURN_S
        result = super().loop_read(max_packets)
        while not result and self._taken < len(self._ahead) and self.socket() is not None:
            if time.monotonic() > ends_s:  # handlers that wait must not cost the connection
                result = self.loop_write() or self.loop_misc()
                ends_s = time.monotonic() + _TURN_S
            result = result or super().loop_read(max_packets)
        return result

    def _sock_send(self, buf: bytes | bytearray) -> int:
        # After DISCONNECT paho hangs up, whatever is behind it.
        more = len(self._out_packet) > 0 and buf[0] & 0xF0 != mqtt.DISCONNECT
        if more and len(self._held) + len(buf) <= _CHUNK_BYTES:
            self._held += buf
            return len(buf)
        if not self._held:
            return super()._sock_send(buf)
        before = len(self._held)
        sent = super()._sock_send(bytes(self._held + buf))
        del self._held[:sent]
        if sent <= before:  # nothing of this packet: paho asks again when there is room
            raise BlockingIOError
        return sent - before
