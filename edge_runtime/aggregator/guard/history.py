"""What a device's last batches show together, each under the generator it was made from.

One small batch under a young generator says little about how columns follow each other; the last
few of a device say more. What they show is kept in memory, also of those that were set aside, and
taken again from the pool after a restart.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.aggregator.guard.batches import Finding
from edge_runtime.aggregator.guard.relations import (
    Parent,
    Relation,
    judge_relations,
    relation_of,
)
from edge_runtime.aggregator.workspace import Workspace
from edge_runtime.messages import Plan

__all__ = ["History"]

I32 = npt.NDArray[np.int32]

#: rounds before the present one whose batches are judged with it
_ROUNDS = 4

#: generators kept in memory, each with its rows
_PARENTS = 2

#: how much likelier than `false_alarms` this test alone may be wrong: a second one must agree
_BOTH = 10.0


class _Entry(NamedTuple):
    device: str
    round: int
    relation: Relation | None


class History:
    """Remembers relations by message; not thread-safe, its gate holds a lock.

    Parameters
    ----------
    workspace : Workspace
        Where the generators are, and the pool.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._settings = workspace.config.guard
        self._parents: dict[str, Parent] = {}
        self._entries: dict[str, _Entry] = {}
        #: the first round that is remembered
        self._first = 0

    def judge(self, *, message_id: str, device: str, plan: Plan, codes: I32) -> Finding | None:
        """Judge a batch alone and with its device's last ones; see `Gate.judge`.

        What is found in all of them together is held against this one only if it, too, keeps less
        than it should.
        """
        # A packed graph has no likelihood: what it knows of its columns' dependence cannot be told.
        if plan.bundle_digest is None or self._workspace.config.bundle.packed:
            return None
        self._recall(device, plan.round)
        if message_id not in self._entries:
            self._entries[message_id] = _Entry(
                device, plan.round, self._relation(plan.bundle_digest, codes)
            )
        own = self._entries[message_id].relation
        if own is None or own.kept >= self._settings.relations:
            return None
        alone = self._judge([own])
        if alone is not None:
            return alone
        return self._judge(list(self._window(device, plan.round).values()))

    def earlier(self, round_number: int) -> dict[str, str]:
        """Return reasons by message: the batches of devices found wrong over their last ones."""
        reasons: dict[str, str] = {}
        for device in {e.device for e in self._entries.values() if e.round == round_number}:
            window = self._window(device, round_number)
            found = self._judge(list(window.values()))
            if found is not None:
                reasons |= {
                    message: found.text
                    for message, relation in window.items()
                    if relation.kept < self._settings.relations
                }
        return reasons

    def _judge(self, relations: list[Relation]) -> Finding | None:
        return judge_relations(
            relations,
            least=self._settings.relations,
            false_alarms=min(0.5, _BOTH * self._settings.false_alarms),
        )

    def _window(self, device: str, round_number: int) -> dict[str, Relation]:
        return {
            message: entry.relation
            for message, entry in self._entries.items()
            if entry.device == device
            and entry.relation is not None
            and round_number - _ROUNDS <= entry.round <= round_number
        }

    def _recall(self, device: str, round_number: int) -> None:
        """Take up a device's batches that came before a restart; forget what is too old."""
        first = round_number - _ROUNDS
        if first > self._first:  # once a round: a fleet has many entries
            self._first = first
            self._entries = {m: e for m, e in self._entries.items() if e.round >= first}
        records = [
            record
            for record in self._workspace.catalogue.messages(kind="batch", device=device)
            if record.round >= first and record.id not in self._entries
        ]
        names = self._workspace.schema.names
        for record, codes in self._workspace.pool.batches(records, names=names):
            self._entries[record.id] = _Entry(
                device, record.round, self._relation(record.bundle_digest, codes)
            )

    def _relation(self, digest: str, codes: I32) -> Relation | None:
        parent = self._parents.get(digest)
        if parent is None:
            records = self._workspace.catalogue.bundles(status=None)
            record = next((r for r in records if r.digest == digest), None)
            # The first generator's columns are independent: it knows nothing to be kept.
            bundle = self._workspace.bundle(record) if record and record.depth else None
            if bundle is None:
                return None
            parent = Parent(bundle, rows=self._settings.rows)
            while len(self._parents) >= _PARENTS:
                del self._parents[next(iter(self._parents))]
            self._parents[digest] = parent
        return relation_of(codes, parent)
