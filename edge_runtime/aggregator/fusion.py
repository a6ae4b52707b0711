"""Fusion: from the census to the first generator, from pool and anchor to each next one.

Pure functions of their arguments, without catalogue or link, so that they run in a thread of
their own and can be tested alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.aggregator.anchor import Anchor
from edge_runtime.aggregator.config import AggregatorConfig
from edge_runtime.aggregator.guard import Verdict, judge, paired_error
from edge_runtime.aggregator.matching import match_pool
from edge_runtime.aggregator.moments import Moments
from edge_runtime.aggregator.pool import PoolRows
from edge_runtime.aggregator.prior import ANCHOR_ROWS, with_prior
from edge_runtime.aggregator.sizing import max_bins, prior_share
from edge_runtime.aggregator.strategies import ClientUpdate, Material, State, find_strategy
from edge_runtime.errors import AggregatorError
from edge_runtime.generator import (
    Bundle,
    Layout,
    Lineage,
    build_bundle,
    initial_weights,
    open_engine,
    sample_codes,
)
from edge_runtime.schema import Census, Codec, Rules, Schema, following, merge_census
from edge_runtime.training import make_step

__all__ = ["Outcome", "first_generator", "next_generator"]

#: times that a pooled row is used where its outcome is drawn anew
_MOST_USES = 4


class Outcome(NamedTuple):
    """A candidate, what the guard says about it, and the strategy's state that goes with it."""

    bundle: Bundle
    verdict: Verdict
    state: State


def first_generator(
    censuses: Mapping[str, Census],
    *,
    schema: Schema,
    config: AggregatorConfig,
    privacy: Mapping[str, Any],
) -> Bundle:
    """Return the first bundle: bins from the merged census, columns independent.

    Parameters
    ----------
    censuses : mapping of str to Census
        By device.
    schema, config, privacy
        The fleet's; `privacy` from `statement.privacy_facts`.

    Raises
    ------
    AggregatorError
        If there is no census at all.
    """
    if not censuses:
        raise AggregatorError("no device has answered the census; check that devices are online")
    merged = merge_census(list(censuses.values()))
    rows_of = [census.rows for census in censuses.values()]
    bins = max_bins(config, schema, rows=merged.rows, rows_of=rows_of)
    codec = Codec.from_census(schema, merged, max_bins=bins)
    layout = Layout(cardinalities=codec.cardinalities, hidden=config.fusion.hidden)
    weights = initial_weights(layout, seed=config.seed, marginals=codec.code_counts(merged))
    lineage = Lineage(
        parent=None,
        depth=0,
        round=0,
        devices=len(censuses),
        rows=merged.rows,
        privacy=dict(privacy),
    )
    return build_bundle(
        schema, codec, layout, weights, lineage=lineage, tflite=config.bundle.tflite
    )


def next_generator(
    *,
    current: Bundle,
    pool: PoolRows,
    rows_of: Mapping[str, float],
    anchor: Anchor | None,
    reference: Anchor,
    round_number: int,
    config: AggregatorConfig,
    privacy: Mapping[str, Any],
    should_stop: Callable[[], bool],
    on_progress: Callable[[float], None],
    moments: Moments | None = None,
    updates: Sequence[ClientUpdate] = (),
    state: State | None = None,
) -> Outcome:
    """Return a candidate by the configured strategy, judged.

    Parameters
    ----------
    current : Bundle
        The generator in force.
    pool : PoolRows
        Every accepted row of every round.
    rows_of : mapping of str to float
        Noisy count of real rows by device.
    anchor : Anchor or None
        Guides the fusion.
    reference : Anchor
        Judges the candidate: the anchor, or `anchor.census_anchor` where there is none.
    round_number, config, privacy
        Of this round and fleet.
    should_stop, on_progress : callable
        As in `Strategy.fuse`.
    moments : Moments, optional
        How rows that are drawn from the anchor vary together.
    updates, state
        Weight updates of `current`, and what the strategy kept with it.

    Raises
    ------
    AggregatorError
        If the pool has too few rows to hold some out.
    TrainingError
        If training becomes numerically unusable.
    """
    settings = config.fusion
    layout, conditions = current.layout, current.schema.conditions
    seed = config.seed + round_number
    pooled = len(pool.codes)
    pool, rows_of = with_prior(
        pool,
        rows_of,
        anchor,
        prior_share(config, list(rows_of.values())),
        cardinalities=layout.cardinalities,
        conditions=conditions,
        moments=moments,
        before=following(current.schema),
    )
    rules = Rules(current.codec)
    if rules.active:
        # Rows that no one will ever get need no place in the network; before the matching, which
        # then makes up for what is missing.
        pool = pool.take(np.flatnonzero(rules.possible(pool.codes)))
    rows = _rows_of_pool(pool, rows_of, anchor, conditions, config, rules=rules, seed=seed)
    if not len(rows.codes) or not len(rows.held_out):
        raise AggregatorError(
            f"{pooled} pooled rows are too few to train on and hold some out"
            + (", less those that cannot keep the schema's constraints" if rules.active else "")
            + "; ask devices for more with [rows] minimum"
        )
    candidate = find_strategy(settings.strategy).fuse(
        Material(
            layout=layout,
            weights=current.weights,
            codes=rows.codes,
            row_weights=rows.weights.astype(np.float32),
            held_out=rows.held_out,
            anchor=anchor,
            seed=seed,
            updates=updates,
            state=state or {},
        ),
        settings,
        should_stop=should_stop,
        on_progress=on_progress,
    )
    step = make_step(layout)
    draft = current.with_weights(candidate.weights, lineage=current.lineage)
    nll = step.nll(candidate.weights, rows.held_out).astype(np.float64)
    current_nll = step.nll(current.weights, rows.held_out).astype(np.float64)
    verdict = judge(
        candidate=_sample(draft, config),
        current=_sample(current, config),
        anchor=reference,
        names=current.schema.names,
        settings=config.guard,
        nll=float(nll.mean()),
        current_nll=float(current_nll.mean()),
        nll_error=paired_error(nll, current_nll),
    )
    figures = {**verdict.figures(), **candidate.figures, "pooled_rows": float(pooled)}
    # A fleet that was asked for counts alone is behind the generator as well.
    heard = [d for d in pool.devices if d != ANCHOR_ROWS] or [
        d for d in rows_of if d != ANCHOR_ROWS
    ]
    lineage = Lineage(
        parent=current.digest,
        depth=current.lineage.depth + 1,
        round=round_number,
        devices=len(heard),
        rows=sum(rows_of.get(device, 0.0) for device in heard),
        privacy=dict(privacy),
    )
    bundle = current.with_weights(candidate.weights, lineage=lineage, metrics=figures)
    return Outcome(bundle, verdict, candidate.state)


class _Rows(NamedTuple):
    """Rows to train on, int32 [n, D], their weights float64 [n], and rows to judge by."""

    codes: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float64]
    held_out: npt.NDArray[np.int32]


def _rows_of_pool(
    pool: PoolRows,
    rows_of: Mapping[str, float],
    anchor: Anchor | None,
    conditions: tuple[int, ...],
    config: AggregatorConfig,
    *,
    rules: Rules,
    seed: int,
) -> _Rows:
    """Return the pool matched to the anchor, some of it held out for ever.

    The pool's rows can keep the constraints; so can those that are returned.
    """
    settings = config.fusion
    matched = match_pool(pool, rows_of, anchor, raked=settings.rake, conditions=conditions)
    held = pool.lot < settings.validation_share
    chosen = _thin(np.flatnonzero(~held), settings.max_rows, seed=seed)
    if matched.outcome is not None and len(chosen):
        # A row is used several times, each time with an outcome of its own: the model behind them
        # is then learnt and not the luck of one draw.
        chosen = np.tile(chosen, max(1, min(_MOST_USES, settings.max_rows // len(chosen))))
    key = hashlib.sha256(f"outcomes {config.fleet.name} {seed}".encode()).digest()

    def taken(rows: npt.NDArray[np.intp], key: bytes) -> npt.NDArray[np.int32]:
        codes = matched.take(pool.codes, rows, key=key)
        if rules.active and matched.outcome is not None:
            # A new outcome may be impossible beside the other codes; the row's own is not.
            broken = np.flatnonzero(~rules.possible(codes))
            codes[broken] = pool.codes[rows[broken]]
        return codes

    return _Rows(
        codes=taken(chosen, key),
        weights=matched.weights[chosen],
        held_out=taken(np.flatnonzero(held), key[::-1]),
    )


def _thin(rows: npt.NDArray[np.intp], most: int, *, seed: int) -> npt.NDArray[np.intp]:
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def _sample(bundle: Bundle, config: AggregatorConfig) -> npt.NDArray[np.int32]:
    # One public key for both generators: their difference is then not one of luck.
    key = hashlib.sha256(f"guard {config.fleet.name} {config.seed}".encode()).digest()
    engine = open_engine(bundle)
    try:
        return sample_codes(engine, config.guard.rows, key=key)
    finally:
        engine.close()
