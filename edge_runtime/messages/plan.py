"""What the aggregator asks of the fleet in a round."""

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
    PositiveFloat,
    decode_json,
    encode_json,
)
from edge_runtime.messages.limits import DEFAULT_LIMITS, Limits

__all__ = ["AnchorRequest", "Plan", "RowRequest", "TrainRequest", "decode_plan", "encode_plan"]

_Steps = Annotated[int, Meta(ge=1, le=10_000_000)]
_Column = Annotated[int, Meta(ge=0, le=65_535)]


class TrainRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to train locally; the noise follows from the device's own accountant.

    Parameters
    ----------
    steps : int
        Optimiser steps.
    expected_batch : int
        Expected rows of a Poisson-sampled step.
    clip_norm : float
        L2 norm that each row's gradient is clipped to.
    learning_rate : float
        Of Adam.
    averaging : float
        Decay of the running mean of iterates, 0 for none.
    """

    steps: _Steps
    expected_batch: _Steps
    clip_norm: PositiveFloat
    learning_rate: PositiveFloat
    averaging: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0


class AnchorRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which noisy counts of codes to release beside the rows.

    Parameters
    ----------
    share : float
        Share of this plan's budget, in RDP.
    pairs : tuple of (int, int)
        Column pairs to count, each `a < b`; one-way counts of all columns are always included.
    """

    share: Annotated[float, Meta(gt=0.0, lt=1.0)]
    pairs: Annotated[tuple[tuple[_Column, _Column], ...], Meta(max_length=4096)] = ()

    def __post_init__(self) -> None:
        for a, b in self.pairs:
            if a >= b:
                raise RangeError(f"anchor: column pair ({a}, {b}) is not in ascending order")


class RowRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many synthetic rows to send.

    Parameters
    ----------
    share : float
        Rows per real row, by the device's NOISY row count.
    minimum, maximum : int
        Bounds of the result.
    clamp : {"own", "balanced"}
        Condition columns as in the device's own noisy histogram, or evenly over what it has seen.
    """

    share: PositiveFloat
    minimum: Count
    maximum: Count
    clamp: Literal["own", "balanced"] = "own"

    def __post_init__(self) -> None:
        if self.minimum > self.maximum:
            raise RangeError(f"rows: minimum {self.minimum} is above maximum {self.maximum}")


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One round's request to every device.

    Parameters
    ----------
    fleet, id : str
        Fleet and uuid4 of the plan; the same id is the same plan, whenever it arrives.
    round : int
        0 for the census, then from 1.
    kind : {"census", "train"}
        Census: release noisy histograms. Train: train from the bundle, send rows and anchor.
    schema_digest : str
        The schema the plan is about.
    bundle_digest : str or None
        Where training starts; names the retained bundle.
    epsilon_after : float or None
        CUMULATIVE ceiling of the unit's epsilon once this plan is done; None: WITHOUT PRIVACY.
    delta : float
        The delta that `epsilon_after` is stated at.
    deadline_s : float
        The aggregator waits this long from publishing the plan; answers after it still count
        towards the pool.
    quorum : int
        Devices whose answers let the round end at the deadline.
    census_sigma : float or None
        Standard deviation of the noise per cell that every device should use, where the
        aggregator prescribes it; None lets the device derive it from `epsilon_after`.
    train, anchor, rows : request or None
        What a train plan asks for.
    """

    version: int = FORMAT_VERSION
    fleet: Id
    id: MessageId
    round: Count
    kind: Literal["census", "train"]
    schema_digest: Digest
    bundle_digest: Digest | None = None
    epsilon_after: PositiveFloat | None
    delta: Annotated[float, Meta(ge=0.0, lt=1.0)]
    deadline_s: PositiveFloat
    quorum: Annotated[int, Meta(ge=1)]
    census_sigma: Annotated[float, Meta(ge=0.0)] | None = None
    train: TrainRequest | None = None
    anchor: AnchorRequest | None = None
    rows: RowRequest | None = None

    def __post_init__(self) -> None:
        asked = (self.bundle_digest, self.train, self.rows)
        if self.kind == "train" and any(part is None for part in asked):
            raise RangeError("plan: kind 'train' needs bundle_digest, train and rows")
        if self.kind == "census" and any(part is not None for part in (*asked, self.anchor)):
            raise RangeError("plan: kind 'census' has no bundle_digest, train, anchor or rows")


def encode_plan(plan: Plan) -> bytes:
    """Encode a plan as JSON; see `fields.encode_json`."""
    return encode_json(plan)


def decode_plan(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Plan:
    """Decode and check a plan; see `fields.decode_json`."""
    return decode_json(data, Plan, limit=limits.json_bytes)
