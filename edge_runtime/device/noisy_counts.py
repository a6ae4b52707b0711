"""The one place where noisy counts of real rows leave the device.

Census, anchor, moments and score differ in what they count and how much of the plan's room they may
use; everything after that is the same for all, and in an order that must not change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

from edge_runtime.device.bench import Bench
from edge_runtime.device.budget import counts_cost, counts_sigma
from edge_runtime.kernel import PrivacyNoise
from edge_runtime.messages import Plan, encode_summary
from edge_runtime.privacy import release_counts
from edge_runtime.schema import Schema

__all__ = ["Counted", "is_released", "release_noisy", "round_off", "share_of_room"]

Counted = Literal["census", "anchor", "moments", "score"]
Tables = Mapping[str, npt.NDArray[np.int64]]


def is_released(bench: Bench, plan: Plan, kind: Counted) -> bool:
    """Whether these counts have left already; a plan's counts do so once."""
    entry = bench.ledger.find(_key(plan, kind))
    return entry is not None and entry.released


def release_noisy(
    bench: Bench,
    plan: Plan,
    kind: Counted,
    *,
    counts: Tables,
    sensitivity_squared: int,
    sigma: Callable[[], Fraction],
    schema: Schema,
    codec_digest: str = "",
    extra: Mapping[str, str | int | float] | None = None,
    details: Mapping[str, int] | None = None,
    shift: Callable[[Fraction], int] | None = None,
    settle: Callable[[bytes], None] | None = None,
) -> Fraction:
    """Spend, then draw noise, then enqueue; return the standard deviation of the noise.

    In this order, because a crash may come between any two steps. What is spent is on disk before
    the first random number is drawn, so nothing that depends on a real row exists outside of
    memory without an entry in the ledger. An entry that is found unreleased is used again with its
    own sigma: nothing of it left, and fresh noise is drawn. Message, the ledger's mark and what
    else belongs to the release are one transaction: either all of them are there or none is.

    Parameters
    ----------
    kind : {"census", "anchor", "moments", "score"}
    counts : mapping of int64 arrays
        The exact tables, PRIVATE. Counted before: what cannot be counted costs nothing.
    sensitivity_squared : int
        Squared L2 norm of what one row adds to all tables together.
    sigma : callable () -> Fraction
        Standard deviation per count, 0 WITHOUT PRIVACY; called only where nothing is spent yet.
    schema : Schema
        Names the privacy unit.
    codec_digest : str
        Of the codec that was counted with, where there is one.
    extra : mapping
        For the message's header, beside sigma.
    details : mapping
        For the ledger's entry, beside round and sigma.
    shift : callable (Fraction) -> int
        By the noise, how many low binary digits are not sent; they are then rounded off, and the
        header says how many.
    settle : callable (bytes)
        What else is to be committed with the message, which it is given.

    Raises
    ------
    PlanError, BudgetError
        When the noise asked for does not fit under the plan's ceiling or the device's limit.
    LedgerError
        When these counts were released before, or the ledger cannot be written.
    StoreError
        When the outbox is full; the entry stays and is used at the next attempt.
    """
    key = _key(plan, kind)
    entry = bench.ledger.find(key)
    if entry is None:
        wanted = sigma()
        entry = bench.ledger.spend(
            key=key,
            what=kind,
            rdp=counts_cost(sigma=wanted, sensitivity_squared=sensitivity_squared)
            if wanted
            else None,
            details={"round": plan.round, "sigma": str(wanted), **(details or {})},
        )
    bench.show_spent()
    paid = Fraction(entry.details["sigma"])
    noisy = release_counts(
        entry,
        counts,
        sensitivity_squared=sensitivity_squared,
        sigma=paid,
        noise=PrivacyNoise(),
    )
    extra = {"sigma": float(paid), **(extra or {})}
    if shift is not None:
        extra["shift"] = digits = shift(paid)
        noisy = round_off(noisy, digits=digits)
    statement = bench.statement(entry, mechanism="discrete-gaussian", schema=schema)
    with bench.store.transaction():
        header = bench.header(
            plan=plan,
            kind=kind,
            privacy=statement,
            codec_digest=codec_digest,
            extra=extra,
        )
        payload = encode_summary(header, noisy)
        bench.outbox.add(sequence=header.sequence, id=header.id, kind="summary", payload=payload)
        bench.ledger.mark_released(key, header.id)
        if settle is not None:
            settle(payload)
    return paid


def round_off(noisy: Tables, *, digits: int) -> dict[str, npt.NDArray[np.int64]]:
    """Leave out low binary digits of what has its noise already, rounded to nearest."""
    half = (1 << digits) >> 1
    return {name: (table + half) >> digits for name, table in noisy.items()}


def share_of_room(
    bench: Bench, plan: Plan, *, sensitivity_squared: int, share: float = 1.0
) -> Fraction:
    """Find the noise per count that uses a share of the plan's room; see `counts_sigma`."""
    return counts_sigma(
        sensitivity_squared=sensitivity_squared,
        spent=bench.ledger.rdp_spent(),
        epsilon_after=plan.epsilon_after,
        delta=bench.ledger.delta,
        share=share,
    )


def _key(plan: Plan, kind: Counted) -> str:
    return f"{plan.id}/{kind}"
