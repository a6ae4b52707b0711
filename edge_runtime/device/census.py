"""The census: noisy histograms from which the fleet's bins are made."""

from __future__ import annotations

import logging
from fractions import Fraction

import numpy as np

from edge_runtime.device.bench import Bench, Outcome
from edge_runtime.device.budget import counts_cost
from edge_runtime.device.noisy_counts import release_noisy, share_of_room
from edge_runtime.device.series import open_intake
from edge_runtime.errors import PlanError
from edge_runtime.messages import Plan
from edge_runtime.privacy import round_sigma, to_epsilon
from edge_runtime.schema import Schema, census_sensitivity_squared

__all__ = ["CENSUS_KEY", "run_census"]

_LOG = logging.getLogger(__name__)

#: where the device keeps the census it released: the message itself
CENSUS_KEY = "release.census"


def run_census(bench: Bench, plan: Plan, schema: Schema) -> Outcome:
    """Release noisy counts of every column's cells.

    Parameters
    ----------
    schema : Schema
        Of the rows in the source.

    Raises
    ------
    PlanError, BudgetError
        When the noise asked for does not fit under the plan's ceiling or the device's limit.
    DataError
        When the source cannot be read.
    """
    bench.reporter.set(status="measuring", progress=0.0, reason="")
    counts = open_intake(store=bench.store, source=bench.source, schema=schema).census(
        should_stop=bench.should_stop
    )
    if counts is None:
        return Outcome("stopped")
    # One row adds 1 to one cell of every histogram; one window adds all its steps.
    sensitivity_squared = census_sensitivity_squared(schema.learnt)

    def settle(payload: bytes) -> None:
        bench.store.put(CENSUS_KEY, payload)
        bench.plans.mark(plan.id, "done")

    sigma = release_noisy(
        bench,
        plan,
        "census",
        counts={f"census.{column}": cells for column, cells in enumerate(counts)},
        sensitivity_squared=sensitivity_squared,
        sigma=lambda: _sigma(bench, plan, sensitivity_squared),
        schema=schema.learnt,
        settle=settle,
    )
    _LOG.info("census released with noise of standard deviation %.4g per count", float(sigma))
    return Outcome("done")


def _sigma(bench: Bench, plan: Plan, sensitivity_squared: int) -> Fraction:
    if plan.epsilon_after is None or plan.census_sigma is None:
        return share_of_room(bench, plan, sensitivity_squared=sensitivity_squared)
    if plan.census_sigma <= 0.0:
        raise PlanError("the plan prescribes a census without noise below a privacy ceiling")
    sigma = round_sigma(plan.census_sigma)
    cost = counts_cost(sigma=sigma, sensitivity_squared=sensitivity_squared)
    after = to_epsilon(np.add(bench.ledger.rdp_spent(), cost), bench.ledger.delta)
    # The ceiling and the noise were both rounded on their way through JSON and a search.
    if after > plan.epsilon_after * (1.0 + 1e-3):
        raise PlanError(
            f"the prescribed noise of {plan.census_sigma:.4g} per count would bring epsilon to "
            f"{after:.4g}, above the plan's own ceiling of {plan.epsilon_after:.4g}"
        )
    return sigma
