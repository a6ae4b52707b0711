"""What the aggregator asks of the fleet in a round."""

from __future__ import annotations

import hashlib
import itertools
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
from edge_runtime.messages.moments import MomentsRequest

__all__ = [
    "AnchorRequest",
    "Plan",
    "RowRequest",
    "ScoreRequest",
    "TrainRequest",
    "UpdateRequest",
    "decode_plan",
    "encode_plan",
    "in_rollout",
]

_Steps = Annotated[int, Meta(ge=1, le=10_000_000)]
_Column = Annotated[int, Meta(ge=0, le=65_535)]
# Beyond four columns a table has more cells than any device has rows.
_Columns = Annotated[tuple[_Column, ...], Meta(min_length=1, max_length=4)]
_Share = Annotated[float, Meta(gt=0.0, le=1.0)]
_Weight = Annotated[float, Meta(ge=0.0)]

#: Norms of gradients are summed in float32, where squares below 1e-45 vanish. Weights can be made
#: such that a whole gradient does so (found: up to a norm of .001). It must be nothing beside
#: the clipping norm, as it is not clipped.
_LEAST_CLIP, _MOST_CLIP = 0.1, 1e6

#: shares that were written as decimals may add up to a little more than 1
_SHARE_SLACK = 1e-9


class TrainRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to train locally; the noise follows from the device's own accountant.

    Parameters
    ----------
    steps : int
        Optimiser steps.
    expected_batch : int
        Expected rows of a Poisson-sampled step.
    clip_norm : float
        L2 norm that each row's gradient is clipped to, .1 to 1e6.
    learning_rate : float
        Of Adam.
    averaging : float
        Decay of the running mean of iterates, 0 for none.

    Raises
    ------
    RangeError
        A norm that float32 cannot clip by.
    """

    steps: _Steps
    expected_batch: _Steps
    clip_norm: PositiveFloat
    learning_rate: PositiveFloat
    averaging: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0

    def __post_init__(self) -> None:
        if not _LEAST_CLIP <= self.clip_norm <= _MOST_CLIP:
            raise RangeError(
                f"train: clip_norm {self.clip_norm:g} is outside {_LEAST_CLIP:g}..{_MOST_CLIP:g}"
            )


class AnchorRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which noisy counts of codes to release.

    One noise for all tables: a row adds 1 to one cell of each, so the squared L2 sensitivity is
    the number of tables. Nothing but what is listed is counted.

    Parameters
    ----------
    share : float
        Share of this plan's budget, in RDP.
    tables : tuple of tuple of int
        Columns of each table, 1 to 4 of them in ascending order; no table twice.
    """

    share: _Share
    tables: Annotated[tuple[_Columns, ...], Meta(min_length=1, max_length=4096)]

    def __post_init__(self) -> None:
        for table in self.tables:
            if any(a >= b for a, b in itertools.pairwise(table)):
                raise RangeError(f"anchor: columns {list(table)} are not in ascending order")
        if len(set(self.tables)) != len(self.tables):
            # A table counted twice would be paid for twice and sent once.
            twice = next(table for table in self.tables if self.tables.count(table) > 1)
            raise RangeError(f"anchor: columns {list(twice)} are asked for twice")


class ScoreRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to score the plan's bundle on the device's held-out rows.

    Parameters
    ----------
    share : float
        Share of this plan's budget, in RDP.
    clip_nats : float
        A row's negative log-likelihood counts up to here, in nats.
    """

    share: _Share
    clip_nats: PositiveFloat


class UpdateRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to publish the change of weights that private training brought.

    Parameters
    ----------
    clip_norm : float
        L2 norm that the whole change is scaled down to where it is longer.
    """

    clip_norm: PositiveFloat


class RowRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many synthetic rows to send, and with which conditions.

    Parameters
    ----------
    share : float
        Rows per real row, by the device's NOISY row count.
    minimum, maximum : int
        Bounds of the result.
    clamp : {"own", "balanced", "wish"}
        Condition columns as in the device's own noisy histogram, evenly over what it has seen, or
        the first of them by `wish`; never what the noisy histogram does not support.
    wish : tuple of float
        For "wish": weights of the codes of the first condition column.
    """

    share: PositiveFloat
    minimum: Count
    maximum: Count
    clamp: Literal["own", "balanced", "wish"] = "own"
    wish: Annotated[tuple[_Weight, ...], Meta(max_length=65_535)] = ()

    def __post_init__(self) -> None:
        if self.minimum > self.maximum:
            raise RangeError(f"rows: minimum {self.minimum} is above maximum {self.maximum}")
        if (self.clamp == "wish") != bool(self.wish):
            raise RangeError("rows: clamp 'wish' and the weights of the wish go together")
        if self.wish and not sum(self.wish) > 0.0:
            raise RangeError("rows: every weight of the wish is 0")


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One round's request to every device.

    Parameters
    ----------
    fleet, id : str
        Fleet and uuid4 of the plan; the same id is the same plan, whenever it arrives.
    round : int
        0 for the census, then from 1.
    kind : {"census", "measure", "train", "sample"}
        Census: release noisy histograms. Measure: release the anchor or moments, or score the
        bundle. Train: train from the bundle and send rows; the others and an update where asked.
        Sample: send rows of the bundle as it is; no real row has a part in it, and nothing is
        spent.
    schema_digest : str
        The schema the plan is about.
    bundle_digest : str or None
        Where training starts and what is scored; names the retained bundle.
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
    train, anchor, moments, rows, score, update : request or None
        What a train or measure plan asks for.
    holdout : float
        Share of a device's rows that take part in nothing but scoring: neither in counts and
        sums nor in training. The device draws them once; the same rows for ever.
    rollout : float
        Share of the fleet that is to carry the plan out, see `in_rollout`; the others wait for the
        same plan with a larger one.
    """

    version: int = FORMAT_VERSION
    fleet: Id
    id: MessageId
    round: Count
    kind: Literal["census", "measure", "train", "sample"]
    schema_digest: Digest
    bundle_digest: Digest | None = None
    epsilon_after: PositiveFloat | None
    delta: Annotated[float, Meta(ge=0.0, lt=1.0)]
    deadline_s: PositiveFloat
    quorum: Annotated[int, Meta(ge=1)]
    census_sigma: Annotated[float, Meta(ge=0.0)] | None = None
    train: TrainRequest | None = None
    anchor: AnchorRequest | None = None
    moments: MomentsRequest | None = None
    rows: RowRequest | None = None
    score: ScoreRequest | None = None
    update: UpdateRequest | None = None
    holdout: Annotated[float, Meta(ge=0.0, lt=0.5)] = 0.0
    rollout: _Share = 1.0

    def __post_init__(self) -> None:
        training = (self.train, self.rows)
        measuring = (self.anchor, self.moments, self.score)
        if self.kind == "train" and None in (self.bundle_digest, *training):
            raise RangeError("plan: kind 'train' needs bundle_digest, train and rows")
        if self.kind == "measure" and (
            self.bundle_digest is None
            or measuring == (None, None, None)
            or (*training, self.update) != (None, None, None)
        ):
            raise RangeError(
                "plan: kind 'measure' needs bundle_digest and anchor, moments or score, and has no "
                "train, rows or update"
            )
        if self.kind == "sample" and (
            None in (self.bundle_digest, self.rows)
            or any(p is not None for p in (self.train, *measuring, self.update))
            or self.holdout > 0.0
        ):
            raise RangeError(
                "plan: kind 'sample' needs bundle_digest and rows, and has no train, anchor, "
                "moments, score, update or holdout"
            )
        if self.kind == "census" and (
            any(p is not None for p in (self.bundle_digest, *training, *measuring, self.update))
            or self.holdout > 0.0
        ):
            raise RangeError(
                "plan: kind 'census' has no bundle_digest, train, anchor, moments, rows, score, "
                "update or holdout"
            )
        if self.score is not None and self.holdout == 0.0:
            raise RangeError("plan: a score needs held-out rows, and holdout is 0")
        shares = sum(part.share for part in measuring if part is not None)
        most = 1.0 + _SHARE_SLACK if self.kind == "measure" else 1.0 - _SHARE_SLACK
        if shares > most:
            raise RangeError(
                f"plan: anchor, moments and score take {shares:g} of the budget"
                + ("" if self.kind == "measure" else "; nothing is left for training")
            )


def in_rollout(plan: Plan, device: str) -> bool:
    """Whether a plan's share of the fleet includes a device.

    A device's place between 0 and 1 follows from both ids: devices and aggregator agree on it, it
    differs from plan to plan, and a larger share includes all devices of a smaller one.
    """
    place = hashlib.sha256(f"{device}\0{plan.id}".encode()).digest()[:8]
    return int.from_bytes(place, "big") < plan.rollout * 2**64


def encode_plan(plan: Plan) -> bytes:
    """Encode a plan as JSON; see `fields.encode_json`."""
    return encode_json(plan)


def decode_plan(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Plan:
    """Decode and check a plan; see `fields.decode_json`."""
    return decode_json(data, Plan, limit=limits.json_bytes)
