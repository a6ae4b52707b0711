"""The device agent: the one place where its parts are put together.

Three threads. The link's network thread hands every message to a queue and returns. The agent's
own thread reads that queue, sends the outbox, publishes the state. The worker carries out plans.
None waits for another: training never delays an acknowledgement, a broken connection never delays
training.
"""

from __future__ import annotations

import fcntl
import logging
import queue
import signal
import sqlite3
import time
from types import FrameType
from typing import BinaryIO

import msgspec

from edge_runtime import __version__
from edge_runtime.device.account_kept import has_account, note_account
from edge_runtime.device.arrivals import PACKET_BYTES, Arrivals
from edge_runtime.device.bundles import BundleCache
from edge_runtime.device.config import DeviceConfig
from edge_runtime.device.events import (
    Agreed,
    BundleWanted,
    Connected,
    Event,
    LetIn,
    Message,
    News,
    StateChanged,
    Stop,
    Verified,
)
from edge_runtime.device.gate import Gate
from edge_runtime.device.governor import STAYS_HERE
from edge_runtime.device.outbox import Outbox
from edge_runtime.device.planbook import PlanBook
from edge_runtime.device.readings import Readings
from edge_runtime.device.report import Reporter, show_outbox
from edge_runtime.device.seals import Seals
from edge_runtime.device.sending import Sender
from edge_runtime.device.store import Store, damage, passes
from edge_runtime.device.vitals import Vitals
from edge_runtime.device.work import STORE_FILE, Worker
from edge_runtime.errors import (
    ConfigError,
    DamagedStoreError,
    EdgeRuntimeError,
    StoreError,
)
from edge_runtime.messages import (
    DeviceState,
    Link,
    Topics,
    encode_state,
)
from edge_runtime.process.directories import make_directory

__all__ = ["Agent"]

_LOG = logging.getLogger(__name__)

#: Ending takes 10 s at most, as the unit's TimeoutStopSec and people's patience ask: what is left
#: of it is for the broker's confirmation (`_FAREWELL_S`, twice) and for closing files.
_WORK_ENDS_S = 6.0
_FAREWELL_S = 1.5
#: pause after the local file refused, so that a full disk does not also fill the log
_PAUSE_S = 1.0


class Agent:
    """A device, from its configuration.

    Parameters
    ----------
    config : DeviceConfig
        What to do; the state directory is created and locked while `run` lasts.
    readings : Readings, optional
        Of the board; the kernel's own by default.
    """

    def __init__(self, config: DeviceConfig, *, readings: Readings | None = None) -> None:
        self._config = config
        self._readings = readings or Readings(state_dir=config.state_dir)
        self._topics = Topics(config.fleet)
        # SimpleQueue: its put may run in a signal handler, in the middle of a get.
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._stopping = False
        limit = config.privacy.epsilon_limit
        self._reporter = Reporter(
            first=DeviceState(
                device=config.id,
                status="online",
                private=limit is not None,
                epsilon_limit=limit,
                delta=config.privacy.delta,
                software=f"edge-runtime {__version__}",
            ),
            on_change=lambda: self._events.put(StateChanged()),
        )

    def stop(self, reason: str = "asked to") -> None:
        """End `run` soon; may be called from any thread and from a signal handler."""
        self._events.put(Stop(reason))

    def run(self, *, signals: bool = False) -> None:
        """Work until stopped.

        Parameters
        ----------
        signals : bool
            End on SIGTERM and SIGINT; from the main thread only.

        Raises
        ------
        ConfigError
            When the state directory cannot be written to, or another agent works on it.
        StoreError, LedgerError
            When the local file cannot be used.
        """
        config = self._config
        try:
            make_directory(config.state_dir.absolute())
        except OSError as error:
            raise ConfigError(
                f"device.state_dir {config.state_dir} cannot be created ({error.strerror}); name a "
                "directory that the device's user may write to"
            ) from error
        lock = _lock(config)
        try:
            if signals:
                for number in (signal.SIGTERM, signal.SIGINT):
                    signal.signal(number, self._on_signal)
            self._open_and_run(lock)
        finally:
            lock.close()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        # A second signal ends the process the hard way; that is safe at any moment.
        signal.signal(number, signal.SIG_DFL)
        self.stop(signal.Signals(number).name)

    def _open_and_run(self, lock: BinaryIO) -> None:
        config = self._config
        if config.privacy.epsilon_limit is None:
            _LOG.warning('privacy.epsilon is "none": this device may release WITHOUT PRIVACY')
        tls = config.broker.tls
        if tls is not None:
            tls.context()  # a missing file is a mistake to report now, not to log
        store = Store(
            config.state_dir / STORE_FILE,
            max_code_bytes=config.limits.store_bytes,
            known=has_account(lock),
        )
        note_account(config.state_dir / STORE_FILE, lock)
        self._store = store
        outbox = Outbox(store, max_bytes=config.limits.outbox_bytes)
        plans = PlanBook(store)
        self._bundles = BundleCache(directory=config.state_dir / "bundles")
        show_outbox(self._reporter, outbox, store)
        self._worker = Worker(
            config=config,
            reporter=self._reporter,
            bundles=self._bundles,
            on_news=lambda: self._events.put(News()),
            on_bundle_wanted=lambda digest: self._events.put(BundleWanted(digest)),
        )
        self._vitals = Vitals(
            config=config, reporter=self._reporter, work=self._worker, readings=self._readings
        )
        self._gate: Gate | None = None
        if config.updates is not None:
            self._gate = Gate(
                store=store,
                root=config.updates.root,
                directory=config.state_dir / "updates.part",
                reporter=self._reporter,
                now=self._vitals.now,
                on_verdict=lambda verdict: self._events.put(Verified(verdict)),
                shows_shortage=config.privacy.shows_shortage,
            )
        self._seals = Seals(
            tls=tls,
            fleet=config.fleet,
            device=config.id,
            store=store,
            now=self._vitals.now,
            on_answer=lambda answer: self._events.put(Agreed(answer)),
        )
        state_topic = self._topics.state(config.id)
        offline = msgspec.structs.replace(self._reporter.state, status="offline")
        self._link = Link(
            host=config.broker.host,
            port=config.broker.port,
            client_id=f"{config.fleet}-{config.id}" if tls is None else tls.client_id(config.id),
            topics=self._subscribed(),
            will=(state_topic, encode_state(offline)),
            on_message=lambda topic, payload, _: self._events.put(Message(topic, payload)),
            on_connect=lambda: self._events.put(Connected()),
            username=config.broker.username or None,
            password=config.broker.password(),
            tls=tls,
            keepalive_s=config.broker.keepalive_s,
            packet_bytes=PACKET_BYTES,
        )
        self._sender = Sender(
            device=config.id,
            topics=self._topics,
            link=self._link,
            store=store,
            outbox=outbox,
            reporter=self._reporter,
            seals=self._seals,
            ack_timeout_s=config.broker.ack_timeout_s,
        )
        self._arrivals = Arrivals(
            fleet=config.fleet,
            topics=self._topics,
            link=self._link,
            store=store,
            plans=plans,
            bundles=self._bundles,
            gate=self._gate,
            on_taken=self._worker.wake,
        )
        self._link.start()
        try:
            self._worker.start()
            self._vitals.ready()
            while not self._stopping:
                self._turn()
        finally:
            self._vitals.stopping()
            ended = self._worker.stop(timeout_s=_WORK_ENDS_S)
            if not ended:
                _LOG.warning("the work did not end in time; its last checkpoint is kept")
                if self._stopping:
                    self._bundles.forget_trials()
            self._sender.show_outbox()
            self._reporter.set(status="stopped", progress=0.0)
            self._link.close(farewell=self._sender.farewell(), timeout_s=_FAREWELL_S)
            self._vitals.close()
            store.close()
        if self._worker.failure is not None:
            raise self._worker.failure

    def _subscribed(self) -> tuple[str, ...]:
        signed = () if self._gate is None else (self._topics.update,)
        # The list first, so that one question settles both.
        sealed = (self._topics.revoked, self._topics.certificate) if self._seals.used else ()
        mine = (self._topics.schema, self._topics.plan, self._topics.ack(self._config.id))
        return (*sealed, *signed, *mine)

    # -- one turn of the agent's thread ---------------------------------------------------------

    def _turn(self) -> None:
        try:
            self._vitals.look(unsent=self._link.problem or self._seals.problem)
            if self._gate is not None:
                self._let_in(self._gate.look())
            self._seals.look()
            self._arrivals.look()
            self._sender.send_due()
            self._handle(self._events.get(timeout=self._wait_s()))
        except queue.Empty:
            return
        except DamagedStoreError:
            raise
        except StoreError as error:
            # A full disk passes; the agent must be there when it does.
            _LOG.warning("%s %s", error.public, STAYS_HERE)
            time.sleep(_PAUSE_S)
        except sqlite3.Error as error:
            found = damage(self._store.path, error)
            if found is not None:
                raise found from error
            if not passes(error):
                raise
            _LOG.warning("%s: %s %s", self._store.path, error, STAYS_HERE)
            time.sleep(_PAUSE_S)
        except EdgeRuntimeError as error:
            _LOG.warning("a message was ignored: %s", error.public)

    def _wait_s(self) -> float:
        due_s = (self._vitals.wait_s(), self._sender.wait_s(), self._arrivals.wait_s())
        return min(wait_s for wait_s in due_s if wait_s is not None)

    def _handle(self, event: Event) -> None:
        match event:
            case Message():
                self._on_message(event)
            case Connected():
                self._seals.connected()
                self._sender.again()
            case BundleWanted():
                self._arrivals.fetch(event.digest)
            case Verified() if self._gate is not None:
                self._let_in(self._gate.settle(event.verdict))
                self._worker.wake()  # its bundle may be signed by now
            case Agreed():
                if self._seals.settle(event.answer):
                    self._sender.again()
            case LetIn():
                self._arrivals.take(event.kind, event.digest, event.payload)
            case Stop():
                _LOG.info("stopping: %s", event.reason)
                self._stopping = True
            case News():
                self._sender.show_outbox()
                if self._worker.failure is not None:
                    self._stopping = True

    def _let_in(self, released: list[tuple[str, bytes]]) -> None:
        # Each in a turn of its own: what is wrong with one is not in the way of the others.
        for name, payload in released:
            kind, _, digest = name.partition("/")
            self._events.put(LetIn(kind, digest, payload))

    def _on_message(self, message: Message) -> None:
        address = self._topics.parse(message.topic)
        if not message.payload:
            return
        match address.kind:
            case "ack":
                if self._sender.obey(message.topic, message.payload):
                    self._worker.wake()  # there may be room in the outbox now
            case "certificate":
                self._seals.offer(message.payload)
            case "revoked":
                self._seals.offer_list(message.payload)
            case "update" if self._gate is not None:
                self._gate.offer(message.payload)
            case "schema" | "plan" | "bundle" as kind:
                self._arrivals.offer(kind, address.rest, message.payload)


def _lock(config: DeviceConfig) -> BinaryIO:
    """Hold the state directory, so that no second agent spends from the same ledger."""
    path = config.state_dir / "lock"
    try:
        file = path.open("ab")
    except OSError as error:
        raise StoreError(f"{path} cannot be opened ({error.strerror})") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise ConfigError(
            f"another agent works in {config.state_dir}; stop it, or give this one a "
            "device.state_dir of its own"
        ) from error
    return file
