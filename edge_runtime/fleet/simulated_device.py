"""One device of a simulated fleet: the real store, ledger, outbox and work, without a link."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime import __version__
from edge_runtime.device.bundles import BundleCache
from edge_runtime.device.config import DeviceConfig
from edge_runtime.device.outbox import Outbox
from edge_runtime.device.planbook import PlanBook
from edge_runtime.device.report import Reporter, show_outbox
from edge_runtime.device.schemas import offer_schema
from edge_runtime.device.store import Store
from edge_runtime.device.work import STORE_FILE, PlanRunner
from edge_runtime.errors import ConfigError
from edge_runtime.generator import Bundle, GraphBundle
from edge_runtime.messages import (
    Ack,
    DeviceState,
    Plan,
    decode_batch,
    decode_summary,
    encode_batch,
    encode_summary,
    peek_batch,
)
from edge_runtime.privacy import Entry, Ledger
from edge_runtime.schema import Schema, Table, read_table, write_table

__all__ = ["Outgoing", "Rows", "SharedBundles", "SimulatedDevice"]

#: what `read_table` takes: a path, a frame, a mapping of columns, a `Table`
Rows = Any
Codes = npt.NDArray[np.int32]
Counts = dict[str, npt.NDArray[np.int64]]


class SharedBundles(BundleCache):
    """The fleet's bundles in one directory, the last one also in memory.

    On a real fleet every device keeps and decodes its own; here that would be the same work many
    times.
    """

    def __init__(self, *, directory: Path) -> None:
        super().__init__(directory=directory)
        self._last: tuple[str, Bundle | GraphBundle] | None = None

    def load(self, digest: str) -> Bundle | GraphBundle | None:
        """See `BundleCache.load`."""
        if self._last is None or self._last[0] != digest:
            bundle = super().load(digest)
            if bundle is None:
                return None
            self._last = (digest, bundle)
        return self._last[1]


class Outgoing(NamedTuple):
    """One message on its way: `payload` is what goes out, `sha256` names what the outbox holds."""

    kind: str
    payload: bytes
    sha256: str


class SimulatedDevice:
    """A device that works when it is told to.

    Parameters
    ----------
    config : DeviceConfig
        Its source is a CSV file inside its state directory, written here.
    schema : Schema
        The fleet's.
    rows : Rows
        Its real rows.
    bundles : SharedBundles
        The fleet's.
    fetch : callable (str) -> bytes
        Bytes of a published bundle.

    Attributes
    ----------
    cpu_seconds : float
        Time of this thread spent on the device's work: reading, training, sampling, storing.
    poison : callable (int32 [rows, columns]) -> int32 [rows, columns], optional
        Set it to make a liar of the device: what it has sampled is replaced by what this returns
        before it goes out. Its ledger and its header stay those of the honest work.
    poison_counts : callable (dict of str to int64 array) -> dict of the same, optional
        The same for the counts of a census or anchor.
    interrupt : callable (DeviceState) -> bool, optional
        True tells the work to save itself and end, as SIGTERM does; asked between training steps.
    """

    def __init__(
        self,
        *,
        config: DeviceConfig,
        schema: Schema,
        rows: Rows,
        bundles: SharedBundles,
        fetch: Callable[[str], bytes],
    ) -> None:
        self.config = config
        self.cpu_seconds = 0.0
        self.poison: Callable[[Codes], Codes] | None = None
        self.poison_counts: Callable[[Counts], Counts] | None = None
        self.interrupt: Callable[[DeviceState], bool] | None = None
        self._schema = schema
        self._bundles = bundles
        self._fetch = fetch
        config.state_dir.mkdir(parents=True, exist_ok=True)
        self.replace_rows(rows)
        limit = config.privacy.epsilon_limit
        self._reporter = Reporter(
            first=DeviceState(
                device=config.id,
                status="online",
                private=limit is not None,
                epsilon_limit=limit,
                delta=config.privacy.delta,
                software=f"edge-runtime {__version__}",
            )
        )
        self._store: Store | None = None
        self._fetched = False

    @property
    def id(self) -> str:
        """The device's name."""
        return self.config.id

    @property
    def state(self) -> DeviceState:
        """What the device would show on its state topic."""
        return self._reporter.state

    @property
    def store(self) -> Store:
        """The device's file, opened when it is needed."""
        if self._store is None:
            self._store = Store(
                self.config.state_dir / STORE_FILE,
                max_code_bytes=self.config.limits.store_bytes,
            )
        return self._store

    @property
    def bytes_up(self) -> int:
        """Payload bytes sent since the store was made."""
        return self.store.counter("outbox.bytes_up")

    @property
    def rows_accepted(self) -> int:
        """SYNTHETIC rows sent and acknowledged."""
        return self.store.counter("outbox.rows_accepted")

    def entries(self) -> tuple[Entry, ...]:
        """Everything that the ledger holds."""
        return tuple(self._ledger().entries())

    @property
    def epsilon_spent(self) -> float:
        """What the ledger says; infinite after a release without privacy."""
        return self._ledger().epsilon_spent()

    def replace_rows(self, rows: Rows) -> None:
        """Put other real rows in the place of the source's: a population that drifts."""
        table = rows if isinstance(rows, Table) else read_table(rows, self._schema)
        write_table(table, self.config.source.path)

    def work(self, plan: Plan) -> None:
        """Take a plan and carry out what can be carried out, as after a (re)start of the agent.

        Raises
        ------
        ConfigError
            When the source holds what the schema does not allow, or the outbox is full: a real
            device would try again until somebody helps.
        """
        began = time.thread_time()
        offer_schema(self.store, self._schema.to_json())
        PlanBook(self.store).offer(plan)
        runner = PlanRunner(
            config=self.config,
            store=self.store,
            bundles=self._bundles,
            reporter=self._reporter,
            should_stop=self._interrupted,
            on_bundle_wanted=self._want,
        )
        again: float | None = 0.0
        while again == 0.0:
            self._fetched = False
            again = runner.once()
            if self._fetched:
                again = 0.0
        self.cpu_seconds += time.thread_time() - began
        show_outbox(self._reporter, self._outbox(), self.store)
        if again is not None:
            raise ConfigError(
                f"device {self.id} of the simulation cannot go on: {self.state.reason}"
            )

    def outgoing(self) -> Iterator[Outgoing]:
        """Messages that wait, oldest first, as they go out; they are counted as sent."""
        outbox = self._outbox()
        for message in outbox.pending():
            payload = outbox.payload(message.sequence)
            if payload is None:
                continue
            sha256 = hashlib.sha256(payload).hexdigest()
            kind = "batch" if message.kind == "batch" else "summary"
            payload = self._poisoned(payload) if kind == "batch" else self._poisoned_counts(payload)
            self.store.counter("outbox.bytes_up", add=len(payload))
            yield Outgoing(kind, payload, sha256)

    def acknowledge(self, message: Outgoing, ack: Ack) -> None:
        """Apply the aggregator's answer to the outbox."""
        outbox = self._outbox()
        outbox.settle(sha256=message.sha256, status=ack.status, reason=ack.reason)
        show_outbox(self._reporter, outbox, self.store)

    def close(self) -> None:
        """Close the store, as a killed process would; the next use opens it again."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def _outbox(self) -> Outbox:
        return Outbox(self.store, max_bytes=self.config.limits.outbox_bytes)

    def _ledger(self) -> Ledger:
        privacy = self.config.privacy
        return Ledger(
            self.store.connection, epsilon_limit=privacy.epsilon_limit, delta=privacy.delta
        )

    def _interrupted(self) -> bool:
        return self.interrupt is not None and self.interrupt(self._reporter.state)

    def _want(self, digest: str) -> None:
        self._bundles.put(digest, self._fetch(digest))
        self._fetched = True

    def _poisoned(self, payload: bytes) -> bytes:
        header = peek_batch(payload)
        bundle = self._bundles.load(header.bundle_digest)
        if self.poison is None or bundle is None:
            return payload
        cardinalities, names = bundle.codec.cardinalities, bundle.schema.names
        _, codes = decode_batch(payload, cardinalities=cardinalities, names=names)
        return encode_batch(header, self.poison(codes), cardinalities=cardinalities, names=names)

    def _poisoned_counts(self, payload: bytes) -> bytes:
        if self.poison_counts is None:
            return payload
        header, tensors = decode_summary(payload)
        return encode_summary(header, self.poison_counts(tensors))
