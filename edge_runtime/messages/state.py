"""Retained states: what a device and the aggregator show to people and programs.

A state never holds an exact count of real rows: that is a statistic of private data.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edge_runtime.messages.fields import (
    FORMAT_VERSION,
    Count,
    Fraction,
    Id,
    OptionalDigest,
    OptionalMessageId,
    Text,
    decode_json,
    encode_json,
)
from edge_runtime.messages.limits import DEFAULT_LIMITS, Limits

__all__ = [
    "AggregatorStatus",
    "DeviceProgress",
    "DeviceState",
    "decode_state",
    "decode_status",
    "encode_state",
    "encode_status",
]

_Epsilon = Annotated[float, Meta(ge=0.0)]


class DeviceState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a device is doing; with status `offline` it is also the device's will.

    Parameters
    ----------
    device : str
        Id of the device.
    status : str
        `online`: connected, nothing asked yet; `waiting`: for schema, plan, bundle or rows;
        `measuring`, `training`, `sampling`, `sending`: parts of a plan; `idle`: plan done and
        acknowledged; `declined`: the plan was refused, see `reason`; `stopped`: ended cleanly;
        `offline`: the connection was lost.
    plan_id, round : str, int
        The plan in work, if any.
    progress : float
        Of the current part, 0 to 1.
    private : bool
        False when this device releases WITHOUT PRIVACY.
    epsilon_spent, epsilon_limit : float or None
        Of the ledger at `delta`; None without privacy.
    outbox : int
        Messages not acknowledged yet.
    bytes_up : int
        Payload bytes sent since the store was made, repeats included.
    rows_sent : int
        SYNTHETIC rows sent and acknowledged.
    reason : str
        For people; holds no values of rows.
    software : str
        Version of the agent.
    throttled : str
        Why the agent works slowly or not at all, such as `slow: temperature 82 C`; else empty.
    clock : str
        `synchronised` (held to a reference) or `unsynchronised`; empty where it is not known.
    updates : str
        `unsigned`: this device takes what the broker hands it; `waiting`: it takes only what is
        signed, and has no valid metadata; `verified`: it has; `expired`: it had.
    refused : str
        What was refused last of schemas, plans, bundles and their metadata, and why; empty once
        all that is in force has been taken.
    bundle, previous_bundle : str
        Digests of the bundle in use and of the one to go back to; empty before the first.
    """

    version: int = FORMAT_VERSION
    device: Id
    status: Literal[
        "online",
        "offline",
        "waiting",
        "measuring",
        "training",
        "sampling",
        "sending",
        "idle",
        "declined",
        "stopped",
    ]
    plan_id: OptionalMessageId = ""
    round: Count = 0
    progress: Fraction = 0.0
    private: bool = True
    epsilon_spent: _Epsilon | None = None
    epsilon_limit: _Epsilon | None = None
    delta: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0
    outbox: Count = 0
    bytes_up: Count = 0
    rows_sent: Count = 0
    reason: Text = ""
    software: Annotated[str, Meta(max_length=64)] = ""
    throttled: Text = ""
    clock: Literal["", "synchronised", "unsynchronised"] = ""
    updates: Literal["unsigned", "waiting", "verified", "expired"] = "unsigned"
    refused: Text = ""
    bundle: OptionalDigest = ""
    previous_bundle: OptionalDigest = ""


class DeviceProgress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the aggregator holds of one device.

    Parameters
    ----------
    status : str
        The device's own last status, or the aggregator's view of it.
    round : int
        Last round answered completely.
    batches, rows, quarantined, bytes : int
        Accepted batches and synthetic rows, messages set aside, payload bytes received.
    epsilon : float or None
        From the last privacy statement; None without privacy or before the first.
    throttled : str
        As in the device's own state.
    """

    status: Annotated[str, Meta(max_length=64)]
    round: Count = 0
    batches: Count = 0
    rows: Count = 0
    quarantined: Count = 0
    bytes: Count = 0
    epsilon: _Epsilon | None = None
    throttled: Text = ""


class AggregatorStatus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the aggregator is doing.

    Parameters
    ----------
    phase : str
        `waiting` for devices, `census`, `round`, `fusing`, `done`, `failed`, and `offline` as
        its will.
    round, rounds : int
        The round in work and how many are planned.
    devices : dict of str to DeviceProgress
        By device id.
    batches, rows, quarantined : int
        Of the whole pool: accepted batches, accepted synthetic rows, messages set aside.
    unauthentic : int
        Messages dropped since the aggregator's start that no device of the fleet has sent.
    bundle_digest : str
        The bundle in force.
    progress : float
        Of the current phase, 0 to 1.
    private : bool
        False when the fleet runs WITHOUT PRIVACY.
    metrics : dict of str to float or None
        Figures of the last candidate against the anchor.
    reason : str
        For people.
    rollout : float
        Share of the fleet that the round's plan is for so far; 1 without a staged rollout.
    rollout_stopped : bool
        Whether it widens no more, as devices have failed; see `reason`.
    signed : bool
        Whether schema, plan and bundles are signed.
    """

    version: int = FORMAT_VERSION
    phase: Literal["waiting", "census", "round", "fusing", "done", "failed", "offline"]
    round: Count = 0
    rounds: Count = 0
    devices: dict[Id, DeviceProgress] = msgspec.field(default_factory=dict)
    batches: Count = 0
    rows: Count = 0
    quarantined: Count = 0
    unauthentic: Count = 0
    bundle_digest: OptionalDigest = ""
    progress: Fraction = 0.0
    private: bool = True
    metrics: dict[Annotated[str, Meta(max_length=200)], float | None] = msgspec.field(
        default_factory=dict
    )
    reason: Text = ""
    rollout: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    rollout_stopped: bool = False
    signed: bool = False


def encode_state(state: DeviceState) -> bytes:
    """Encode a device's state as JSON; see `fields.encode_json`."""
    return encode_json(state)


def decode_state(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> DeviceState:
    """Decode and check a device's state; see `fields.decode_json`."""
    return decode_json(data, DeviceState, limit=limits.json_bytes)


def encode_status(status: AggregatorStatus) -> bytes:
    """Encode the aggregator's status as JSON; see `fields.encode_json`."""
    return encode_json(status)


def decode_status(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> AggregatorStatus:
    """Decode and check the aggregator's status; see `fields.decode_json`."""
    return decode_json(data, AggregatorStatus, limit=limits.json_bytes)
