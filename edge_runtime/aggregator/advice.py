"""What a fusion tells the planner of the next round: how many rows devices have, what to count.

As AIM (McKenna, Mullins, Sheldon and Miklau 2022) chooses what to measure by what the current
model gets wrong against the noise a measurement would carry. Here nothing may look at real rows
to choose, so the pool's own evidence of an interaction stands in: it is weaker than the real one,
but its order is what counts.
"""

from __future__ import annotations

import math

import msgspec

from edge_runtime.aggregator.anchor import census_anchor
from edge_runtime.aggregator.catalogue import Catalogue
from edge_runtime.aggregator.config import AggregatorConfig
from edge_runtime.aggregator.moments import Means
from edge_runtime.aggregator.outcome import interaction_evidence
from edge_runtime.aggregator.scores import normal_scores, ordered_columns, variance_of
from edge_runtime.aggregator.sizing import (
    anchor_share,
    merged_variance,
    prior_share,
    product_variance,
    sums_scores,
)
from edge_runtime.aggregator.weighting import device_weights
from edge_runtime.aggregator.workspace import Workspace
from edge_runtime.generator import Bundle
from edge_runtime.messages import DEFAULT_LIMITS, MomentsRequest, products

__all__ = ["Advice", "give_advice", "read_advice"]

_KEY = "advice"
#: pooled rows that the evidence is taken from
_ROWS = 20_000
#: tables that are asked for whatever their noise, and the noise allowed beyond, per row of a cell
_FEW = 8
_NOISE_PER_CELL = 0.5

#: Clipping norm, of the root of the scores' mean square: shorter than most rows by a little, as
#: noise in products grows with its square.
_CLIP = 0.8
_LEAST_VARIANCE = 1e-3
#: of a score or centre in a plan, with room to spare for the rest of it
_JSON_BYTES = 36
#: standard deviation of the noise in a condition's own covariances up to which they are worth it
_MOST_NOISE_APART = 0.25


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """From the latest fusion.

    Parameters
    ----------
    rows_of : tuple of float
        Noisy rows of each device.
    interactions : tuple of tuples of int
        Tables of the outcome and two columns that are worth their noise, the best first.
    moments : MomentsRequest or None
        The sums to ask for next; its share is the planner's to say.
    """

    rows_of: tuple[float, ...] = ()
    interactions: tuple[tuple[int, ...], ...] = ()
    moments: MomentsRequest | None = None


def read_advice(catalogue: Catalogue) -> Advice:
    """Return the latest advice; an empty one before the first fusion."""
    return catalogue.stored(_KEY, Advice) or Advice()


def give_advice(workspace: Workspace, bundle: Bundle, config: AggregatorConfig) -> Advice:
    """Work the advice out from what has been accepted, and keep it in the catalogue."""
    rows_of = workspace.rows_of_devices(bundle)
    advice = Advice(
        rows_of=tuple(rows_of.values()),
        interactions=_interactions(workspace, bundle, config, rows_of),
        moments=_moments(workspace, bundle, config, rows_of),
    )
    workspace.catalogue.put(_KEY, msgspec.json.encode(advice).decode())
    workspace.note_prior_share(prior_share(config, advice.rows_of))
    return advice


def _moments(
    workspace: Workspace, bundle: Bundle, config: AggregatorConfig, rows_of: dict[str, float]
) -> MomentsRequest | None:
    """Return the next sums of a fleet that is asked for counts alone: means, then products."""
    schema, codec = bundle.schema, bundle.codec
    columns = ordered_columns(schema)
    if not sums_scores(config, schema, tuple(rows_of.values())):
        return None
    given = schema.conditions[0]
    groups = codec.cardinalities[given]
    numbers = (groups + max(codec.cardinalities[d] for d in columns)) * len(columns)
    if (
        groups == 1
        or groups * products(len(columns)) > DEFAULT_LIMITS.cells
        or numbers * _JSON_BYTES > DEFAULT_LIMITS.json_bytes
    ):
        return None
    means = workspace.means(codec)
    if means is not None:
        return _next_products(means, workspace, bundle, config)
    anchor = workspace.anchor(bundle)
    if anchor is None:
        anchor = census_anchor(codec, workspace.censuses())
    scores, variance = [], 0.0
    for column in columns:
        table = anchor.one_way(column)
        assert table is not None, "the census has every column"
        share = table.distribution
        scores.append(normal_scores(share, nullable=schema.columns[column].nullable))
        variance += variance_of(share, scores[-1])
    return MomentsRequest(
        share=1.0,
        order=1,
        given=given,
        groups=groups,
        columns=columns,
        scores=tuple(tuple(own.tolist()) for own in scores),
        clip_norm=_CLIP * math.sqrt(max(variance, _LEAST_VARIANCE)),
    )


def _next_products(
    means: Means, workspace: Workspace, bundle: Bundle, config: AggregatorConfig
) -> MomentsRequest:
    """Return the request for products around the means, apart for conditions if noise allows."""
    request = means.request
    variances = workspace.score_variances(bundle, request)
    total = sum(variances.values())
    within = max(total - float(means.between().sum()), total / 4, _LEAST_VARIANCE)
    clip_norm = _CLIP * math.sqrt(within)
    noise = product_variance(config, clip_norm=clip_norm) * means.devices / means.rows**2
    share = means.rows / means.rows.sum()
    apart = math.sqrt(float(share @ noise)) <= _MOST_NOISE_APART
    return msgspec.structs.replace(
        request,
        order=2,
        groups=request.groups if apart else 1,
        centres=tuple(tuple(centre.tolist()) for centre in means.centres),
        clip_norm=clip_norm,
    )


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
