"""The aggregator, assembled: link, inbox, planner and fusion, each on a thread of its own.

The network thread only sorts messages into a bounded queue, and waits where that is full; the
inbox thread verifies, commits and acknowledges; fusion trains on a third, so that devices are
answered while it does; the planner runs on the caller's.
"""

from __future__ import annotations

import logging
import queue
import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec

from edge_runtime.aggregator.config import AggregatorConfig
from edge_runtime.aggregator.files import hold_directory
from edge_runtime.aggregator.fusion import Outcome
from edge_runtime.aggregator.guard.rollback import curve
from edge_runtime.aggregator.inbox import Incoming
from edge_runtime.aggregator.metrics import Metrics
from edge_runtime.aggregator.planner import Step
from edge_runtime.aggregator.release import write_release
from edge_runtime.aggregator.rounds import Rounds
from edge_runtime.aggregator.showing import make_status
from edge_runtime.errors import CatalogueError, EdgeRuntimeError, MessageError
from edge_runtime.generator import Bundle
from edge_runtime.messages import (
    AggregatorStatus,
    DeviceState,
    Link,
    Topics,
    decode_state,
    encode_ack,
    encode_alarms,
    encode_plan,
    encode_status,
)
from edge_runtime.process import Notifier, Pulse

__all__ = ["Service", "run"]

_LOG = logging.getLogger(__name__)

#: messages that share one commit: enough to keep up with a fleet, few enough to answer soon
_GROUP = 256
_TICK_S = 0.1
#: A look at a fleet of thousands takes time that its batches need: a twentieth at most.
_REST = 20.0
#: While the inbox is full the broker keeps what comes, which costs less than to have it again; no
#: longer, as the connection has to be kept alive where a disk is full.
_PATIENCE_S = 1.0
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
        self._rounds = Rounds(config)
        self._workspace = self._rounds.workspace
        self._catalogue = self._rounds.catalogue
        self._planner = self._rounds.planner
        self._inbox = self._rounds.inbox
        self._topics = Topics(config.fleet.name)
        self._queue: queue.Queue[Incoming] = queue.Queue(config.limits.queue_messages)
        self._full = False
        self._states: dict[str, DeviceState] = {}
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
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="fusion")
        offline = AggregatorStatus(
            phase="offline", rounds=config.rounds.count, private=config.privacy.limit is not None
        )
        self._link = Link(
            host=config.broker.host,
            port=config.broker.port,
            client_id=f"aggregator-{config.fleet.name}"
            if tls is None
            else tls.client_id("aggregator"),
            topics=[
                self._topics.all_states,
                self._topics.all_batches,
                self._topics.all_summaries,
            ],
            will=(self._topics.status, encode_status(offline)),
            on_message=self._on_message,
            username=config.broker.username,
            password=config.broker.password,
            tls=tls,
            keepalive_s=config.broker.keepalive_s,
        )

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
        self._restore()
        inbox = threading.Thread(target=self._serve_inbox, name="inbox", daemon=True)
        inbox.start()
        self._link.start()
        farewell = None
        self._notifier.ready()
        try:
            rests_until_s = 0.0
            while not self._stop.wait(_TICK_S):
                if time.monotonic() >= rests_until_s:
                    began_s = time.monotonic()
                    self._tick()
                    rests_until_s = began_s + _REST * (time.monotonic() - began_s)
                # A fusion is bounded by its own max_seconds; devices are not to wait for more.
                if self._inbox_pulse.silent_s < _STALL_S:
                    self._notifier.feed()
        except BaseException as error:
            # People who look at the retained status see why, and not only that it is gone.
            reason = str(error)[:500] or type(error).__name__
            self._show(Step("wait", "failed", 0, 0.0, reason), force=True)
            farewell = self._shown
            raise
        finally:
            self._notifier.stopping()
            self._stop.set()
            self._executor.shutdown(wait=True, cancel_futures=True)
            inbox.join()
            self._save_states()
            self._link.close(farewell=farewell)
            if self._metrics is not None:
                self._metrics.close()
            self._notifier.close()
            self._rounds.close()
            self._lock_file.close()

    # what arrives -----------------------------------------------------------------------------

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        try:
            address = self._topics.parse(topic)
            if address.kind == "state":
                state = decode_state(payload)
                with self._states_lock:
                    # By the topic: access rules of the broker protect it, not the payload.
                    self._states[address.device] = state
                    self._changed.add(address.device)
                return
        except MessageError as error:
            _LOG.warning("ignored a message on %s: %s", topic, error)
            return
        if retained:
            # A retained batch would come again at every reconnect; the protocol has none.
            _LOG.warning("ignored a retained message on %s", topic)
            return
        try:
            self._queue.put(Incoming(address.device, address.kind, payload), timeout=_PATIENCE_S)
        except queue.Full:
            # Not acknowledged: its device sends it again, later. Said once a flood: a line for
            # each message would keep the inbox from its work.
            if not self._full:
                _LOG.warning("the inbox is full; a message of %s has to come again", address.device)
            self._full = True
        else:
            self._full = False

    def _serve_inbox(self) -> None:
        while not self._stop.is_set():
            self._inbox_pulse.beat()
            try:
                messages = [self._queue.get(timeout=_TICK_S)]
            except queue.Empty:
                continue
            while len(messages) < _GROUP:
                try:
                    messages.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            try:
                acks = self._inbox.accept(messages)
            except (OSError, CatalogueError) as error:
                # A full disk or a database that is away: nothing was acknowledged.
                _LOG.error("%d messages could not be stored: %s", len(messages), error)
                self._stop.wait(_RETRY_S)
                continue
            except BaseException as error:  # noqa: BLE001 - handed over to the caller of run
                self._failure = error
                return
            for message, ack in zip(messages, acks, strict=True):
                self._link.publish(self._topics.ack(message.device), encode_ack(ack))

    # what is done -----------------------------------------------------------------------------

    def _restore(self) -> None:
        """Publish what is in force, as it was before a restart."""
        workspace = self._workspace
        self._link.publish(self._topics.schema, workspace.declared.to_json(), retain=True)
        self._rounds.restore()
        self._publish_bundles()
        self._link.publish(self._topics.alarms, encode_alarms(workspace.alarms()), retain=True)
        plan = self._planner.current_plan
        if plan is not None:
            _LOG.info("going on with round %d", plan.round)
            self._link.publish(self._topics.plan, encode_plan(plan), retain=True)

    def _publish_bundles(self) -> None:
        """Retain the bundle in force and the one the plan names; clear older ones."""
        if not self._rounds.digest:
            return
        plan = self._planner.current_plan
        keep = {self._rounds.digest, plan.bundle_digest if plan else None}
        for record in self._catalogue.bundles(status=None):
            if record.status == "rejected":
                continue
            topic = self._topics.bundle(record.digest)
            if record.digest in keep:
                data = (self._workspace.data_dir / record.path).read_bytes()
                self._link.publish(topic, data, retain=True)
            else:
                self._link.publish(topic, b"", retain=True)

    def _tick(self) -> None:
        if self._failure is not None:
            raise self._failure
        with self._states_lock:
            states = dict(self._states)
        step = self._rounds.step(now_unix_s=time.time(), states=states)
        if step.action == "open":
            assert step.plan is not None
            _LOG.info("round %d opened, plan %s", step.number, step.plan.id)
            self._publish_bundles()
            self._link.publish(self._topics.plan, encode_plan(step.plan), retain=True)
        elif step.action == "fuse":
            step = self._drive_fusion(step)
        elif step.action == "done":
            step = self._drive_release(step)
        self._show(step)

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
            reason = self._rounds.without(number, error, now_unix_s=time.time())
            return step._replace(reason=reason[:500])
        reason = self._rounds.settle(number, result)
        self._adopt(number, reason)
        return step._replace(progress=1.0, reason=reason[:500])

    def _adopt(self, number: int, reason: str) -> None:
        """Use the generator in force after a fusion and close the round."""
        _LOG.info("round %d: %s", number, reason)
        alarms = self._rounds.adopt(number)
        self._publish_bundles()
        self._link.publish(self._topics.alarms, encode_alarms(alarms), retain=True)
        self._planner.close(number, now_unix_s=time.time(), reason=reason)

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
        )
        shown = encode_status(status)
        if shown != self._shown or force:
            self._shown = shown
            if self._metrics is not None:
                self._metrics.show(status, self._workspace.alarms(), curve(self._workspace))
            self._link.publish(self._topics.status, shown, retain=True)
            self._notifier.status(f"{status.phase}, round {status.round}: {status.reason}")

    def _save_states(self) -> None:
        with self._states_lock:
            changed = {d: msgspec.to_builtins(self._states[d]) for d in self._changed}
            self._changed.clear()
        self._catalogue.save_devices(changed)


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
