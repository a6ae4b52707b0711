"""The device's work: carries out plans, one after the other, and survives what goes wrong.

`PlanRunner` is the work itself and knows no thread; `Worker` runs it on one, so that the link never
waits for training.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

from edge_runtime.device.bench import Bench, Outcome, PutAside
from edge_runtime.device.budget import check_limits
from edge_runtime.device.bundles import BundleCache
from edge_runtime.device.census import run_census
from edge_runtime.device.config import DeviceConfig
from edge_runtime.device.governor import STAYS_HERE, Level
from edge_runtime.device.measure import run_measure
from edge_runtime.device.memory import give_back
from edge_runtime.device.outbox import Outbox
from edge_runtime.device.pace import Pace
from edge_runtime.device.planbook import PlanBook
from edge_runtime.device.report import Reporter
from edge_runtime.device.sample import run_sample
from edge_runtime.device.schemas import SchemaKeeper
from edge_runtime.device.slots import show_slots
from edge_runtime.device.source import open_source
from edge_runtime.device.store import Store, damage, passes
from edge_runtime.device.train import run_train
from edge_runtime.errors import (
    BudgetError,
    DamagedStoreError,
    DataError,
    EdgeRuntimeError,
    OutboxFullError,
    PlanError,
    StoreError,
)
from edge_runtime.messages import Plan, in_rollout
from edge_runtime.privacy import Ledger
from edge_runtime.schema import Schema

__all__ = ["STORE_FILE", "PlanRunner", "Worker"]

_LOG = logging.getLogger(__name__)

#: what a plan may have paid for already; then it is finished, whatever the limits say now
_PARTS = ("census", "score", "anchor", "moments", "training")

STORE_FILE = "device.sqlite"


class Worker:
    """Carries out plans on a thread of its own, so that the link never waits for training.

    Parameters
    ----------
    config : DeviceConfig
        The device's configuration; its state directory exists.
    reporter : Reporter
        Where progress is shown.
    bundles : BundleCache
        Shared with the thread that fetches bundles.
    on_news : callable ()
        Called when the outbox or the state changed; from the worker's thread.
    on_bundle_wanted : callable (str)
        Called with the digest of a bundle to fetch; from the worker's thread.
    """

    def __init__(
        self,
        *,
        config: DeviceConfig,
        reporter: Reporter,
        bundles: BundleCache,
        on_news: Callable[[], None],
        on_bundle_wanted: Callable[[str], None],
    ) -> None:
        self._config = config
        self._reporter = reporter
        self._bundles = bundles
        self._on_news = on_news
        self._on_bundle_wanted = on_bundle_wanted
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._pace = Pace(self._stop)
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        #: why the worker ended before it was told to
        self.failure: EdgeRuntimeError | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """Look again: a plan, schema, bundle or acknowledgement has arrived."""
        self._wake.set()

    def throttle(self, level: Level, *, shown: Level) -> None:
        """Work at this level from now on; *paused* puts the work in hand aside.

        Parameters
        ----------
        level : Level
        shown : Level
            What others may know of it; see `Governor`.
        """
        self._pace.shown = shown
        self._pace.level = level
        self._wake.set()

    def stop(self, *, timeout_s: float = 30.0) -> bool:
        """Ask the work to save itself and end; return whether it did in time."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def silent_s(self) -> float:
        """Seconds since the work last showed that it goes on; 0 while there is none."""
        return self._pace.pulse.silent_s

    def _run(self) -> None:
        try:
            store = Store(
                self._config.state_dir / STORE_FILE,
                max_code_bytes=self._config.limits.store_bytes,
            )
        except EdgeRuntimeError as error:
            self._fail(error)
            return
        try:
            self._loop(store)
        except EdgeRuntimeError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - an agent without a worker must not live on
            self._fail(StoreError(f"internal error: {type(error).__name__}{_place(error)}"))
        finally:
            store.close()

    def _fail(self, error: EdgeRuntimeError) -> None:
        self.failure = error
        self._on_news()

    def _loop(self, store: Store) -> None:
        runner = PlanRunner(
            config=self._config,
            store=store,
            bundles=self._bundles,
            reporter=self._reporter,
            should_stop=self._pace.should_leave,
            on_bundle_wanted=self._on_bundle_wanted,
        )
        while not self._stop.is_set():
            self._wake.clear()
            retry_s = None
            if not self._pace.is_paused():
                self._pace.begin()
                retry_s = runner.once()
                if self._pace.is_paused():
                    self._put_aside()
            self._on_news()
            self._pace.pulse.rest()
            self._wake.wait(retry_s)

    def _put_aside(self) -> None:
        # What made the board run out may be what was just held for training.
        give_back()
        at_work = self._reporter.state.status in ("measuring", "training", "sampling")
        # A shortage that is not shown leaves the state as it was: the work takes long, no more.
        if at_work and self._pace.shown is Level.PAUSED:
            self._reporter.set(status="waiting", reason="until the board is well again")


class PlanRunner:
    """Carries out plans on the thread that calls it.

    Parameters
    ----------
    config : DeviceConfig
        The device's configuration.
    store : Store
        Of the calling thread; the runner does not close it.
    bundles : BundleCache
        Where the bundles that plans name are found.
    reporter : Reporter
        Where progress is shown.
    should_stop : callable ()
        See `Bench`.
    on_bundle_wanted : callable (str)
        Called with the digest of a bundle to fetch.
    """

    def __init__(
        self,
        *,
        config: DeviceConfig,
        store: Store,
        bundles: BundleCache,
        reporter: Reporter,
        should_stop: Callable[[], bool],
        on_bundle_wanted: Callable[[str], None],
    ) -> None:
        self._config = config
        self._reporter = reporter
        self._on_bundle_wanted = on_bundle_wanted
        self._problem = ""
        self._refused = ""
        ledger = Ledger(
            store.connection,
            epsilon_limit=config.privacy.epsilon_limit,
            delta=config.privacy.delta,
        )
        plans = PlanBook(store)
        plans.reconsider_declined()
        self._bench = Bench(
            config=config,
            store=store,
            ledger=ledger,
            outbox=Outbox(store, max_bytes=config.limits.outbox_bytes),
            plans=plans,
            source=open_source(config.source),
            bundles=bundles,
            reporter=reporter,
            should_stop=should_stop,
        )
        self._keeper = SchemaKeeper(
            store=store,
            ledger=ledger,
            plans=plans,
            accept_new=config.privacy.accept_new_schema,
        )
        self._bench.show_spent()
        show_slots(self._bench)

    def once(self) -> float | None:
        """Do what can be done now.

        Returns
        -------
        float or None
            Seconds until it is worth looking again, or None: when something has arrived.

        Raises
        ------
        DamagedStoreError
            When the local file is: nothing more may be released.
        """
        try:
            return self._once()
        except DamagedStoreError:
            raise
        except (DataError, StoreError) as error:
            return self._postpone(error)
        except sqlite3.Error as error:
            found = damage(self._bench.store.path, error)
            if found is not None:
                raise found from error
            if not passes(error):
                raise
            return self._postpone(StoreError(f"{self._bench.store.path}: {error}"))

    def _once(self) -> float | None:
        bench, keeper = self._bench, self._keeper
        schema = keeper.current()
        plan = bench.plans.current()
        if keeper.refused and keeper.refused != self._refused:
            _LOG.warning("%s", keeper.refusal().public)
        self._refused = keeper.refused
        if plan is None:
            self._show_rest(bench, schema)
            return None
        if self._reporter.state.plan_id != plan.id:
            # In one step: "idle" beside a new plan's id would say that it is answered.
            self._reporter.set(
                plan_id=plan.id, round=plan.round, status="waiting", progress=0.0, reason=""
            )
        try:
            return self._settle(self._carry_out(bench, keeper, plan, schema))
        except (DataError, StoreError):
            raise
        except (PlanError, BudgetError) as error:
            _LOG.warning("plan of round %d declined: %s", plan.round, error.public)
            bench.plans.mark(plan.id, "declined", error.public)
        except EdgeRuntimeError as error:
            self._give_up(bench, plan, error.public)
        except PutAside:
            return None
        except sqlite3.Error:
            raise
        except Exception as error:  # noqa: BLE001 - one plan's fault must not end the device
            # The type and the place alone: the text may quote a value.
            self._give_up(bench, plan, f"internal error: {type(error).__name__}{_place(error)}")
        return 0.0

    def _postpone(self, error: DataError | StoreError) -> float:
        """Try again later: nothing about the plan is wrong."""
        # Once per problem: one that lasts for a week must not fill the log.
        level = logging.DEBUG if error.public == self._problem else logging.WARNING
        self._problem = error.public
        # A full store or disk: on which side of a limit the number of real rows is.
        full = isinstance(error, StoreError) and not isinstance(error, OutboxFullError)
        hidden = full and not self._config.privacy.shows_shortage
        _LOG.log(level, "%s%s", error.public, f" {STAYS_HERE}" if hidden else "")
        if not hidden:
            # The log may name file and column; what is published must not depend on rows at all.
            source = isinstance(error, DataError)
            reason = "the source cannot be read; see the device's log" if source else error.public
            self._reporter.set(status="waiting", reason=reason)
        return self._config.source.poll_s

    def _carry_out(
        self, bench: Bench, keeper: SchemaKeeper, plan: Plan, schema: Schema | None
    ) -> Outcome:
        if plan.schema_digest == keeper.refused:
            raise PlanError(keeper.refusal().public)
        if schema is None or schema.learnt.digest != plan.schema_digest:
            return Outcome("waiting", "for the schema of the plan")
        if not in_rollout(plan, self._config.id):
            share = f"{plan.rollout:.2g} of the fleet so far"
            return Outcome("waiting", f"for the rollout to reach this device ({share})")
        if plan.kind == "sample":
            return run_sample(bench, plan, schema.learnt)
        paid = any(bench.ledger.find(f"{plan.id}/{part}") for part in _PARTS)
        if not paid:
            check_limits(
                plan,
                epsilon_limit=self._config.privacy.epsilon_limit,
                delta=self._config.privacy.delta,
                spent=bench.ledger.epsilon_spent(),
            )
        if plan.epsilon_after is None:
            self._reporter.set(private=False, epsilon_spent=None)
            _LOG.warning(
                "plan of round %d: exact counts and rows WITHOUT PRIVACY, as this device's "
                "configuration allows",
                plan.round,
            )
        match plan.kind:
            case "census":
                return run_census(bench, plan, schema)
            case "measure":
                return run_measure(bench, plan, schema)
        return run_train(bench, plan, schema)

    def _settle(self, outcome: Outcome) -> float | None:
        self._problem = ""
        match outcome.status:
            case "done":
                return 0.0
            case "waiting":
                self._reporter.set(status="waiting", progress=0.0, reason=outcome.reason)
                if outcome.wants_bundle:
                    self._on_bundle_wanted(outcome.wants_bundle)
        return None

    def _give_up(self, bench: Bench, plan: Plan, reason: str) -> None:
        _LOG.error("plan of round %d failed: %s", plan.round, reason)
        bench.plans.mark(plan.id, "failed", reason)
        bench.store.drop_checkpoint(plan.id)

    def _show_rest(self, bench: Bench, schema: Schema | None) -> None:
        """Show what became of the last plan while there is nothing to do."""
        latest = bench.plans.latest()
        if latest is None:
            what = "a plan" if schema is not None else "the schema and a plan"
            self._reporter.set(status="waiting", reason=f"for {what}")
            return
        refused = latest.status in ("declined", "failed")
        shown = self._reporter.state
        if shown.status == "idle" and shown.plan_id == latest.plan.id:
            return
        self._reporter.set(
            # "sending" becomes "idle" once the outbox is empty, which the agent's thread sees.
            status="declined" if refused else "sending",
            plan_id=latest.plan.id,
            round=latest.plan.round,
            progress=0.0 if refused else 1.0,
            reason=latest.reason,
        )


def _place(error: Exception) -> str:
    """Where an error was raised: file and line of the program, nothing of its data."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    return f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
