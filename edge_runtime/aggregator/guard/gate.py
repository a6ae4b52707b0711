"""The guard at the inbox: a batch is judged before it enters the pool, and again before fusion.

A device sends its counts before its rows, so a batch normally meets its device's summary; where
none is there yet, the census stands in, and before the round is fused every batch is judged again
with all that has arrived since.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from edge_runtime.aggregator.anchor import Table, merge_anchors
from edge_runtime.aggregator.config import GuardSettings
from edge_runtime.aggregator.guard.batches import BatchLimits, Finding, judge_batch
from edge_runtime.aggregator.guard.copies import REMEMBERED, CopyIndex
from edge_runtime.aggregator.guard.history import History
from edge_runtime.aggregator.records import MessageRecord
from edge_runtime.aggregator.workspace import Workspace
from edge_runtime.messages import Plan
from edge_runtime.reception.fingerprints import Fingerprint, fingerprint
from edge_runtime.schema import Codec, cells_behind

__all__ = ["Gate", "own_tables", "reason_of"]

I32 = npt.NDArray[np.int32]


class Gate:
    """Judges batches for the inbox.

    Parameters
    ----------
    workspace : Workspace
        Where earlier batches and the devices' own summaries are.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._settings = workspace.config.guard
        self._copies: CopyIndex | None = None
        self._history = History(workspace)
        self._own: dict[str, list[Table]] = {}
        # The inbox asks on its thread, the review before fusion on another.
        self._lock = threading.Lock()

    def excluded(self, round_number: int) -> dict[str, str]:
        """Return the devices that nothing is taken from in a round, with the reason."""
        return self._workspace.outlying(round_number)

    def judge(
        self,
        *,
        message_id: str,
        device: str,
        plan: Plan,
        codec: Codec,
        codes: I32,
        print_: Fingerprint,
    ) -> str:
        """Say why a batch must not enter the pool; empty when nothing is wrong with it.

        Parameters
        ----------
        message_id : str
            The batch's own: sent again, it is no copy of itself.
        device : str
            Who sent it.
        plan : Plan
            Which it answers.
        codec : Codec
            Of its codes.
        codes : int32 [n, D]
            The rows.
        print_ : Fingerprint
            Of the rows.
        """
        if not self._settings.batches:
            return ""
        with self._lock:
            copied = self._index().judge(print_, name=message_id)
        found = [copied] if copied is not None else []
        found += self.findings(
            message_id=message_id, device=device, plan=plan, codec=codec, codes=codes
        )
        return reason_of(found)

    def findings(
        self, *, message_id: str, device: str, plan: Plan, codec: Codec, codes: I32
    ) -> list[Finding]:
        """Judge a batch by its device's own counts and its parent generator; see `judge`."""
        with self._lock:
            own = self._own.get(device)
            related = self._history.judge(
                message_id=message_id, device=device, plan=plan, codes=codes
            )
        if own is None:
            # Where a packed graph is served, nobody counts anything.
            packed = self._workspace.config.bundle.packed
            own = [] if packed else own_tables(self._workspace, codec, device)
            with self._lock:
                self._own[device] = own
        found = [] if related is None else [related]
        if not own:
            return found
        return [
            *judge_batch(
                codes,
                own,
                names=codec.schema.names,
                conditions=codec.schema.conditions,
                clamped_to_own=plan.rows is None or plan.rows.clamp == "own",
                limits=batch_limits(self._settings),
                label=codec.label,
            ),
            *found,
        ]

    def took(self, *, message_id: str, device: str, round_number: int, print_: Fingerprint) -> None:
        """Remember an accepted batch, so that copies of it are found."""
        with self._lock:
            self._index().add(message_id, device, round_number, print_)

    def earlier(self, round_number: int) -> dict[str, str]:
        """Return what a round's batches show to be wrong with earlier ones: reasons by message.

        Only of devices whose last batches together are found wrong.
        """
        with self._lock:
            return self._history.earlier(round_number)

    def heard(self, device: str) -> None:
        """Read a device's counts again: a summary of it was accepted or set aside."""
        with self._lock:
            self._own.pop(device, None)

    def _index(self) -> CopyIndex:
        """Return the fingerprints of the latest batches, taken once a process; lock held."""
        if self._copies is None:
            self._copies = CopyIndex()
            for record, print_ in _fingerprints(self._workspace):
                self._copies.add(record.id, record.device, record.round, print_)
        return self._copies


def batch_limits(settings: GuardSettings) -> BatchLimits:
    """Return the limits that [guard] sets."""
    return BatchLimits(
        false_alarms=settings.false_alarms,
        misfit=settings.misfit,
        mean_misfit=settings.mean_misfit,
        dependence=settings.dependence,
        diversity=settings.diversity,
    )


def reason_of(found: Sequence[Finding]) -> str:
    """Return the worst findings as one text: the first of each kind."""
    kinds: dict[str, Finding] = {}
    for finding in found:
        before = kinds.get(finding.kind)
        if before is None or abs(finding.value - finding.allowed) > abs(
            before.value - before.allowed
        ):
            kinds[finding.kind] = finding
    return "; ".join(finding.text for finding in kinds.values())


def own_tables(workspace: Workspace, codec: Codec, device: str) -> list[Table]:
    """Return a device's own noisy counts: its anchors, and its census for columns they lack.

    After a drift of the population only its newer anchors count, once there are any. The census
    counts finer cells; what the cells of a code add up to in noise is taken as their average, and
    cleaning has made it smaller still.
    """
    releases = workspace.releases(codec, device)
    newer = [r for r in releases if r.round >= workspace.drift_round]
    merged = merge_anchors(newer or releases)
    tables = list(merged.tables.values()) if merged is not None else []
    counted = {column for table in tables for column in table.columns}
    census = workspace.censuses(device).get(device)
    if census is not None:
        for d, counts in enumerate(codec.code_counts(census)):
            if d not in counted:
                cells = cells_behind(codec.schema, census, d) / len(counts)
                tables.append(Table((d,), counts, census.sigma**2 * cells))
    return tables


def _fingerprints(workspace: Workspace) -> Iterator[tuple[MessageRecord, Fingerprint]]:
    latest = workspace.catalogue.latest_batches(REMEMBERED)
    for record, codes in workspace.pool.batches(latest, names=workspace.schema.names):
        yield record, fingerprint(codes)
