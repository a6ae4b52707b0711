"""What every plan about a bundle begins with, and all of a measure plan: score and summaries."""

from __future__ import annotations

from typing import NamedTuple

from edge_runtime.device.anchor import check_tables, release_anchor
from edge_runtime.device.bench import Bench, Outcome
from edge_runtime.device.holdout import held_out
from edge_runtime.device.intake import Intake
from edge_runtime.device.memory import give_back
from edge_runtime.device.moments import check_moments, release_moments
from edge_runtime.device.score import release_score
from edge_runtime.device.series import open_intake
from edge_runtime.device.slots import take_bundle
from edge_runtime.device.update import check_update
from edge_runtime.errors import PlanError
from edge_runtime.generator import Bundle, GraphBundle
from edge_runtime.messages import Plan
from edge_runtime.schema import Schema

__all__ = ["Prepared", "check_fit", "measure", "prepare", "run_measure"]


class Prepared(NamedTuple):
    """A plan's bundle, and the intake with all rows there are taken in."""

    bundle: Bundle
    intake: Intake


def run_measure(bench: Bench, plan: Plan, schema: Schema) -> Outcome:
    """Carry out a measure plan, from wherever an earlier attempt has left it.

    Raises
    ------
    PlanError, BudgetError
        When the plan does not fit this device or its budget.
    DataError
        When the source cannot be read.
    StoreError
        When the store or the outbox is full; what was paid for is kept and tried again.
    """
    prepared = prepare(bench, plan, schema)
    if isinstance(prepared, Outcome):
        return prepared
    measure(bench, plan, prepared)
    bench.plans.mark(plan.id, "done")
    return Outcome("done")


def prepare(bench: Bench, plan: Plan, schema: Schema) -> Prepared | Outcome:
    """Get the plan's bundle and take in all rows; before anything is spent, see whether it fits.

    Parameters
    ----------
    schema : Schema
        Of the rows in the source; the bundle is about `schema.learnt`.

    Raises
    ------
    PlanError
        When the plan asks for what this device or the bundle cannot give.
    BundleError
        When the bundle fails its trial.
    DataError, StoreError
        As `Intake.advance`.
    """
    if plan.bundle_digest is None:
        raise PlanError("the plan is about a bundle and does not say which")
    bundle = take_bundle(bench, plan.bundle_digest)
    if bundle is None:
        return Outcome("waiting", "for the bundle", wants_bundle=plan.bundle_digest)
    if isinstance(bundle, GraphBundle):
        raise PlanError(
            "the plan's bundle is a packed graph: rows can be drawn from it (kind 'sample'), but "
            "it can neither be trained nor scored"
        )
    if bundle.schema.digest != schema.learnt.digest:
        raise PlanError("the plan's bundle was made for another schema")
    check_fit(plan, bundle)
    intake = open_intake(store=bench.store, source=bench.source, schema=schema)
    while intake.advance(bundle.codec):
        if bench.should_stop():
            return Outcome("stopped")
    return Prepared(bundle, intake)


def measure(bench: Bench, plan: Plan, prepared: Prepared) -> int:
    """Score, count and sum as the plan asks; return the last part of the store that was read."""
    bundle, schema = prepared.bundle, prepared.bundle.schema
    codes, last_part = prepared.intake.codes(bundle.codec)
    held = held_out(bench.store, len(codes), plan.holdout)
    if plan.score is not None:
        bench.plans.mark(plan.id, "running")
        release_score(bench, plan, plan.score, codes=codes[held], bundle=bundle, schema=schema)
    counted = codes[~held] if held.any() else codes
    if plan.anchor is not None:
        bench.plans.mark(plan.id, "running")
        release_anchor(bench, plan, plan.anchor, codes=counted, codec=bundle.codec, schema=schema)
    if plan.moments is not None:
        bench.plans.mark(plan.id, "running")
        release_moments(bench, plan, plan.moments, codes=counted, codec=bundle.codec, schema=schema)
    give_back()
    return last_part


def check_fit(plan: Plan, bundle: Bundle) -> None:
    """Decline what a bundle of this project cannot give.

    Raises
    ------
    PlanError
        Naming it.
    """
    cardinalities = bundle.codec.cardinalities
    if plan.anchor is not None:
        check_tables(plan.anchor.tables, cardinalities)
    if plan.moments is not None:
        check_moments(plan.moments, cardinalities)
    if plan.update is not None:
        check_update(bundle.layout)
    if plan.rows is None or not plan.rows.wish:
        return
    if 0 not in bundle.schema.conditions:
        raise PlanError("the plan wishes for conditions, the schema has no condition column")
    if len(plan.rows.wish) != cardinalities[0]:
        raise PlanError(
            f"the plan wishes for {len(plan.rows.wish)} codes of the first condition column, it "
            f"has {cardinalities[0]}"
        )
