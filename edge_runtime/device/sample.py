"""A sample plan: rows of a bundle as it is. No real row has a part in it, and nothing is spent."""

from __future__ import annotations

import math
import os

import numpy as np
import numpy.typing as npt

from edge_runtime.device.bench import Bench, Outcome
from edge_runtime.device.clamp import clamp_columns
from edge_runtime.device.measure import check_fit
from edge_runtime.device.released import Released
from edge_runtime.device.rows import draw_rows, enqueue_rows, none_kept, row_count
from edge_runtime.device.slots import take_bundle
from edge_runtime.errors import PlanError
from edge_runtime.generator import Bundle, Engine, GraphBundle, GraphEngine, open_engine, open_graph
from edge_runtime.messages import Plan, PrivacyStatement, RowRequest
from edge_runtime.schema import Schema

__all__ = ["run_sample"]


def run_sample(bench: Bench, plan: Plan, schema: Schema) -> Outcome:
    """Carry out a sample plan.

    Raises
    ------
    PlanError
        When the plan or its bundle does not fit this device.
    BundleError, EngineError, MissingExtraError
        When the bundle is none, fails its trial, or cannot be run here.
    StoreError
        When the store or the outbox is full.
    """
    if plan.bundle_digest is None or plan.rows is None:
        raise PlanError("the plan asks for rows of a bundle and does not say which, or how many")
    bundle = take_bundle(bench, plan.bundle_digest)
    if bundle is None:
        return Outcome("waiting", "for the bundle", wants_bundle=plan.bundle_digest)
    if bundle.schema.digest != schema.digest:
        raise PlanError("the plan's bundle was made for another schema")
    if isinstance(bundle, Bundle):
        check_fit(plan, bundle)
    elif plan.rows.wish:
        raise PlanError("the plan wishes for conditions, and its packed graph draws whole rows")
    bench.plans.mark(plan.id, "running")
    bench.reporter.set(status="sampling", progress=0.0)
    # Noisy and paid for, as far as there is anything; without it the least that is asked for.
    released = Released(store=bench.store, schema=schema, codec=bundle.codec)
    rows = row_count(bench, plan.rows, released.rows() or 0.0, len(schema.columns))
    key = os.urandom(32)
    packed = isinstance(bundle, GraphBundle)
    clamp = {} if packed else _clamp(plan.rows, released, rows=rows, key=key)
    engine = _open(bench, bundle)
    try:
        pieces, drawn = draw_rows(bench, bundle, engine, rows=rows, key=key, clamp=clamp)
    finally:
        engine.close()
    extra: dict[str, str | float] = {
        "clamp": plan.rows.clamp if clamp else "none",
        "weights": "bundle",
    }
    if schema.constraints:
        extra["drawn"] = drawn
    reason = "" if pieces else none_kept(schema, away=False)
    with bench.store.transaction():
        enqueue_rows(
            bench,
            plan,
            bundle,
            pieces,
            key=key,
            privacy=_statement(bench, schema),
            extra=extra,
        )
        bench.plans.mark(plan.id, "done", reason)
    return Outcome("done", reason)


def _open(bench: Bench, bundle: Bundle | GraphBundle) -> Engine | GraphEngine:
    config = bench.config.engine
    if isinstance(bundle, GraphBundle):
        # Only one engine runs it, whatever is configured for generators of this project.
        return open_graph(bundle, threads=config.threads)
    return open_engine(bundle, engine=config.name, threads=config.threads)


def _clamp(
    request: RowRequest, released: Released, *, rows: int, key: bytes
) -> dict[int, npt.NDArray[np.int32]]:
    conditions = released.conditions()
    if not conditions:
        return {}  # and `numpy.random` is not loaded, 2 MB
    clamp = clamp_columns(
        rows=rows,
        conditions=conditions,
        mode=request.clamp,
        wish=request.wish,
        rng=np.random.default_rng(np.frombuffer(key, dtype=np.uint32)),
    )
    if clamp is None:
        raise PlanError("no condition of the plan stands out of the noise of this device's counts")
    return clamp


def _statement(bench: Bench, schema: Schema) -> PrivacyStatement:
    """Say what the device has spent, which these rows do not add to."""
    spent = bench.ledger.epsilon_spent()
    private = math.isfinite(spent)
    return PrivacyStatement(
        mechanism="none",
        epsilon=spent if private else None,
        delta=bench.ledger.delta if private else 0.0,
        unit=schema.privacy_unit,
        accountant="rdp",
    )
