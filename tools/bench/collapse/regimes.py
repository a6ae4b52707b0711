"""The regimes that collapse: what the next generator learns from, where real rows do not stay.

Each generation is trained from scratch, as in the literature (Shumailov et al. 2024; Gerstgrasser
et al. 2024), with early stopping on a tenth of its own training rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edge_runtime.generator import (
    Bundle,
    Layout,
    Weights,
    initial_weights,
    open_engine,
    sample_codes,
)
from edge_runtime.training import train
from tools.bench.collapse.figures import Judge

__all__ = ["REGIMES", "Fit", "Regime", "fit", "generations", "sample"]

I32 = npt.NDArray[np.int32]
Regime = Literal["replace", "accumulate", "local filter", "10 % real"]

#: in the order of the table
REGIMES: tuple[Regime, ...] = ("replace", "accumulate", "local filter", "10 % real")


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a generation is trained."""

    steps: int = 1200
    batch: int = 256
    learning_rate: float = 5e-3
    patience: int = 10


def fit(rows: I32, layout: Layout, judge: Judge | None, how: Fit, *, seed: int) -> Weights:
    """Train a generator from scratch."""
    rng = np.random.default_rng(seed)
    check = rng.random(len(rows)) < 0.1
    marginals = [np.bincount(rows[:, d], minlength=k) for d, k in enumerate(layout.cardinalities)]
    weights, _ = train(
        initial_weights(layout, seed=seed, marginals=[m.astype(np.float64) for m in marginals]),
        np.ascontiguousarray(rows[~check]),
        layout=layout,
        steps=how.steps,
        batch=how.batch,
        learning_rate=how.learning_rate,
        seed=seed,
        validation=np.ascontiguousarray(rows[check]),
        patience=how.patience,
        step=None if judge is None else judge.step,
    )
    return weights


def sample(bundle: Bundle, weights: Weights, rows: int, *, name: str) -> I32:
    """Draw rows by the engine that devices run; `name` makes the public key."""
    key = hashlib.sha256(name.encode()).digest()
    engine = open_engine(bundle, weights=weights, engine="kernel")
    try:
        return sample_codes(engine, rows, key=key)
    finally:
        engine.close()


def generations(
    regime: Regime,
    *,
    first: Weights,
    real: I32,
    bundle: Bundle,
    judge: Judge,
    count: int,
    how: Fit,
    seed: int,
) -> Iterator[Weights]:
    """Yield the generators 1 to `count`; generation 0 is `first`, trained on real rows.

    Parameters
    ----------
    real : int32 [rows, D]
        The real rows of generation 0; each generation draws as many.
    """
    rng = np.random.default_rng(seed)
    weights, pool = first, real
    for generation in range(1, count + 1):
        made = sample(bundle, weights, len(real), name=f"{regime} {seed} {generation}")
        if regime == "replace":
            pool = made
        elif regime == "accumulate":
            pool = np.concatenate([pool, made])
        elif regime == "local filter":
            # Four times the rows, of which a quarter is kept: the pool grows as without a filter.
            many = sample(bundle, weights, 4 * len(real), name=f"{regime} {seed} {generation}")
            pool = np.concatenate([pool, _filtered(many, judge)])
        else:
            kept = rng.permutation(len(real))[: len(real) // 10]
            pool = np.concatenate([real[kept], made[: len(real) - len(kept)]])
        weights = fit(pool, judge.layout, judge, how, seed=seed + generation)
        yield weights


def _filtered(rows: I32, judge: Judge) -> I32:
    """Each device takes its share of the rows, and keeps the quarter its own model likes best."""
    scores = judge.likelihoods(rows)
    kept = []
    for device, own in enumerate(scores):
        mine = np.arange(device, len(rows), len(scores))
        order = np.argsort(own[mine])[::-1]
        kept.append(mine[order[: len(mine) // 4]])
    return np.ascontiguousarray(rows[np.sort(np.concatenate(kept))])
