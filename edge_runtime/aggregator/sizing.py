"""How much detail and which shares a budget affords, from noisy row counts alone.

Each rule was found on the tasks of the federation bench; docs/fusion.md has the figures.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from edge_runtime.aggregator.budget import rho_of
from edge_runtime.aggregator.config import AggregatorConfig
from edge_runtime.aggregator.scores import ordered_columns
from edge_runtime.aggregator.strategies import find_strategy
from edge_runtime.schema import Schema

__all__ = [
    "anchor_share",
    "max_bins",
    "merged_variance",
    "moment_shares",
    "only_counts",
    "prior_share",
    "product_variance",
    "sums_scores",
]

_MOST_BINS, _LEAST_BINS = 32, 4
#: a bin of one condition's rows should hold so many standard deviations of its count's noise
_SIGMAS_PER_BIN = 3.0
#: bins by the cube root of the rows, as for histograms (Scott 1979), twice as fine: bins are
#: shared by all columns' conditionals and decoded with knots
_BINS_PER_ROOT = 2.0

#: Rows of a device, at epsilon 8, at which counts and private training get the same budget. Counts
#: add up over devices, while every device's network has to fight its own noise.
_EVEN_BUDGET_ROWS = 3_000.0
#: Rows of a device, at epsilon 8, at which rows of its generator are worth as much as rows drawn
#: from the counts: a network of thousands of weights drowns in its noise below.
_EVEN_WORTH_ROWS = 500.0
_EVEN_EPSILON = 8.0
_LEAST_ANCHOR, _MOST_ANCHOR = 0.15, 0.9
#: a smaller share is not worth the trouble
_LEAST_PRIOR = 0.05
#: with this share drawn from the counts, devices need not train at all
_ONLY_COUNTS = 0.5
#: Of the whole budget: counts of single columns, the census's among them, and sums of scores.
#: Products of scores get the rest.
_SINGLE_SHARE, _MEANS_SHARE = 0.2, 0.35
#: Rows of a device, at epsilon 8, up to which sums of scores are worth more than training, where
#: all columns have scores: with 290 rows those from moments were far ahead, with more it was not
#: measured. Where names tell much (flights, 2,100 rows, epsilon 2: .58 against .67), it is not.
_ROWS_OF_SCORES = 400.0
#: moments take a round for means and one for products, and two columns that can vary together
_LEAST_ROUNDS, _LEAST_COLUMNS = 2, 2
#: Bins where moments say what tells conditions apart: they are only the scale that scores are
#: read from, and no table has to fill them.
_BINS_OF_SCORES = 16


def anchor_share(config: AggregatorConfig, rows_of: Collection[float]) -> float:
    """Share of a training round's budget that goes to counts.

    Parameters
    ----------
    config : AggregatorConfig
        A number in [rounds] anchor_share is returned as it is.
    rows_of : collection of float
        Noisy rows of each device.
    """
    configured = config.rounds.anchor_share
    if configured != "auto":
        return configured
    if config.privacy.limit is None:
        return _LEAST_ANCHOR
    even = _EVEN_BUDGET_ROWS * _EVEN_EPSILON / config.privacy.limit
    share = even / (even + _typical(rows_of))
    return min(_MOST_ANCHOR, max(_LEAST_ANCHOR, share))


def prior_share(config: AggregatorConfig, rows_of: Collection[float]) -> float:
    """Share of what fusion trains on that is drawn from the anchor alone; 0 without privacy.

    The pool is as good as private training on the devices was.

    Parameters
    ----------
    config : AggregatorConfig
        A number in [fusion] prior is returned as it is.
    rows_of : collection of float
        Noisy rows of each device.
    """
    configured = config.fusion.prior
    if configured != "auto":
        return configured
    if config.privacy.limit is None:
        return 0.0
    even = _EVEN_WORTH_ROWS * _EVEN_EPSILON / config.privacy.limit
    share = (even / (even + _typical(rows_of))) ** 2
    return share if share > _LEAST_PRIOR else 0.0


def only_counts(config: AggregatorConfig, rows_of: Collection[float]) -> bool:
    """Whether a round had better ask for counts alone: devices' own training would be noise.

    Parameters
    ----------
    config : AggregatorConfig
    rows_of : collection of float
        Noisy rows of each device; without any nothing can be said.
    """
    return (
        config.privacy.limit is not None
        and config.rounds.anchor_share != 0
        and bool(rows_of)
        and prior_share(config, rows_of) >= _ONLY_COUNTS
    )


def sums_scores(config: AggregatorConfig, schema: Schema, rows_of: Collection[float]) -> bool:
    """Whether a fleet is asked for counts and moments, and for nothing else.

    Parameters
    ----------
    config : AggregatorConfig
    schema : Schema
        Needs a condition column and at least two columns whose codes have an order.
    rows_of : collection of float
        Noisy rows of each device.
    """
    width = len(ordered_columns(schema))
    if (
        config.rounds.moments == "none"
        or config.rounds.count < _LEAST_ROUNDS
        or not schema.conditions
        or width < _LEAST_COLUMNS
        or find_strategy(config.fusion.strategy).needs_updates
    ):
        return False
    if only_counts(config, rows_of):
        return True
    epsilon = config.privacy.limit
    return (
        epsilon is not None
        and config.fusion.prior == "auto"
        and config.rounds.anchor_share != 0
        and bool(rows_of)
        and width + len(schema.conditions) == len(schema.columns)
        and _typical(rows_of) <= _ROWS_OF_SCORES * _EVEN_EPSILON / epsilon
    )


def max_bins(
    config: AggregatorConfig, schema: Schema, *, rows: float, rows_of: Collection[float]
) -> int:
    """Bins per numeric column that the fleet's rows and the noise of its counts can fill.

    Parameters
    ----------
    config : AggregatorConfig
        A number in [fusion] bins is returned as it is.
    schema : Schema
    rows : float
        Noisy rows of the fleet.
    rows_of : collection of float
        Noisy rows of each device that counted.
    """
    if config.fusion.bins != "auto":
        return config.fusion.bins
    if sums_scores(config, schema, rows_of):
        return _BINS_OF_SCORES
    found = _BINS_PER_ROOT * max(1.0, rows) ** (1 / 3)
    if config.privacy.limit is not None:
        conditions = max(
            [1, *(len(schema.columns[c].labels) for c in schema.conditions if _listed(schema, c))]
        )
        tables = max(1, len(schema.columns) - 1)
        noise = math.sqrt(
            merged_variance(config, tables=tables, devices=len(rows_of), share=_MOST_ANCHOR)
        )
        found = min(found, rows / (conditions * _SIGMAS_PER_BIN * max(noise, 1e-9)))
    return int(min(_MOST_BINS, max(_LEAST_BINS, found)))


def merged_variance(config: AggregatorConfig, *, tables: int, devices: int, share: float) -> float:
    """Variance of a count merged over the fleet, if a round asks for so many tables; 0 exact.

    Parameters
    ----------
    config : AggregatorConfig
    tables : int
        Tables that share the anchor's budget.
    devices : int
    share : float
        Of the round's budget.
    """
    if config.privacy.limit is None:
        return 0.0
    rounds = config.rounds
    rho = rho_of(config.privacy.limit, config.privacy.delta)
    each = rho * (1 - rounds.census_share) / rounds.count * share
    return devices * tables / (2 * each)


def moment_shares(config: AggregatorConfig) -> tuple[float, float]:
    """Shares of the first round's budget for counts and for sums of scores.

    What they leave is there for later rounds: a plan's ceiling is one of the sum.
    """
    rounds = config.rounds
    each = (1.0 - rounds.census_share) / rounds.count
    single = max(0.0, _SINGLE_SHARE - rounds.census_share)
    room = max(each, single + _MEANS_SHARE)
    return single / room, _MEANS_SHARE / room


def product_variance(config: AggregatorConfig, *, clip_norm: float) -> float:
    """Variance of the noise in one device's sum of products of two scores, in a later round.

    Parameters
    ----------
    config : AggregatorConfig
        With two rounds or more.
    clip_norm : float
        Of centred scores.
    """
    if config.privacy.limit is None:
        return 0.0
    rounds = config.rounds
    spent = max(rounds.census_share, _SINGLE_SHARE) + _MEANS_SHARE
    rho = rho_of(config.privacy.limit, config.privacy.delta)
    each = rho * (1.0 - min(spent, 0.9)) / (rounds.count - 1)
    # Off the diagonal a number stands for sqrt(2) products.
    return clip_norm**4 / (2.0 * each) / 2.0


def _typical(rows_of: Collection[float]) -> float:
    # At least one: noise may take a count below, and shares with it to 1 or beyond.
    return max(1.0, float(np.median(list(rows_of)))) if rows_of else 1.0


def _listed(schema: Schema, column: int) -> bool:
    return not schema.columns[column].numeric
