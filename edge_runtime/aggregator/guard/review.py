"""The guard between a round's answers and its fusion, and after it: what must go, what is wrong.

`review` judges the round's batches with everything that has arrived, and devices by their peers;
what is found is set aside, whole and with its reason. `assess` says what is wrong with the
generator in force.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edge_runtime.aggregator.anchor import Anchor, Table, merge_anchors
from edge_runtime.aggregator.guard.alarms import (
    AlarmLimits,
    budget_alarms,
    drift_alarms,
    kept_figures,
    measure_alarms,
    ordered,
)
from edge_runtime.aggregator.guard.devices import DeviceLimits, outlying_devices
from edge_runtime.aggregator.guard.drift import Drift, find_drift
from edge_runtime.aggregator.guard.gate import Gate, reason_of
from edge_runtime.aggregator.guard.measures import ColumnFacts, column_facts, measure
from edge_runtime.aggregator.records import MessageRecord
from edge_runtime.aggregator.workspace import Workspace
from edge_runtime.generator import Bundle, open_engine, sample_codes
from edge_runtime.messages import Alarm, Alarms, decode_plan
from edge_runtime.schema import Codec

__all__ = ["assess", "review", "set_aside"]

_LOG = logging.getLogger(__name__)

I32 = npt.NDArray[np.int32]

#: keys of the catalogue's settings
_KEPT = "guard.kept"

#: earlier generators that are measured again after a drift
_REMEASURED = 5

#: rounds after a drift in which a generator is given time to follow
_FOLLOW_ROUNDS = 3


# before fusion --------------------------------------------------------------------------------


def review(workspace: Workspace, gate: Gate, codec: Codec, round_number: int) -> list[Alarm]:
    """Set aside what a round's answers, taken together, show to be wrong; look for drift.

    Parameters
    ----------
    workspace : Workspace
        The aggregator's data.
    gate : Gate
        The one that judged batches as they came.
    codec : Codec
        Of the codes.
    round_number : int
        The round that is to be fused.

    Returns
    -------
    list of Alarm
        About devices and about drift.
    """
    alarms = _review_devices(workspace, gate, codec, round_number)
    _review_batches(workspace, gate, codec, round_number)
    drifts = _find_drift(workspace, codec, round_number)
    return alarms + drift_alarms(drifts, names=codec.schema.names)


def set_aside(workspace: Workspace, records: Mapping[str, str]) -> int:
    """Move accepted messages to quarantine.

    Parameters
    ----------
    workspace : Workspace
        The aggregator's data.
    records : mapping of str to str
        Reasons by message id.

    Returns
    -------
    int
        How many were moved.
    """
    found = workspace.catalogue.find_messages(records)
    moved: list[MessageRecord] = []
    for record in found.values():
        if record.status != "accepted":
            continue
        reason = records[record.id]
        path = workspace.keep_aside(record, reason)
        moved.append(record._replace(status="quarantined", reason=reason, path=path))
        _LOG.warning("quarantined a %s of %s: %s", record.kind, record.device, reason)
    workspace.catalogue.requalify(moved)
    workspace.forget_files([found[record.id] for record in moved])
    return len(moved)


def _review_devices(
    workspace: Workspace, gate: Gate, codec: Codec, round_number: int
) -> list[Alarm]:
    """Set aside what devices sent in this round whose counts are out of line with their peers'."""
    tables = {
        release.device: [
            Table(columns, counts, release.sigma**2) for columns, counts in release.tables.items()
        ]
        for release in workspace.releases(codec)
        if release.round == round_number
    }
    settings = workspace.config.guard
    found = outlying_devices(
        tables,
        names=codec.schema.names,
        conditions=codec.schema.conditions,
        limits=DeviceLimits(deviations=settings.deviations),
    )
    if not found:
        return []
    # First, so that a batch that arrives meanwhile is set aside, too.
    workspace.note_outlying(round_number, {d: f.text for d, f in found.items()})
    reasons = {
        record.id: found[record.device].text
        for kind in ("batch", "anchor", "score", "update")
        for record in workspace.catalogue.messages(kind=kind, round_number=round_number)
        if record.device in found
    }
    moved = set_aside(workspace, reasons)
    for device in found:
        gate.heard(device)
    return [
        Alarm(
            kind="device",
            severity="warning",
            subject=device,
            value=finding.value,
            expected=finding.expected,
            since_round=round_number,
            text=f"What device {device} sent in round {round_number} is in quarantine ({moved} "
            f"messages of {len(found)} devices): {finding.text}.",
        )
        for device, finding in found.items()
    ]


def _review_batches(workspace: Workspace, gate: Gate, codec: Codec, round_number: int) -> None:
    if not workspace.config.guard.batches:
        return
    plans = {r.plan_id: decode_plan(r.plan.encode()) for r in workspace.catalogue.rounds()}
    reasons = {}
    records = workspace.catalogue.messages(kind="batch", round_number=round_number)
    for record, codes in workspace.pool.batches(records, names=codec.schema.names):
        reason = reason_of(
            gate.findings(
                message_id=record.id,
                device=record.device,
                plan=plans[record.plan_id],
                codec=codec,
                codes=codes,
            )
        )
        if reason:
            reasons[record.id] = reason
    set_aside(workspace, gate.earlier(round_number) | reasons)


def _find_drift(workspace: Workspace, codec: Codec, round_number: int) -> list[Drift]:
    settings = workspace.config.guard
    found = find_drift(
        workspace.releases(codec),
        round_number=round_number,
        since_round=workspace.drift_round,
        false_alarms=settings.false_alarms,
        least=settings.drift,
    )
    if found:
        workspace.note_drift(round_number)
    return found


# after fusion ---------------------------------------------------------------------------------


def assess(
    workspace: Workspace, bundle: Bundle, *, round_number: int, found: list[Alarm]
) -> Alarms:
    """Put together what is wrong after a round, and commit it.

    Parameters
    ----------
    workspace : Workspace
        The aggregator's data.
    bundle : Bundle
        The generator in force after the round.
    round_number : int
        The round.
    found : list of Alarm
        What the round has shown so far: devices, drift, rollback.

    Returns
    -------
    Alarms
        As `workspace.alarms` gives them back from now on.
    """
    settings, config = workspace.config.guard, workspace.config
    limits = AlarmLimits(
        kept=settings.kept,
        subgroup=settings.subgroup,
        false_alarms=settings.false_alarms,
        budget=settings.budget,
    )
    alarms = list(found)
    anchor = workspace.anchor(bundle)
    # The first generator has independent columns by construction: nothing to judge yet.
    if anchor is not None and bundle.lineage.depth > 0:
        facts = column_facts(bundle.codec)
        codes = _sample(bundle, settings.rows)
        measures = measure(codes, anchor.tables.values(), facts)
        best = _best_kept(workspace, bundle, anchor, facts, round_number)
        before = _before_drift(workspace, bundle.codec, round_number)
        alarms += measure_alarms(
            measures,
            best=best,
            round_number=round_number,
            limits=limits,
            before_drift=None if before is None else measure(codes, before, facts),
        )
        for key, kept in kept_figures(measures).items():
            best[key] = max(kept, best.get(key, 0.0))
        workspace.catalogue.put(_KEPT, json.dumps(best))
    spent = {
        device: total.epsilon
        for device, total in workspace.catalogue.device_totals().items()
        if total.epsilon is not None
    }
    alarms += budget_alarms(
        spent, limit=config.privacy.limit, round_number=round_number, limits=limits
    )
    made = Alarms(
        fleet=config.fleet.name,
        round=round_number,
        bundle_digest=bundle.digest,
        alarms=ordered(alarms, workspace.alarms().alarms),
    )
    workspace.keep_alarms(made)
    return made


def _sample(bundle: Bundle, rows: int) -> I32:
    engine = open_engine(bundle)
    try:
        # A public key of the bundle's own: another sample every round, the same when repeated.
        return sample_codes(engine, rows, key=bytes.fromhex(bundle.digest))
    finally:
        engine.close()


def _best_kept(
    workspace: Workspace,
    bundle: Bundle,
    anchor: Anchor,
    facts: Sequence[ColumnFacts],
    round_number: int,
) -> dict[str, float]:
    """Return the most that earlier generators kept, by the keys of `kept_figures`.

    What they kept of a population that is no more says nothing about a decline: after a drift the
    last ones are measured again, by the anchor that the present one is measured by.
    """
    if workspace.drift_round != round_number:
        known: dict[str, float] = json.loads(workspace.catalogue.setting(_KEPT) or "{}")
        return known
    best: dict[str, float] = {}
    earlier = [
        r for r in workspace.catalogue.bundles() if r.depth > 0 and r.digest != bundle.digest
    ]
    for record in earlier[-_REMEASURED:]:
        before = workspace.bundle(record)
        assert before is not None
        codes = _sample(before, workspace.config.guard.rows)
        for key, kept in kept_figures(measure(codes, anchor.tables.values(), facts)).items():
            best[key] = max(kept, best.get(key, 0.0))
    return best


def _before_drift(workspace: Workspace, codec: Codec, round_number: int) -> list[Table] | None:
    """Return the anchor as it was before the last drift, while a generator may still follow.

    It began with the drift before: rounds of an older population are not what it followed.
    """
    drift = workspace.drift_round
    if not drift or round_number >= drift + _FOLLOW_ROUNDS:
        return None
    since = workspace.drift_before(drift)
    anchor = merge_anchors([r for r in workspace.releases(codec) if since <= r.round < drift])
    return None if anchor is None else list(anchor.tables.values())
