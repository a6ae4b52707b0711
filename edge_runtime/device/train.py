"""A training plan: score and anchor, private training, synthetic rows and weight update."""

from __future__ import annotations

import logging
import os
import time

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.device.bench import Bench, Outcome
from edge_runtime.device.clamp import clamp_columns
from edge_runtime.device.holdout import held_out
from edge_runtime.device.intake import Intake
from edge_runtime.device.measure import measure, prepare
from edge_runtime.device.memory import give_back
from edge_runtime.device.released import Released
from edge_runtime.device.rows import (
    CODE_BYTES,
    UNUSABLE,
    check_engine,
    draw_rows,
    enqueue_rows,
    none_kept,
    open_trained,
    row_count,
)
from edge_runtime.device.update import enqueue_update
from edge_runtime.errors import PlanError, TrainingError
from edge_runtime.generator import Bundle, Weights
from edge_runtime.kernel import PrivacyNoise
from edge_runtime.messages import Plan, RowRequest, TrainRequest
from edge_runtime.privacy import Entry
from edge_runtime.schema import Schema
from edge_runtime.training import (
    Checkpoint,
    TrainSettings,
    calibrate_settings,
    make_step,
    release_cost,
    train_private,
)

__all__ = ["run_train"]

_LOG = logging.getLogger(__name__)

_UNSUPPORTED = "no condition of the plan stands out of the noise of this device's counts"


def run_train(bench: Bench, plan: Plan, schema: Schema) -> Outcome:
    """Carry out a training plan, from wherever an earlier attempt has left it.

    Raises
    ------
    PlanError, BudgetError
        When the plan does not fit this device or its budget.
    DataError
        When the source cannot be read.
    StoreError
        When the store or the outbox is full; what was paid for is kept and tried again.
    """
    if plan.train is None or plan.rows is None:
        raise PlanError("the plan asks for training and does not say how")
    prepared = prepare(bench, plan, schema)
    if isinstance(prepared, Outcome):
        return prepared
    bundle, intake = prepared
    schema, codec = bundle.schema, bundle.codec
    paid = bench.ledger.find(_key(plan))
    last_part = 0
    if paid is None:
        check_engine(bench, bundle)
    if paid is None or plan.anchor is not None or plan.score is not None:
        # The rows are read again for training: what is not needed now is not held.
        last_part = measure(bench, plan, prepared)
    released = Released(store=bench.store, schema=schema, codec=codec)
    if paid is None:
        all_rows = released.rows()
        if all_rows is None:
            raise PlanError(
                "this device has released no counts yet and the plan asks for none: without a "
                "noisy row count neither the sampling rate nor the number of rows can be set"
            )
        rows_public = max(1.0, (1.0 - plan.holdout) * all_rows)
        reason = _counts_only(bench, plan, plan.rows, released, rows_public=rows_public)
        if reason:
            bench.plans.mark(plan.id, "done", reason)
            return Outcome("done", reason)
        # Before anything is paid: what is to be sent must fit into the outbox afterwards.
        columns = len(schema.columns)
        rows = row_count(bench, plan.rows, rows_public, columns)
        update_bytes = bundle.layout.parameters if plan.update is not None else 0
        bench.outbox.check_room(rows * columns * CODE_BYTES + update_bytes)
        paid = _spend(bench, plan, plan.train, bundle, rows_public=rows_public, last_part=last_part)
    bench.show_spent()
    if paid.released:
        bench.plans.mark(plan.id, "done")
        return Outcome("done")
    weights = _train(bench, plan, bundle, intake, paid)
    if weights is None:
        return Outcome("stopped")
    # Where noise protects the rows, nothing else may look at the real ones any more.
    real = _real_rows(intake, bundle, paid) if paid.rdp is None else None
    _release(
        bench, plan, plan.rows, bundle, weights=weights, released=released, entry=paid, real=real
    )
    return Outcome("done")


def _counts_only(
    bench: Bench, plan: Plan, request: RowRequest, released: Released, *, rows_public: float
) -> str:
    """Say why this device sends its counts and nothing else; empty where it trains."""
    least = bench.config.training.minimum_rows
    if rows_public < least:
        return f"fewer than {least} rows by the noisy count: counts only, no synthetic rows"
    if plan.update is None and _clamp(request, released, rows=1, key=bytes(32)) is None:
        return f"{_UNSUPPORTED}: counts only, no synthetic rows"
    return ""


def _key(plan: Plan) -> str:
    return f"{plan.id}/training"


def _spend(
    bench: Bench,
    plan: Plan,
    request: TrainRequest,
    bundle: Bundle,
    *,
    rows_public: float,
    last_part: int,
) -> Entry:
    """Pay for the training; everything a restart needs is in the entry."""
    parameters = bundle.layout.parameters
    settings = TrainSettings(
        steps=request.steps,
        expected_batch=request.expected_batch,
        clip_norm=request.clip_norm,
        learning_rate=request.learning_rate,
        averaging=request.averaging,
        noise_multiplier=0.0,
    )
    if plan.epsilon_after is not None:
        settings = calibrate_settings(
            settings,
            rows_public=rows_public,
            parameters=parameters,
            spent=bench.ledger.rdp_spent(),
            epsilon=plan.epsilon_after,
            delta=bench.ledger.delta,
        )
    bench.plans.mark(plan.id, "running")
    return bench.ledger.spend(
        key=_key(plan),
        what="training",
        rdp=release_cost(settings, rows_public, parameters),
        details={
            "round": plan.round,
            "settings": msgspec.to_builtins(settings),
            "rows_public": rows_public,
            # Which local rows the training began with: a resumed one must see the same.
            "last_part": last_part,
        },
    )


def _train(
    bench: Bench,
    plan: Plan,
    bundle: Bundle,
    intake: Intake,
    entry: Entry,
) -> Weights | None:
    codes = intake.narrow_codes(bundle.codec, up_to_part=int(entry.details["last_part"]))
    held = held_out(bench.store, len(codes), plan.holdout)
    if held.any():
        codes = codes[~held]
    settings = msgspec.convert(entry.details["settings"], TrainSettings)
    checkpoint = _checkpoint(bench, plan)
    if entry.rdp is None:
        _LOG.warning("training WITHOUT PRIVACY, as this device's configuration allows")
    _LOG.info(
        "training for %d steps with noise multiplier %.4g%s",
        settings.steps,
        settings.noise_multiplier,
        "" if checkpoint is None else f", resumed at step {checkpoint.step}",
    )
    bench.reporter.set(status="training", progress=0.0, reason="")
    saved_s = time.monotonic()

    def keep(state: Checkpoint) -> None:
        nonlocal saved_s
        # Flash wears: most checkpoints are passed over, except when the process is to end.
        due = time.monotonic() - saved_s >= bench.config.training.checkpoint_s
        if due or bench.should_stop():
            bench.store.save_checkpoint(plan.id, state.to_bytes())
            saved_s = time.monotonic()

    def show(step: int, steps: int) -> None:
        bench.reporter.set(progress=step / steps)

    return train_private(
        bundle.weights,
        codes,
        layout=bundle.layout,
        settings=settings,
        rows_public=float(entry.details["rows_public"]),
        entry=entry,
        noise=PrivacyNoise(),
        step=make_step(bundle.layout, engine="auto"),
        checkpoint=checkpoint,
        on_checkpoint=keep,
        every=bench.config.training.checkpoint_steps,
        should_stop=bench.should_stop,
        on_progress=show,
    )


def _checkpoint(bench: Bench, plan: Plan) -> Checkpoint | None:
    saved = bench.store.load_checkpoint(plan.id)
    if saved is None:
        return None
    try:
        return Checkpoint.from_bytes(saved)
    except TrainingError as error:
        # The run is paid for and nothing of it has left: beginning again costs time alone.
        _LOG.warning("%s", error.public)
        return None


def _release(
    bench: Bench,
    plan: Plan,
    request: RowRequest,
    bundle: Bundle,
    *,
    weights: Weights,
    released: Released,
    entry: Entry,
    real: npt.NDArray[np.int32] | None,
) -> None:
    """Enqueue rows from the trained network, and its update, settled with the ledger at once."""
    give_back()
    bench.reporter.set(status="sampling", progress=0.0)
    schema = bundle.schema
    rows = row_count(bench, request, float(entry.details["rows_public"]), len(schema.columns))
    # Public: readers may sample the same rows again from the same network.
    key = os.urandom(32)
    clamp = _clamp(request, released, rows=rows, key=key)
    reason = "" if clamp is not None else f"{_UNSUPPORTED}: no synthetic rows"
    # Narrow while they wait: one transaction takes them all.
    pieces: list[npt.NDArray[np.uint16]] = []
    opened = open_trained(bench, bundle, weights)
    extra: dict[str, str | float] = {
        "clamp": request.clamp,
        "worst_error": opened.worst_error,
        "weights": "own" if opened.own else "bundle",
    }
    try:
        if clamp is not None:
            pieces, drawn = draw_rows(
                bench, bundle, opened.engine, rows=rows, key=key, clamp=clamp, real=real
            )
            if schema.constraints:
                extra["drawn"] = drawn
            if not pieces:
                reason = none_kept(schema, away=real is not None)
    finally:
        opened.engine.close()
    if not opened.own:
        reason = f"{UNUSABLE} ({opened.reason}); rows from the bundle's own" + (
            f"; {reason}" if reason else ""
        )
    statement = bench.statement(entry, mechanism="dp-sgd", schema=schema)
    with bench.store.transaction():
        ids = enqueue_rows(
            bench,
            plan,
            bundle,
            pieces,
            key=key,
            privacy=statement,
            extra=extra,
        )
        # Weights that cannot be drawn from are nothing to average.
        if plan.update is not None and opened.own:
            ids.append(
                enqueue_update(
                    bench, plan, plan.update, bundle, weights=weights, statement=statement
                )
            )
        if ids:
            bench.ledger.mark_released(entry.key, ids[0])
        bench.store.drop_checkpoint(plan.id)
        bench.plans.mark(plan.id, "done", reason)


def _clamp(
    request: RowRequest, released: Released, *, rows: int, key: bytes
) -> dict[int, npt.NDArray[np.int32]] | None:
    conditions = released.conditions()
    if not conditions:
        return {}  # and `numpy.random` is not loaded, 2 MB
    return clamp_columns(
        rows=rows,
        conditions=conditions,
        mode=request.clamp,
        wish=request.wish,
        rng=np.random.default_rng(np.frombuffer(key, dtype=np.uint32)),
    )


def _real_rows(intake: Intake, bundle: Bundle, entry: Entry) -> npt.NDArray[np.int32]:
    codes, _ = intake.codes(bundle.codec, up_to_part=int(entry.details["last_part"]))
    return codes
