"""The census: noisy histograms from which the fleet's bins are made."""

from __future__ import annotations

import logging
from fractions import Fraction

import numpy as np

from edge_runtime.device.bench import Bench, Outcome
from edge_runtime.device.budget import counts_cost, counts_sigma
from edge_runtime.device.intake import Intake
from edge_runtime.errors import PlanError
from edge_runtime.kernel import PrivacyNoise
from edge_runtime.messages import Plan, encode_summary
from edge_runtime.privacy import release_counts, round_sigma, to_epsilon
from edge_runtime.schema import Schema

__all__ = ["CENSUS_KEY", "run_census"]

_LOG = logging.getLogger(__name__)

#: where the device keeps the census it released: the message itself
CENSUS_KEY = "release.census"


def run_census(bench: Bench, plan: Plan, schema: Schema) -> Outcome:
    """Release noisy counts of every column's cells.

    Counted first, then spent, then noised: a source that cannot be read costs nothing, and no
    noise is drawn for what is not in the ledger.

    Raises
    ------
    PlanError, BudgetError
        When the noise asked for does not fit under the plan's ceiling or the device's limit.
    DataError
        When the source cannot be read.
    """
    bench.reporter.set(status="measuring", progress=0.0, reason="")
    counts = Intake(store=bench.store, source=bench.source, schema=schema).census(
        should_stop=bench.should_stop
    )
    if counts is None:
        return Outcome("stopped")
    # One row adds 1 to one cell of every column.
    sensitivity_squared = len(schema.columns)
    key = f"{plan.id}/census"
    entry = bench.ledger.find(key)
    if entry is None:
        sigma = _sigma(bench, plan, sensitivity_squared)
        entry = bench.ledger.spend(
            key=key,
            what="census",
            rdp=counts_cost(sigma=sigma, sensitivity_squared=sensitivity_squared)
            if sigma
            else None,
            details={"round": plan.round, "sigma": str(sigma)},
        )
    bench.show_spent()
    sigma = Fraction(entry.details["sigma"])
    noisy = release_counts(
        entry,
        {f"census.{column}": cells for column, cells in enumerate(counts)},
        sensitivity_squared=sensitivity_squared,
        sigma=sigma,
        noise=PrivacyNoise(),
    )
    statement = bench.statement(entry, mechanism="discrete-gaussian", schema=schema)
    with bench.store.transaction():
        header = bench.header(
            plan=plan, kind="census", privacy=statement, extra={"sigma": float(sigma)}
        )
        payload = encode_summary(header, noisy)
        bench.outbox.add(sequence=header.sequence, id=header.id, kind="summary", payload=payload)
        bench.ledger.mark_released(key, header.id)
        bench.store.put(CENSUS_KEY, payload)
        bench.plans.mark(plan.id, "done")
    _LOG.info("census released with noise of standard deviation %.4g per count", float(sigma))
    return Outcome("done")


def _sigma(bench: Bench, plan: Plan, sensitivity_squared: int) -> Fraction:
    spent = bench.ledger.rdp_spent()
    if plan.epsilon_after is None or plan.census_sigma is None:
        return counts_sigma(
            sensitivity_squared=sensitivity_squared,
            spent=spent,
            epsilon_after=plan.epsilon_after,
            delta=bench.ledger.delta,
        )
    if plan.census_sigma <= 0.0:
        raise PlanError("the plan prescribes a census without noise below a privacy ceiling")
    sigma = round_sigma(plan.census_sigma)
    after = to_epsilon(
        np.add(spent, counts_cost(sigma=sigma, sensitivity_squared=sensitivity_squared)),
        bench.ledger.delta,
    )
    # The ceiling and the noise were both rounded on their way through JSON and a search.
    if after > plan.epsilon_after * (1.0 + 1e-3):
        raise PlanError(
            f"the prescribed noise of {plan.census_sigma:.4g} per count would bring epsilon to "
            f"{after:.4g}, above the plan's own ceiling of {plan.epsilon_after:.4g}"
        )
    return sigma
