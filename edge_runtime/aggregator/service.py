"""The aggregator, assembled: inbox, planner and fusion, each on a thread of its own.

The reception, a process of its own, receives and unpacks (`edge_runtime.reception`); the inbox
thread judges, commits and acknowledges what it hands over; fusion trains on a second, so that
devices are answered while it does; the planner runs on the caller's.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgspec

from edge_runtime.aggregator.config import AggregatorConfig
from edge_runtime.aggregator.files import hold_directory
from edge_runtime.aggregator.fusion import Outcome
from edge_runtime.aggregator.guard.rollback import curve
from edge_runtime.aggregator.metrics import Metrics
from edge_runtime.aggregator.planner import Step
from edge_runtime.aggregator.publishing import Publisher
from edge_runtime.aggregator.release import write_release
from edge_runtime.aggregator.rounds import Rounds
from edge_runtime.aggregator.showing import make_status
from edge_runtime.errors import CatalogueError, EdgeRuntimeError
from edge_runtime.generator import Bundle
from edge_runtime.messages import (
    AggregatorStatus,
    DeviceState,
    Topics,
    encode_alarms,
    encode_status,
)
from edge_runtime.process import Notifier, Pulse
from edge_runtime.reception import Delivery, Parcel, Reception, ReceptionSettings

__all__ = ["Service", "run"]

_LOG = logging.getLogger(__name__)

#: messages that share one commit: enough to keep up with a fleet, few enough to answer soon
_GROUP = 256
#: the first after a start: its devices' earlier batches are read again, which takes its time
_FIRST_GROUP = 16
#: an answer should not take longer; the next group is smaller if it did
_ANSWER_S = 5.0
_TICK_S = 0.1
#: A look at a fleet of thousands takes time that its batches need: a twentieth at most.
_REST = 20.0
_SHOW_S = 0.5
_RETRY_S = 1.0
#: a commit that takes longer will not come back: systemd's watchdog may restart the service
_STALL_S = 300.0


class Service:
    """One fleet's aggregator.

    Parameters
    ----------
    config : AggregatorConfig
        From `load_config`.

    Raises
    ------
    AggregatorError
        If the data directory belongs to another fleet or is in use.
    """

    def __init__(self, config: AggregatorConfig) -> None:
        tls = config.broker.tls
        if tls is not None:
            tls.context()  # a missing file is a mistake to report now, not to log
        self._config = config
        self._lock_file = hold_directory(config.data_dir)
        self._topics = Topics(config.fleet.name)
        # Starts while the records are read.
        self._reception = Reception(_reception_settings(config))
        try:
            self._rounds = Rounds(config)
            self._reception.check()
            self._publisher = Publisher(
                config=config, rounds=self._rounds, reception=self._reception, topics=self._topics
            )
        except BaseException:
            self._reception.close()
            self._lock_file.close()
            raise
        self._workspace = self._rounds.workspace
        self._catalogue = self._rounds.catalogue
        self._planner = self._rounds.planner
        self._inbox = self._rounds.inbox
        self._states: dict[str, DeviceState] = {}
        self._floods: dict[str, str] = {}
        self._unauthentic = 0
        self._changed: set[str] = set()
        self._states_lock = threading.Lock()
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._notifier = Notifier()
        self._inbox_pulse = Pulse()
        self._progress = 0.0
        self._shown: bytes = b""
        self._shown_at = 0.0
        self._fusion: Future[Outcome | Bundle] | None = None
        self._metrics = Metrics(config.metrics) if config.metrics.port else None
        self._release: Future[object] | None = None
        self._finished = ""
        #: what kept the last turn from its end, or empty
        self._trouble = ""
        self._rests_until_s = 0.0
        #: the wall clock less the steady one, at the start
        self._epoch_s = time.time() - time.monotonic()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="fusion")

    def stop(self) -> None:
        """Ask `run` to end; may be called from a signal handler or any thread."""
        self._stop.set()

    def run(self) -> None:
        """Serve the fleet until `stop`.

        Raises
        ------
        AggregatorError
            If the fleet cannot be served any further.
        """
        if self._config.privacy.limit is None:
            _LOG.warning("WITHOUT PRIVACY: this fleet trains and counts without any noise")
        inbox = threading.Thread(target=self._serve_inbox, name="inbox", daemon=True)
        farewell = None
        try:
            self._restore()
            self._reception.start()
            inbox.start()
            self._notifier.ready()
            while not self._stop.wait(_TICK_S):
                if time.monotonic() >= self._rests_until_s:
                    self._turn()
                # A fusion is bounded by its own max_seconds; devices are not to wait for more.
                if self._inbox_pulse.silent_s < _STALL_S:
                    self._notifier.feed()
        except BaseException as error:
            # People who look at the retained status see why, and not only that it is gone.
            reason = str(error)[:500] or type(error).__name__
            farewell = self._last_words(reason)
            raise
        finally:
            self._notifier.stopping()
            self._stop.set()
            self._executor.shutdown(wait=True, cancel_futures=True)
            if inbox.ident is not None:
                inbox.join()
            try:
                self._save_states()
            except CatalogueError as error:
                _LOG.error("the devices' last states could not be stored: %s", error)
            self._reception.close(farewell=farewell)
            if self._metrics is not None:
                self._metrics.close()
            self._notifier.close()
            self._rounds.close()
            self._lock_file.close()

    # what arrives -----------------------------------------------------------------------------

    def _serve_inbox(self) -> None:
        most = _FIRST_GROUP
        try:
            self._reception.collect(most)
            while not self._stop.is_set():
                self._inbox_pulse.beat()
                delivery = self._reception.receive()
                # The next group is unpacked while this one is committed.
                self._reception.collect(most)
                self._note(delivery)
                if delivery.parcels:
                    began_s = time.monotonic()
                    if self._accept(delivery.parcels):
                        most = _next_group(most, took_s=time.monotonic() - began_s)
        except BaseException as error:  # noqa: BLE001 - handed over to the caller of run
            self._failure = error

    def _note(self, delivery: Delivery) -> None:
        with self._states_lock:
            self._states |= delivery.states
            self._floods |= delivery.floods
            self._changed |= delivery.states.keys() | delivery.floods.keys()
            self._unauthentic = delivery.unauthentic

    def _accept(self, parcels: list[Parcel]) -> bool:
        """Answer messages; False where nothing can be stored, so that their devices ask again."""
        try:
            acks = self._inbox.accept_unpacked(parcels)
        except (OSError, CatalogueError) as error:
            # A full disk or a database that is away: nothing was acknowledged.
            _LOG.error("%d messages could not be stored: %s", len(parcels), error)
            self._stop.wait(_RETRY_S)
            return False
        self._reception.answer(parcels, acks)
        return True

    # what is done -----------------------------------------------------------------------------

    def _restore(self) -> None:
        """Publish what is in force, as it was before a restart."""
        self._rounds.restore()
        self._publisher.begin()
        alarms = encode_alarms(self._workspace.alarms())
        self._reception.publish(self._topics.alarms, alarms)
        plan = self._planner.current_plan
        if plan is not None:
            _LOG.info("going on with round %d", plan.round)

    def _turn(self) -> None:
        """Do what is due; what a disk or a database refuses is tried again until it does not."""
        try:
            self._tick()
            if self._trouble:
                # What was committed may not have been published.
                self._restore()
                _LOG.info("going on")
                self._trouble = ""
        except (OSError, CatalogueError) as error:
            if str(error) != self._trouble:
                # Once per problem: one that lasts for a week must not fill the log.
                _LOG.error("nothing can be stored, tried again until it can: %s", error)
                self._notifier.status(str(error))
            self._trouble = str(error)
            self._stop.wait(_RETRY_S)

    def _tick(self) -> None:
        if self._failure is not None:
            raise self._failure
        with self._states_lock:
            states = dict(self._states)
        began_s = time.thread_time()
        step = self._rounds.step(now_unix_s=self._now_unix_s(), states=states)
        # Processor time of a look: neither waiting for a disk nor what the look has led to.
        looked_s = 0.0 if step.action == "open" else time.thread_time() - began_s
        if step.action == "open":
            assert step.plan is not None
            _LOG.info("round %d: %s", step.number, step.reason)
            self._publisher.publish()
        elif step.action == "fuse":
            step = self._drive_fusion(step)
        elif step.action == "done":
            step = self._drive_release(step)
        self._publisher.look()
        began_s = time.thread_time()
        self._show(step)
        looked_s += time.thread_time() - began_s
        self._rests_until_s = time.monotonic() + _REST * looked_s

    def _now_unix_s(self) -> float:
        """Return the time; a clock that is set meanwhile ends no round early and none late."""
        return self._epoch_s + time.monotonic()

    def _drive_fusion(self, step: Step) -> Step:
        """Start the fusion of a round, or look whether it is done."""
        number = step.number
        if self._fusion is None:
            made = self._rounds.already_made(number)
            if made is not None:
                # A crash came between the bundle's commit and the round's.
                self._adopt(number, made)
                return step
            _LOG.info("round %d: %s; fusing", number, step.reason)
            self._progress = 0.0
            self._fusion = self._executor.submit(self._fuse, number)
        if not self._fusion.done():
            return step._replace(progress=self._progress)
        fusion, self._fusion = self._fusion, None
        try:
            result = fusion.result()
        except EdgeRuntimeError as error:
            reason = self._rounds.without(number, error, now_unix_s=self._now_unix_s())
            return step._replace(reason=reason[:500])
        reason = self._rounds.settle(number, result)
        self._adopt(number, reason)
        return step._replace(progress=1.0, reason=reason[:500])

    def _adopt(self, number: int, reason: str) -> None:
        """Use the generator in force after a fusion and close the round."""
        _LOG.info("round %d: %s", number, reason)
        alarms = self._rounds.adopt(number)
        self._publisher.publish()
        self._reception.publish(self._topics.alarms, encode_alarms(alarms))
        self._planner.close(number, now_unix_s=self._now_unix_s(), reason=reason)

    def _fuse(self, number: int) -> Outcome | Bundle:
        ends = time.monotonic() + self._config.fusion.max_seconds
        return self._rounds.fuse(
            number,
            should_stop=lambda: self._stop.is_set() or time.monotonic() > ends,
            on_progress=self._note_progress,
        )

    def _note_progress(self, progress: float) -> None:
        self._progress = min(1.0, max(0.0, progress))

    def _drive_release(self, step: Step) -> Step:
        """Write the release once, then report that everything is done."""
        if self._config.bundle.packed or not self._config.release.on_finish or self._finished:
            return step._replace(reason=self._finished or step.reason)
        if self._release is None:
            out = self._config.data_dir / "release"
            self._release = self._executor.submit(write_release, self._workspace, out)
        if not self._release.done():
            return step._replace(phase="fusing", reason="writing the release")
        try:
            self._release.result()
            self._finished = f"{step.reason}; the release is in {self._config.data_dir / 'release'}"
        except EdgeRuntimeError as error:
            self._finished = f"{step.reason}; no release: {error}"
        _LOG.info("%s", self._finished)
        return step._replace(reason=self._finished[:500])

    # what is shown ----------------------------------------------------------------------------

    def _show(self, step: Step, *, force: bool = False) -> None:
        """Publish the aggregator's state when it changed, not more often than people can follow."""
        if not force and time.monotonic() - self._shown_at < _SHOW_S:
            return
        self._shown_at = time.monotonic()
        self._save_states()
        with self._states_lock:
            states = dict(self._states)
        status = make_status(
            step=step,
            catalogue=self._catalogue,
            config=self._config,
            states=states,
            bundle_digest=self._rounds.digest,
            unauthentic=self._unauthentic,
        )
        shown = encode_status(status)
        if shown != self._shown or force:
            self._shown = shown
            if self._metrics is not None:
                self._metrics.show(status, self._workspace.alarms(), curve(self._workspace))
            self._reception.publish(self._topics.status, shown)
            self._notifier.status(f"{status.phase}, round {status.round}: {status.reason}")

    def _last_words(self, reason: str) -> bytes | None:
        """Show why the service ends; None where the catalogue cannot even be read."""
        try:
            self._show(Step("wait", "failed", 0, 0.0, reason), force=True)
        except EdgeRuntimeError as error:
            _LOG.error("the end could not be shown: %s", error)
            return None
        return self._shown

    def _save_states(self) -> None:
        with self._states_lock:
            changed = {device: self._known(device) for device in self._changed}
            self._changed.clear()
        try:
            self._catalogue.save_devices(changed)
        except CatalogueError:
            with self._states_lock:
                self._changed |= changed.keys()
            raise

    def _known(self, device: str) -> dict[str, Any]:
        """Return what a device has said of itself, and what is to be said of it."""
        state = self._states.get(device)
        known = {"status": "unknown"} if state is None else msgspec.to_builtins(state)
        flood = self._floods.get(device)
        return known if flood is None else {**known, "flood": flood}


def _reception_settings(config: AggregatorConfig) -> ReceptionSettings:
    broker = config.broker
    offline = AggregatorStatus(
        phase="offline", rounds=config.rounds.count, private=config.privacy.limit is not None
    )
    name = f"aggregator-{config.fleet.name}"
    return ReceptionSettings(
        fleet=config.fleet.name,
        host=broker.host,
        port=broker.port,
        client_id=name if broker.tls is None else broker.tls.client_id("aggregator"),
        will=encode_status(offline),
        username=broker.username,
        password=broker.password,
        keepalive_s=broker.keepalive_s,
        tls=broker.tls,
        limits=config.limits,
        log_level=config.log_level,
    )


def _next_group(size: int, *, took_s: float) -> int:
    """Return how many messages may share the next commit, after one of `size` at most."""
    return max(1, size // 2) if took_s > _ANSWER_S else min(_GROUP, 2 * size)


def run(config: AggregatorConfig) -> None:
    """Serve a fleet until SIGTERM or SIGINT; from the main thread.

    Raises
    ------
    AggregatorError, LinkError, SchemaError, ConfigError
        If it cannot start or go on.
    """
    service = Service(config)
    before = {
        number: signal.signal(number, lambda *_: service.stop())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        service.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
