"""Learning from one table on one machine: codec, network and what to say about privacy.

A fleet takes the same steps one by one, in `device` and `aggregator`.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.generator import Layout, Weights, initial_weights
from edge_runtime.kernel import PrivacyNoise
from edge_runtime.privacy import (
    Ledger,
    calibrate_counts,
    rdp_gaussian,
    release_counts,
    round_sigma,
)
from edge_runtime.schema import (
    Census,
    Codec,
    Schema,
    Table,
    census_counts,
    merge_steps,
    shared_codec,
)
from edge_runtime.training.cost import calibrate_settings, release_cost
from edge_runtime.training.private import train_private
from edge_runtime.training.public import train
from edge_runtime.training.settings import TrainSettings
from edge_runtime.training.step import make_step

__all__ = ["CENSUS_SHARE", "Fitted", "Tell", "fit_open", "fit_private"]

#: called with a phase and its share done in 0..1
Tell = Callable[[str, float], None]

Index = NDArray[np.intp]

#: one of so many parts of the rows is held out, without order at most so many rows
_PARTS, _MOST_HELD_OUT = 10, 5_000
#: windows of series are held out in pieces of so many windows' length
_PIECE_WINDOWS = 20

#: Share of the budget (in Renyi divergence) for the noisy histograms behind the bins.
CENSUS_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What was learned.

    `rows` is exact, or noisy under privacy; `privacy` and `metrics` are the bundle's.
    """

    codec: Codec
    layout: Layout
    weights: Weights
    rows: float
    privacy: dict[str, Any]
    metrics: dict[str, Any]


def fit_open(
    table: Table,
    schema: Schema,
    *,
    hidden: int,
    epochs: int,
    seed: int,
    tell: Tell,
) -> Fitted:
    """Learn WITHOUT PRIVACY: real bins, early stopping on held-out rows.

    Parameters
    ----------
    table : Table
        The rows, of `schema`.
    hidden, epochs, seed
        As in `Generator.fit`.
    tell : callable
        Told how far training is.
    """
    codec = Codec.fit(table, schema) if schema.sequence is None else shared_codec(table)
    codes = codec.encode(table).codes
    layout = Layout(codec.cardinalities, hidden)
    counts = [
        np.bincount(column, minlength=k)
        for column, k in zip(codes.T, codec.cardinalities, strict=True)
    ]
    learnt, held = _split(len(codes), schema, seed=seed)
    weights, history = train(
        initial_weights(layout, seed=seed, marginals=[c.astype(np.float64) for c in counts]),
        np.ascontiguousarray(codes[learnt]),
        layout=layout,
        epochs=epochs,
        validation=np.ascontiguousarray(codes[held]) if len(held) else None,
        seed=seed,
        on_progress=lambda step, steps: tell("training", step / steps),
    )
    best = history.epochs[history.best_epoch - 1]
    return Fitted(
        codec=codec,
        layout=layout,
        weights=weights,
        rows=float(len(codes)),
        privacy={"epsilon": None, "delta": None, "unit": schema.privacy_unit},
        metrics={} if best.validation is None else {"validation_nll": best.validation},
    )


def _split(rows: int, schema: Schema, *, seed: int) -> tuple[Index, Index]:
    """Return which rows to learn from and which, about a tenth, to hold out."""
    if schema.sequence is None or rows < _PARTS:
        order = np.random.default_rng(seed).permutation(rows)
        held = min(rows // _PARTS, _MOST_HELD_OUT)
        return order[held:], order[:held]
    # In pieces of series: a window between two that are learnt from is nearly known.
    length = min(_PIECE_WINDOWS * schema.sequence.steps, rows // _PARTS)
    out = np.arange(rows) // length % _PARTS == seed % _PARTS
    return np.flatnonzero(~out), np.flatnonzero(out)


def fit_private(
    table: Table,
    schema: Schema,
    *,
    hidden: int,
    epochs: int,
    seed: int,
    tell: Tell,
    epsilon: float,
    delta: float,
) -> Fitted:
    """Learn under (epsilon, delta) per row: a tenth pays for the bins, DP-SGD has the rest.

    Parameters
    ----------
    table : Table
        The rows, of `schema`; PRIVATE.
    hidden, epochs, seed
        As in `Generator.fit`; the number of steps is bounded so that noise does not drown them.
    tell : callable
        Told how far training is.
    epsilon, delta : float
        The whole budget, spent in a ledger of its own.
    """
    noise = PrivacyNoise()
    ledger = Ledger(sqlite3.connect(":memory:"), epsilon_limit=epsilon, delta=delta)
    census = _census(table, schema, ledger=ledger, noise=noise, epsilon=epsilon, delta=delta)
    shared = census if schema.sequence is None else merge_steps(schema, census)
    codec = Codec.from_census(schema, shared)
    layout = Layout(codec.cardinalities, hidden)
    # A twentieth of the rows averages the noise out well; more than 512 rows only cost time.
    batch = int(np.clip(census.rows / 20, 64, 512))
    steps = int(np.clip(min(epochs, 20) * census.rows / batch, 200, 2_000))
    settings = calibrate_settings(
        TrainSettings(
            steps=steps,
            expected_batch=batch,
            clip_norm=1.0,
            learning_rate=1e-2,
            noise_multiplier=1.0,
        ),
        rows_public=census.rows,
        parameters=layout.parameters,
        spent=ledger.rdp_spent(),
        epsilon=epsilon,
        delta=delta,
    )
    entry = ledger.spend(
        key="train",
        what="training",
        rdp=release_cost(settings, census.rows, layout.parameters),
        details={"steps": steps},
    )
    weights = train_private(
        initial_weights(layout, seed=seed, marginals=codec.code_counts(census)),
        codec.encode(table).codes,
        layout=layout,
        settings=settings,
        rows_public=census.rows,
        entry=entry,
        noise=noise,
        step=make_step(layout),
        on_progress=lambda step, steps: tell("training", step / steps),
    )
    assert weights is not None, "nothing stops this run early"
    return Fitted(
        codec=codec,
        layout=layout,
        weights=weights,
        rows=census.rows,
        privacy={
            "epsilon": ledger.epsilon_spent(),
            "delta": delta,
            "unit": schema.privacy_unit,
        },
        metrics={},
    )


def _census(
    table: Table,
    schema: Schema,
    *,
    ledger: Ledger,
    noise: PrivacyNoise,
    epsilon: float,
    delta: float,
) -> Census:
    counts = census_counts(table, schema)
    width = len(counts)
    sigma = round_sigma(
        calibrate_counts(
            epsilon=epsilon, delta=delta, sensitivity_squared=width, share=CENSUS_SHARE
        )
    )
    entry = ledger.spend(
        key="census",
        what="histograms of every column",
        rdp=rdp_gaussian(float(sigma) / math.sqrt(width)),
        details={"sigma": str(sigma)},
    )
    noisy = release_counts(
        entry,
        {str(column): cells for column, cells in enumerate(counts)},
        sensitivity_squared=width,
        sigma=sigma,
        noise=noise,
    )
    return Census.of([noisy[str(column)] for column in range(width)], sigma=float(sigma))
