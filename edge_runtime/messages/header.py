"""The header inside every batch and summary: who, what, from which generator, at what cost."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edge_runtime.errors import RangeError
from edge_runtime.messages.fields import (
    FORMAT_VERSION,
    Count,
    Digest,
    Id,
    MessageId,
    OptionalDigest,
    OptionalMessageId,
    OptionalSeed,
    decode_json,
    encode_json,
)
from edge_runtime.messages.limits import DEFAULT_LIMITS, Limits

__all__ = ["Header", "PrivacyStatement", "decode_header", "encode_header"]

# Of 64 bits: what is larger is a number in JSON alone.
_Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Extra = Annotated[
    dict[Annotated[str, Meta(max_length=64)], str | _Integer | float], Meta(max_length=32)
]


class PrivacyStatement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the device's ledger says after the release that a message carries.

    Parameters
    ----------
    mechanism : str
        What drew the noise, such as `dp-sgd` or `discrete-gaussian`, or `none`.
    epsilon : float or None
        Cumulative epsilon of the unit after this release; None means WITHOUT PRIVACY.
    delta : float
        The delta that `epsilon` holds at.
    unit : str
        What is protected, such as `row`.
    accountant : str
        How releases compose, such as `rdp`.
    """

    mechanism: Annotated[str, Meta(max_length=200)]
    epsilon: Annotated[float, Meta(ge=0.0)] | None
    delta: Annotated[float, Meta(ge=0.0, lt=1.0)]
    unit: Annotated[str, Meta(max_length=200)] = "row"
    accountant: Annotated[str, Meta(max_length=200)] = "rdp"


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Lineage and privacy of one batch or summary.

    Parameters
    ----------
    fleet, device : str
        Who sends it.
    id : str
        uuid4 of this message; what the aggregator deduplicates by.
    sequence : int
        Counts a device's messages, from 0, over its whole life.
    kind : {"batch", "census", "anchor", "moments", "score", "update"}
        What the body holds.
    schema_digest : str
        SHA-256 of the schema that the rows follow.
    codec_digest : str
        SHA-256 of the codec that the codes belong to; empty for a census, which precedes it.
    bundle_digest : str
        SHA-256 of the bundle that local training started from, or that was scored; empty for a
        census.
    plan_id : str
        The plan this answers; empty outside a plan.
    part, parts : int
        This is message `part` (from 1) of `parts` of this kind that answer the plan.
    round : int
        Round of the plan.
    depth : int
        Lineage: generations of synthetic rows behind these; 0 for statistics of real rows.
    seed : str
        The PUBLIC sampling key as 64 hexadecimal digits; empty where nothing was sampled.
    privacy : PrivacyStatement
        What the release cost.
    extra : dict of str to str, int or float
        Public facts of the kind, such as `sigma`, the standard deviation of the noise per count;
        integers of 64 bits.
    """

    version: int = FORMAT_VERSION
    fleet: Id
    device: Id
    id: MessageId
    sequence: Count
    kind: Literal["batch", "census", "anchor", "moments", "score", "update"]
    schema_digest: Digest
    codec_digest: OptionalDigest = ""
    bundle_digest: OptionalDigest = ""
    plan_id: OptionalMessageId = ""
    part: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    parts: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    round: Count = 0
    depth: Count = 0
    seed: OptionalSeed = ""
    privacy: PrivacyStatement
    extra: _Extra = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.part > self.parts:
            raise RangeError(f"header: part {self.part} of {self.parts}")


def encode_header(header: Header) -> bytes:
    """Encode a header as JSON; see `fields.encode_json`."""
    return encode_json(header)


def decode_header(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Header:
    """Decode and check a header; see `fields.decode_json`."""
    return decode_json(data, Header, limit=limits.header_bytes)
