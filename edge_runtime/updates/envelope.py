"""What travels: all metadata that a device needs, in one retained message.

The Update Framework names files, which may be fetched at different moments and then do not belong
together. One message is replaced as a whole. Each part is a metadata file of the specification,
word for word as it was signed, so that any other client of the framework can read it.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from edge_runtime.errors import MessageError, SizeError

__all__ = ["ENVELOPE_BYTES", "Envelope", "Target", "decode_envelope", "encode_envelope"]

#: More is refused unread: 100 roots of 1.5 kB and 1,000 targets of 200 bytes are less.
ENVELOPE_BYTES = 512 << 10

Role = Literal["schema", "plan", "bundle"]


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing that is signed: `bytes` long, with this SHA-256, for this role."""

    role: Role
    bytes: Annotated[int, msgspec.Meta(ge=0)]
    sha256: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class Envelope(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The message.

    Parameters
    ----------
    roots : dict of str to str
        ``root.json`` by its version, from the second on: whoever was away while keys changed goes
        from one to the next.
    timestamp, snapshot, targets : str
        The three files in force.
    """

    roots: dict[str, str] = {}
    timestamp: str
    snapshot: str
    targets: str

    def file(self, name: str) -> str | None:
        """Return a file by the framework's name for it, such as ``3.root.json``."""
        version, _, rest = name.partition(".")
        if rest == "root.json":
            return self.roots.get(version)
        return {
            "timestamp.json": self.timestamp,
            "snapshot.json": self.snapshot,
            "targets.json": self.targets,
        }.get(name)


_DECODER = msgspec.json.Decoder(Envelope)


def encode_envelope(envelope: Envelope) -> bytes:
    """Encode as JSON."""
    return msgspec.json.encode(envelope)


def decode_envelope(data: bytes) -> Envelope:
    """Decode; nothing of it is verified yet.

    Raises
    ------
    SizeError, MessageError
        Larger than `ENVELOPE_BYTES`; not this format.
    """
    if len(data) > ENVELOPE_BYTES:
        raise SizeError(
            f"signed metadata of {len(data)} bytes; at most {ENVELOPE_BYTES} are accepted"
        )
    try:
        return _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"signed metadata cannot be read: {error}") from error
