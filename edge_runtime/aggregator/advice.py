"""What a fusion tells the planner of the next round: how many rows devices have, what to count.

As AIM (McKenna, Mullins, Sheldon and Miklau 2022) chooses what to measure by what the current
model gets wrong against the noise a measurement would carry. Here nothing may look at real rows
to choose, so the pool's own evidence of an interaction stands in: it is weaker than the real one,
but its order is what counts.
"""

from __future__ import annotations

import math

import msgspec

from edge_runtime.aggregator.catalogue import Catalogue
from edge_runtime.aggregator.config import AggregatorConfig
from edge_runtime.aggregator.outcome import interaction_evidence
from edge_runtime.aggregator.sizing import anchor_share, merged_variance, prior_share
from edge_runtime.aggregator.weighting import device_weights
from edge_runtime.aggregator.workspace import Workspace
from edge_runtime.generator import Bundle

__all__ = ["Advice", "give_advice", "read_advice"]

_KEY = "advice"
#: pooled rows that the evidence is taken from
_ROWS = 20_000
#: tables that are asked for whatever their noise, and the noise allowed beyond, per row of a cell
_FEW = 8
_NOISE_PER_CELL = 0.5


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """From the latest fusion.

    Parameters
    ----------
    rows_of : tuple of float
        Noisy rows of each device.
    interactions : tuple of tuples of int
        Tables of the outcome and two columns that are worth their noise, the best first.
    """

    rows_of: tuple[float, ...] = ()
    interactions: tuple[tuple[int, ...], ...] = ()


def read_advice(catalogue: Catalogue) -> Advice:
    """Return the latest advice; an empty one before the first fusion."""
    return catalogue.stored(_KEY, Advice) or Advice()


def give_advice(workspace: Workspace, bundle: Bundle, config: AggregatorConfig) -> Advice:
    """Work the advice out from what has been accepted, and keep it in the catalogue."""
    rows_of = workspace.rows_of_devices(bundle)
    advice = Advice(
        rows_of=tuple(rows_of.values()),
        interactions=_interactions(workspace, bundle, config, rows_of),
    )
    workspace.catalogue.put(_KEY, msgspec.json.encode(advice).decode())
    workspace.note_prior_share(prior_share(config, advice.rows_of))
    return advice


def _interactions(
    workspace: Workspace, bundle: Bundle, config: AggregatorConfig, rows_of: dict[str, float]
) -> tuple[tuple[int, ...], ...]:
    most = config.rounds.interactions
    conditions = bundle.schema.conditions
    rows = max(0.0, sum(rows_of.values()))
    if not most or not conditions or config.rounds.pairs == "none":
        return ()
    pool = workspace.pool_rows()
    # The least that a table of three columns costs in rows; below, reading further is in vain.
    if len(pool.codes) < _ROWS // 10 or rows < _ROWS // 10:
        return ()
    some = slice(None, None, max(1, len(pool.codes) // _ROWS))
    share = anchor_share(config, tuple(rows_of.values()))

    def variance(tables: int) -> float:
        return merged_variance(config, tables=tables, devices=len(rows_of), share=share)

    found = interaction_evidence(
        pool.codes[some],
        device_weights(pool, rows_of)[some],
        bundle.codec.cardinalities,
        rows=rows,
        column=conditions[0],
        variance=variance(min(most, _FEW)),
    )
    # The pool, made by noisy generators, may have lost the very interaction that counts tell: as
    # many tables as the noise allows, and a few in any case.
    asked: list[tuple[int, ...]] = []
    for _, table in found:
        cells = math.prod(bundle.codec.cardinalities[d] for d in table)
        noise = math.sqrt(variance(len(asked) + 1))
        if len(asked) < min(most, _FEW) or (
            len(asked) < most and noise <= _NOISE_PER_CELL * rows / cells
        ):
            asked.append(table)
    return tuple(asked)
