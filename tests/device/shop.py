"""A worker with real files, and what the agent would do beside it; only the link is left out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from edge_runtime.device.bundles import BundleCache
from edge_runtime.device.outbox import Outbox
from edge_runtime.device.planbook import PlanBook, PlanEntry
from edge_runtime.device.report import Reporter
from edge_runtime.device.store import Store
from edge_runtime.device.work import STORE_FILE, Worker
from edge_runtime.generator import Bundle, Weights
from edge_runtime.messages import (
    DeviceState,
    Header,
    Plan,
    decode_batch,
    decode_summary,
    decode_update,
    peek_summary,
)
from edge_runtime.privacy import Entry, Ledger


class Shop:
    """A worker and, on connections of its own, what the agent would do beside it."""

    def __init__(self, device: Any, kit: SimpleNamespace, bundle: Bundle) -> None:
        self.kit, self.bundle = kit, bundle
        self.config = device.config()
        self.config.state_dir.mkdir(exist_ok=True)
        self.store = Store(self.config.state_dir / STORE_FILE)
        self.ledger = Ledger(
            self.store.connection, epsilon_limit=self.config.privacy.epsilon_limit, delta=1e-5
        )
        self.plans = PlanBook(self.store)
        self.outbox = Outbox(self.store, max_bytes=1 << 24)
        self.bundles = BundleCache(directory=self.config.state_dir / "bundles")
        self.reporter = Reporter(first=DeviceState(device="one", status="online"))
        self.wanted: list[str] = []
        self.worker = self._new()

    def _new(self) -> Worker:
        return Worker(
            config=self.config,
            reporter=self.reporter,
            bundles=self.bundles,
            on_news=lambda: None,
            on_bundle_wanted=self.wanted.append,
        )

    def restart(self) -> None:
        self.worker = self._new()
        self.worker.start()

    def give(self, plan: Plan) -> Plan:
        self.plans.offer(plan)
        if not self.worker.alive:
            self.worker.start()
        self.worker.wake()
        return plan

    def settled(self, plan: Plan, *, timeout_s: float = 30.0) -> PlanEntry:
        def there() -> PlanEntry | None:
            latest = self.plans.latest()
            open_ = latest is None or latest.plan != plan or latest.status in ("new", "running")
            return None if open_ else latest

        return self.kit.wait_for("plan settled", there, timeout_s=timeout_s)

    def waiting(self, words: str) -> DeviceState:
        def there() -> DeviceState | None:
            state = self.reporter.state
            return state if state.status == "waiting" and words in state.reason else None

        return self.kit.wait_for(f"waiting: {words}", there)

    def entries(self) -> list[Entry]:
        return list(self.ledger.entries())

    def payloads(self, kind: str) -> list[bytes]:
        return [
            self.outbox.payload(message.sequence) or b""
            for message in self.outbox.pending()
            if message.kind == kind
        ]

    def summaries(self) -> dict[str, tuple[Header, dict[str, np.ndarray]]]:
        payloads = [p for p in self.payloads("summary") if peek_summary(p).kind != "update"]
        decoded = [decode_summary(payload) for payload in payloads]
        return {header.kind: (header, tensors) for header, tensors in decoded}

    def updates(self) -> list[tuple[Header, Weights]]:
        payloads = [p for p in self.payloads("summary") if peek_summary(p).kind == "update"]
        return [decode_update(payload, layout=self.bundle.layout) for payload in payloads]

    def batches(self) -> list[tuple[Header, np.ndarray]]:
        codec, names = self.bundle.codec, self.bundle.schema.names
        return [
            decode_batch(payload, cardinalities=codec.cardinalities, names=names)
            for payload in self.payloads("batch")
        ]

    def end(self) -> None:
        assert self.worker.stop(timeout_s=20.0)
        self.store.close()
