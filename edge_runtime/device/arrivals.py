"""What the fleet publishes for its devices: the schema, plans and bundles, taken and kept."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable

from edge_runtime.device.bundles import BundleCache
from edge_runtime.device.gate import Gate
from edge_runtime.device.planbook import PlanBook
from edge_runtime.device.schemas import offer_schema
from edge_runtime.device.store import Store
from edge_runtime.errors import RangeError, StoreError
from edge_runtime.messages import Link, Topics, decode_plan

__all__ = ["PACKET_BYTES", "Arrivals"]

_LOG = logging.getLogger(__name__)

#: of a packet that is not a bundle: a plan of 1 MB, and schemas that name thousands of categories
PACKET_BYTES = 4 << 20
#: topic and header around a bundle
_AROUND_BYTES = 1024
#: until what the disk refused is tried again, at first and at most
_AGAIN_MIN_S, _AGAIN_MAX_S = 1.0, 60.0


class Arrivals:
    """Takes what arrives through the gate, where there is one, and keeps it on disk.

    What the disk refuses stays in memory, the newest of each kind, and is tried again: the broker
    sends it with the next connection only, which may be a week away.

    Parameters
    ----------
    fleet : str
        Whose plans are taken.
    topics : Topics
    link : Link
        Bundles are subscribed to one by one.
    store, plans, bundles : Store, PlanBook, BundleCache
        Of the agent's thread, which alone calls.
    gate : Gate or None
        None: nothing is signed.
    on_taken : callable ()
        Something new is on the disk.
    """

    def __init__(
        self,
        *,
        fleet: str,
        topics: Topics,
        link: Link,
        store: Store,
        plans: PlanBook,
        bundles: BundleCache,
        gate: Gate | None,
        on_taken: Callable[[], None],
    ) -> None:
        self._fleet, self._topics, self._link = fleet, topics, link
        self._store, self._plans, self._bundles = store, plans, bundles
        self._gate, self._on_taken = gate, on_taken
        self._wanted = ""
        self._untaken: dict[str, tuple[str, bytes]] = {}
        self._due_s, self._pause_s = 0.0, _AGAIN_MIN_S

    def fetch(self, digest: str) -> None:
        """Ask the broker for a bundle that a plan waits for."""
        signed = None if self._gate is None else self._gate.size_of(f"bundle/{digest}")
        if digest == self._wanted or (self._gate is not None and signed is None):
            return  # what is not signed is not fetched; the worker asks again
        if self._wanted:
            self._link.unsubscribe(self._topics.bundle(self._wanted))
        self._wanted = digest
        most = self._bundles.max_bytes if signed is None else min(signed, self._bundles.max_bytes)
        self._link.packet_bytes = max(PACKET_BYTES, most + _AROUND_BYTES)
        # One bundle, and not all: the others are retained as well and may be many.
        self._link.subscribe(self._topics.bundle(digest))

    def offer(self, kind: str, digest: str, payload: bytes) -> None:
        """Take what is let in.

        Parameters
        ----------
        kind : str
            ``schema``, ``plan`` or ``bundle``.
        digest : str
            Of a bundle, by its topic.
        payload : bytes

        Raises
        ------
        StoreError, sqlite3.Error
            The disk refuses; it is tried again.
        EdgeRuntimeError
            It is not what it should be.
        """
        if kind == "bundle" and digest != self._wanted:
            return  # nobody asked for it: it is not kept for later either
        name = f"bundle/{digest}" if kind == "bundle" else kind
        if self._gate is None or self._gate.admits(name, payload):
            self.take(kind, digest, payload)

    def take(self, kind: str, digest: str, payload: bytes) -> None:
        """Take what the gate has let in; raises as `offer`."""
        try:
            self._keep(kind, digest, payload)
        except (StoreError, sqlite3.Error):
            self._untaken[kind] = (digest, payload)
            self._due_s = time.monotonic() + self._pause_s
            self._pause_s = min(2.0 * self._pause_s, _AGAIN_MAX_S)
            raise
        self._untaken.pop(kind, None)
        self._pause_s = _AGAIN_MIN_S

    def wait_s(self) -> float | None:
        """Seconds until `look` has something to do; None: nothing before something arrives."""
        return max(0.0, self._due_s - time.monotonic()) if self._untaken else None

    def look(self) -> None:
        """Try again what the disk refused, if it is due; raises as `offer`."""
        if self.wait_s() != 0.0:
            return
        kind = next(iter(self._untaken))
        # Asked anew: what was signed then need not be now.
        self.offer(kind, *self._untaken.pop(kind))

    def _keep(self, kind: str, digest: str, payload: bytes) -> None:
        match kind:
            case "schema":
                if offer_schema(self._store, payload):
                    self._on_taken()
            case "plan":
                plan = decode_plan(payload)
                if plan.fleet != self._fleet:
                    raise RangeError(f"a plan of fleet {plan.fleet!r} on this fleet's topic")
                if self._plans.offer(plan):
                    _LOG.info("plan of round %d: %s", plan.round, plan.kind)
                    self._on_taken()
            case "bundle" if digest == self._wanted:  # it may have had to wait
                self._bundles.put(digest, payload)
                self._link.unsubscribe(self._topics.bundle(digest))
                self._link.packet_bytes = PACKET_BYTES
                self._wanted = ""
                self._on_taken()
