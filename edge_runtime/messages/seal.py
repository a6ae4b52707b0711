"""The seal around a message: proof to each side that the other has sent it, whatever lies between.

Device and aggregator share a key that the broker does not know (`edge_runtime.process.agreement`).
A sealed message is, without anything in between,

    4 bytes    ``ERS`` and the format version, 1
    2 bytes    length of what follows, big endian
    that many  the sender's certificate, DER: of a device; empty from the aggregator
    32 bytes   HMAC-SHA256 under the key of the topic, a zero byte and the body
    the rest   the body: the message as it is without a seal

The topic names direction, device and kind, so that a message is of no use in another place. That
it is not an old one is not the seal's business: ids and digests tell.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import NamedTuple

from edge_runtime.errors import AuthenticityError, MessageError, SizeError, VersionError
from edge_runtime.messages.limits import DEFAULT_LIMITS, Limits

__all__ = ["KEY_BYTES", "Sealed", "decode_sealed", "is_sealed", "seal"]

KEY_BYTES = 32

_MAGIC, _VERSION = b"ERS", 1
_HEAD = struct.Struct(">3sBH")
_MAC_BYTES = hashlib.sha256().digest_size


class Sealed(NamedTuple):
    """A message taken apart, of which nothing is known yet.

    Attributes
    ----------
    certificate : bytes
        The sender's, DER; empty from the aggregator.
    mac : bytes
        What it is to be checked by.
    body : bytes
        The message.
    """

    certificate: bytes
    mac: bytes
    body: bytes

    def check(self, *, topic: str, key: bytes) -> bytes:
        """Return the body if the holder of the key sealed it for this topic.

        Raises
        ------
        AuthenticityError
            Somebody else made it, changed it, or took it from another topic.
        """
        if not hmac.compare_digest(self.mac, _mac(self.body, topic=topic, key=key)):
            raise AuthenticityError("the seal does not fit topic and message")
        return self.body


def seal(body: bytes, *, topic: str, key: bytes, certificate: bytes = b"") -> bytes:
    """Put a seal around a message.

    Parameters
    ----------
    body : bytes
        The message.
    topic : str
        Where it is published.
    key : bytes
        32 bytes that both sides have.
    certificate : bytes
        The sender's, DER: of a device.
    """
    head = _HEAD.pack(_MAGIC, _VERSION, len(certificate))
    return b"".join((head, certificate, _mac(body, topic=topic, key=key), body))


def is_sealed(data: bytes) -> bool:
    """Return whether a message has a seal; no body of this protocol begins like one."""
    return data.startswith(_MAGIC)


def decode_sealed(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Sealed:
    """Take a sealed message apart; whether its seal is right is for `Sealed.check`.

    Raises
    ------
    SizeError, VersionError, MessageError
        Certificate or body are too large; of another version; no seal, or cut off.
    """
    if not is_sealed(data):
        raise MessageError("the message has no seal")
    if len(data) < _HEAD.size:
        raise MessageError("the seal is cut off")
    _, version, size = _HEAD.unpack_from(data)
    if version != _VERSION:
        raise VersionError(
            f"seal: format version {version}, this release reads {_VERSION}; update the older side"
        )
    if size > limits.certificate_bytes:
        raise SizeError(
            f"a certificate of {size} bytes, at most {limits.certificate_bytes} are accepted"
        )
    begins = _HEAD.size + size + _MAC_BYTES
    if len(data) < begins:
        raise MessageError("the seal is cut off")
    if len(data) - begins > limits.message_bytes:
        raise SizeError(f"{len(data) - begins} bytes, at most {limits.message_bytes} are accepted")
    return Sealed(
        certificate=data[_HEAD.size : _HEAD.size + size],
        mac=data[begins - _MAC_BYTES : begins],
        body=data[begins:],
    )


def _mac(body: bytes, *, topic: str, key: bytes) -> bytes:
    mac = hmac.new(key, topic.encode() + b"\0", hashlib.sha256)
    mac.update(body)
    return mac.digest()
