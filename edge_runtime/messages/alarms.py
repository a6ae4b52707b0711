"""What the aggregator's guard has found wrong, for people and programs: retained JSON."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edge_runtime.messages.fields import (
    FORMAT_VERSION,
    Count,
    Id,
    OptionalDigest,
    Text,
    decode_json,
    encode_json,
)
from edge_runtime.messages.limits import DEFAULT_LIMITS, Limits

__all__ = ["Alarm", "Alarms", "decode_alarms", "encode_alarms"]


class Alarm(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing that is wrong, or worth knowing.

    Parameters
    ----------
    kind : str
        `likelihood`, `tails`, `rare`, `pairs`, `subgroup`, `budget`, `drift`, `rejections`,
        `rollback` or `device`.
    severity : {"notice", "warning", "critical"}
        Notice: for information, nothing has declined. Warning: something has, or a person should
        act soon. Critical: the generator is collapsing, or the fleet cannot go on as it is.
    subject : str
        Column, pair, group, device or bundle that it is about.
    value, expected, error : float or None
        The figure found, what the reference says, and the standard error of their difference.
    since_round : int
        The round in which it was first raised.
    text : str
        For people: what it means, with the figures.
    """

    kind: Literal[
        "likelihood",
        "tails",
        "rare",
        "pairs",
        "subgroup",
        "budget",
        "drift",
        "rejections",
        "rollback",
        "device",
    ]
    severity: Literal["notice", "warning", "critical"]
    subject: Annotated[str, Meta(max_length=300)]
    value: float | None = None
    expected: float | None = None
    error: float | None = None
    since_round: Count = 0
    text: Text = ""


class Alarms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All alarms in force after a round; an empty list says that all is well.

    Parameters
    ----------
    fleet : str
        The fleet.
    round : int
        The round they were found after.
    bundle_digest : str
        The generator in force.
    alarms : tuple of Alarm
        Critical ones first.
    """

    version: int = FORMAT_VERSION
    fleet: Id
    round: Count = 0
    bundle_digest: OptionalDigest = ""
    alarms: Annotated[tuple[Alarm, ...], Meta(max_length=1000)] = ()


def encode_alarms(alarms: Alarms) -> bytes:
    """Encode alarms as JSON; see `fields.encode_json`."""
    return encode_json(alarms)


def decode_alarms(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Alarms:
    """Decode and check alarms; see `fields.decode_json`."""
    return decode_json(data, Alarms, limit=limits.json_bytes)
