"""The application acknowledgement: the only proof that a message is stored.

A PUBACK says that a broker holds a message in memory; a broker killed after it can lose all of
them. The aggregator therefore acknowledges after its commit, and the device sends again until
then.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from edge_runtime.messages.fields import (
    FORMAT_VERSION,
    Count,
    Digest,
    OptionalMessageId,
    Text,
    decode_json,
    encode_json,
)
from edge_runtime.messages.limits import DEFAULT_LIMITS, Limits

__all__ = ["Ack", "Status", "decode_ack", "encode_ack"]

Status: TypeAlias = Literal["accepted", "duplicate", "quarantined", "refused"]


class Ack(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The aggregator's answer to one message.

    Parameters
    ----------
    id, sequence : str, int
        From the header of the message; empty and 0 when that could not be read, so that `sha256`
        alone says which message is meant.
    sha256 : str
        Of the payload bytes as received: an acknowledgement for other bytes is not one.
    status : {"accepted", "duplicate", "quarantined", "refused"}
        Stored; stored before; stored apart for an operator; not stored and not wanted again.
        After each of them the device stops sending; a refused message is kept with the reason.
    reason : str
        For people.
    """

    version: int = FORMAT_VERSION
    id: OptionalMessageId
    sequence: Count
    sha256: Digest
    status: Status
    reason: Text = ""


def encode_ack(ack: Ack) -> bytes:
    """Encode an acknowledgement as JSON; see `fields.encode_json`."""
    return encode_json(ack)


def decode_ack(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Ack:
    """Decode and check an acknowledgement; see `fields.decode_json`."""
    return decode_json(data, Ack, limit=limits.json_bytes)
