"""Which plan to work on: every plan that ever arrived, and what became of it."""

from __future__ import annotations

import logging
from typing import Literal, NamedTuple

from msgspec.structs import replace

from edge_runtime.device.store import Store
from edge_runtime.errors import MessageError
from edge_runtime.messages import Plan, decode_plan, encode_plan

__all__ = ["PlanBook", "PlanEntry", "PlanStatus"]

_LOG = logging.getLogger(__name__)

#: new: nothing spent for it yet; running: something was spent, so it is finished whatever comes
PlanStatus = Literal["new", "running", "done", "declined", "failed", "superseded"]


class PlanEntry(NamedTuple):
    """A plan and what became of it."""

    plan: Plan
    status: PlanStatus
    reason: str


class PlanBook:
    """The plans in the device's store.

    Parameters
    ----------
    store : Store
        The device's file; each thread uses its own.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._forget_unreadable()

    def _forget_unreadable(self) -> None:
        """Drop plans that another release has left and this one cannot read.

        They would stop the device at every start. What was paid for them stays in the ledger.
        """
        rows = self._store.connection.execute("SELECT id, plan FROM plans").fetchall()
        unreadable = [plan_id for plan_id, data in rows if not _readable(bytes(data))]
        if not unreadable:
            return
        _LOG.warning(
            "plans of another release that cannot be read are dropped: %d; the newest one comes "
            "again from the aggregator",
            len(unreadable),
        )
        with self._store.transaction() as connection:
            for plan_id in unreadable:
                connection.execute("DELETE FROM plans WHERE id = ?", (plan_id,))
                self._store.drop_checkpoint(plan_id)

    def offer(self, plan: Plan) -> bool:
        """Record a plan that arrived; False when it is known already.

        The same plan arrives again after every reconnect, as it is retained, and with a larger
        share of the fleet, which is all of it that may change.
        """
        with self._store.transaction() as connection:
            row = connection.execute("SELECT plan FROM plans WHERE id = ?", (plan.id,)).fetchone()
            if row:
                known = decode_plan(bytes(row[0]))
                wider = plan.rollout > known.rollout
                if not wider or replace(known, rollout=plan.rollout) != plan:
                    return False
                connection.execute(
                    "UPDATE plans SET plan = ? WHERE id = ?", (encode_plan(plan), plan.id)
                )
                return True
            # Plans that nothing was spent for give way to the newest one.
            connection.execute("UPDATE plans SET status = 'superseded' WHERE status = 'new'")
            connection.execute(
                "INSERT INTO plans (id, received, status, plan) VALUES (?, ?, 'new', ?)",
                (plan.id, self._store.counter("plans.received", add=1), encode_plan(plan)),
            )
            return True

    def current(self) -> Plan | None:
        """Return the plan to work on: one that was paid for first, then the newest."""
        row = self._store.connection.execute(
            "SELECT plan FROM plans WHERE status IN ('running', 'new') "
            "ORDER BY status = 'running' DESC, received LIMIT 1"
        ).fetchone()
        return None if row is None else decode_plan(bytes(row[0]))

    def latest(self) -> PlanEntry | None:
        """Return the plan that arrived last, and what became of it."""
        row = self._store.connection.execute(
            "SELECT plan, status, reason FROM plans ORDER BY received DESC LIMIT 1"
        ).fetchone()
        return None if row is None else PlanEntry(decode_plan(bytes(row[0])), row[1], row[2])

    def mark(self, plan_id: str, status: PlanStatus, reason: str = "") -> None:
        """Set what became of a plan, inside the caller's transaction or in one of its own."""
        if self._store.connection.in_transaction:
            self._mark(plan_id, status, reason)
        else:
            with self._store.transaction():
                self._mark(plan_id, status, reason)

    def _mark(self, plan_id: str, status: PlanStatus, reason: str) -> None:
        self._store.connection.execute(
            "UPDATE plans SET status = ?1, reason = ?2 "
            "WHERE id = ?3 AND (status != ?1 OR reason != ?2)",
            (status, reason, plan_id),
        )

    def reconsider_declined(self) -> None:
        """Give the newest plan a second look if it was declined: limits may have been raised."""
        with self._store.transaction() as connection:
            connection.execute(
                "UPDATE plans SET status = 'new', reason = '' WHERE status = 'declined' "
                "AND received = (SELECT MAX(received) FROM plans)"
            )

    def abandon(self, reason: str, *, except_schema: str) -> None:
        """Give up the unfinished plans about any schema but one, as when it replaced theirs."""
        rows = self._store.connection.execute(
            "SELECT plan FROM plans WHERE status IN ('new', 'running')"
        ).fetchall()
        plans = [decode_plan(bytes(data)) for (data,) in rows]
        with self._store.transaction():
            for plan in plans:
                if plan.schema_digest != except_schema:
                    self._mark(plan.id, "failed", reason)
                    self._store.drop_checkpoint(plan.id)


def _readable(data: bytes) -> bool:
    try:
        decode_plan(data)
    except MessageError:
        return False
    return True
