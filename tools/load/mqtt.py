"""As much of MQTT 3.1.1 as a light device speaks: bytes out, packets in, no state."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["CONNACK", "DISCONNECT", "PUBLISH", "SUBACK", "Packets", "connect", "puback", "publish"]
__all__ += ["split_publish", "subscribe"]

CONNACK, PUBLISH, PUBACK, SUBACK = 2, 3, 4, 9
DISCONNECT = b"\xe0\x00"

#: a broker that announces more than this is none of ours
_MOST_BYTES = 1 << 24


def connect(client_id: str, *, will: tuple[str, bytes], keepalive_s: int) -> bytes:
    """Return CONNECT of a clean session with a retained will at QoS 1."""
    topic, payload = will
    # 0x2E: clean session, will, QoS 1, retained
    head = _text("MQTT") + b"\x04\x2e" + keepalive_s.to_bytes(2, "big")
    body = head + _text(client_id) + _text(topic) + len(payload).to_bytes(2, "big") + payload
    return b"\x10" + _length(len(body)) + body


def subscribe(number: int, topic: str) -> bytes:
    """Return SUBSCRIBE to one topic at QoS 1."""
    body = number.to_bytes(2, "big") + _text(topic) + b"\x01"
    return b"\x82" + _length(len(body)) + body


def publish(number: int, topic: str, payload: bytes, *, retain: bool = False) -> bytes:
    """Return PUBLISH at QoS 1."""
    head = _text(topic) + number.to_bytes(2, "big")
    return (b"\x33" if retain else b"\x32") + _length(len(head) + len(payload)) + head + payload


def puback(number: int) -> bytes:
    """Return PUBACK."""
    return b"\x40\x02" + number.to_bytes(2, "big")


def split_publish(flags: int, body: bytes) -> tuple[int, bytes]:
    """Return number (0 at QoS 0) and payload of a PUBLISH."""
    at = 2 + int.from_bytes(body[:2], "big")
    if not flags & 0x06:
        return 0, body[at:]
    return int.from_bytes(body[at : at + 2], "big"), body[at + 2 :]


class Packets:
    """Cuts a stream of bytes into packets."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Yield type, flags and body of every packet that is whole by now."""
        data = self._rest + data if self._rest else data
        at = 0
        while at + 2 <= len(data):
            size, start, shift = 0, at + 1, 0
            while start < len(data):
                byte = data[start]
                size |= (byte & 0x7F) << shift
                start, shift = start + 1, shift + 7
                if byte < 0x80:
                    break
            else:
                break
            if size > _MOST_BYTES:
                raise ValueError(f"a packet of {size} bytes")
            if start + size > len(data):
                break
            yield data[at] >> 4, data[at] & 0x0F, data[start : start + size]
            at = start + size
        self._rest = data[at:]


def _text(value: str) -> bytes:
    data = value.encode()
    return len(data).to_bytes(2, "big") + data


def _length(size: int) -> bytes:
    out = bytearray()
    while True:
        size, low = size >> 7, size & 0x7F
        out.append(low | 0x80 if size else low)
        if not size:
            return bytes(out)
