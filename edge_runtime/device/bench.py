"""What the parts of a plan's work share, and how a message comes out of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from edge_runtime.device.bundles import BundleCache
from edge_runtime.device.config import DeviceConfig
from edge_runtime.device.outbox import Outbox
from edge_runtime.device.planbook import PlanBook
from edge_runtime.device.report import Reporter
from edge_runtime.device.source import Source
from edge_runtime.device.store import Store
from edge_runtime.messages import Header, Plan, PrivacyStatement, new_id
from edge_runtime.privacy import Entry, Ledger
from edge_runtime.schema import Schema

__all__ = ["Bench", "Outcome", "PutAside"]


class PutAside(Exception):  # noqa: N818 - nothing went wrong
    """The work in hand is to be left, and done again from what was saved of it."""


class Outcome(NamedTuple):
    """How far a plan has come."""

    status: Literal["done", "waiting", "stopped"]
    #: for people; no values of rows
    reason: str = ""
    #: the bundle to fetch before the plan can go on
    wants_bundle: str = ""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Parts of the device that carrying out a plan needs; all used by one thread.

    Parameters
    ----------
    should_stop : callable
        True once work is to be left, as when the process has been told to end; long work asks
        every few seconds at most, then saves itself and returns.
    """

    config: DeviceConfig
    store: Store
    ledger: Ledger
    outbox: Outbox
    plans: PlanBook
    source: Source
    bundles: BundleCache
    reporter: Reporter
    should_stop: Callable[[], bool]

    def go_on(self) -> None:
        """Come back only if work is to go on; for work that has nothing to save.

        Not inside a transaction: others would wait for as long as this rests.

        Raises
        ------
        PutAside
        """
        if self.should_stop():
            raise PutAside

    def statement(self, entry: Entry, *, mechanism: str, schema: Schema) -> PrivacyStatement:
        """Say what the ledger holds once an entry is counted."""
        # After one release without privacy no later noise makes the sum a number again.
        private = math.isfinite(entry.epsilon_after)
        return PrivacyStatement(
            mechanism=mechanism if entry.rdp is not None else "none",
            epsilon=entry.epsilon_after if private else None,
            delta=self.ledger.delta if private else 0.0,
            unit=schema.privacy_unit,
            accountant="rdp",
        )

    def header(
        self,
        *,
        plan: Plan,
        kind: Literal["batch", "census", "anchor", "moments", "score", "update"],
        privacy: PrivacyStatement,
        codec_digest: str = "",
        part: int = 1,
        parts: int = 1,
        depth: int = 0,
        seed: str = "",
        extra: Mapping[str, str | int | float] | None = None,
    ) -> Header:
        """Make the header of a new message, in the transaction that enqueues it."""
        return Header(
            fleet=self.config.fleet,
            device=self.config.id,
            id=new_id(),
            sequence=self.outbox.next_sequence(),
            kind=kind,
            schema_digest=plan.schema_digest,
            codec_digest=codec_digest,
            bundle_digest=plan.bundle_digest or "",
            plan_id=plan.id,
            part=part,
            parts=parts,
            round=plan.round,
            depth=depth,
            seed=seed,
            privacy=privacy,
            extra=dict(extra or {}),
        )

    def show_spent(self) -> None:
        """Bring the privacy spent into the reported state."""
        spent = self.ledger.epsilon_spent()
        private = math.isfinite(spent)
        self.reporter.set(epsilon_spent=spent if private else None, private=private)
