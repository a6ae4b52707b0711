"""What an aggregator has done, from its data directory alone: no broker, no running process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from edge_runtime.aggregator.guard.rollback import curve
from edge_runtime.aggregator.opening import open_workspace
from edge_runtime.aggregator.showing import rollout_of
from edge_runtime.aggregator.workspace import Workspace

__all__ = ["status"]


def status(data_dir: str | Path) -> dict[str, Any]:
    """Return the state of an aggregator as plain values, ready for JSON.

    Parameters
    ----------
    data_dir : str or Path
        The aggregator's data directory; a running aggregator is not disturbed.

    Returns
    -------
    dict
        `fleet`, `private`, `privacy` (statement), `phase`, `round`, `rounds` (list), `planned`
        (training rounds), `signed`, `rollout` and `rollout_stopped` (of the last round's plan),
        `totals`, `devices` (by id: last state and what was accepted),
        `bundle` (in force, or None), `rejected` and `withdrawn` (generators), `metrics` of the
        generator in force, `alarms` (critical ones first) and `curve` (the fleet's score of
        bundles: nats per row on held-out real rows, with errors).

    Raises
    ------
    AggregatorError
        If the directory is not an aggregator's.
    """
    workspace = open_workspace(data_dir)
    try:
        return _collect(workspace)
    finally:
        workspace.close()


def _collect(workspace: Workspace) -> dict[str, Any]:
    catalogue, config = workspace.catalogue, workspace.config
    rounds = catalogue.rounds()
    bundles = catalogue.bundles(status=None)
    published = [b for b in bundles if b.status == "published"]
    states, totals = catalogue.devices(), catalogue.device_totals()
    devices: dict[str, Any] = {}
    for device in sorted(states.keys() | totals.keys()):
        devices[device] = dict(states.get(device, {"status": "unknown"}))
        devices[device]["accepted"] = totals[device]._asdict() if device in totals else None
    return {
        "fleet": config.fleet.name,
        "private": config.privacy.limit is not None,
        "privacy": workspace.privacy(),
        "phase": _phase(workspace),
        "round": rounds[-1].round if rounds else 0,
        "planned": config.rounds.count,
        "signed": config.updates is not None,
        **rollout_of(catalogue),
        "rounds": [{k: v for k, v in record._asdict().items() if k != "plan"} for record in rounds],
        "totals": catalogue.totals(),
        "devices": devices,
        "bundle": published[-1]._asdict() if published else None,
        "rejected": [b._asdict() for b in bundles if b.status == "rejected"],
        "withdrawn": [b._asdict() for b in bundles if b.status == "withdrawn"],
        "alarms": [msgspec.to_builtins(alarm) for alarm in workspace.alarms().alarms],
        "curve": [point._asdict() for point in curve(workspace)],
        "metrics": published[-1].metrics if published else {},
    }


def _phase(workspace: Workspace) -> str:
    rounds = workspace.catalogue.rounds()
    if not rounds:
        return "waiting"
    last = rounds[-1]
    if last.status == "open":
        return "census" if last.round == 0 else "round"
    if last.status == "closed" and last.round >= workspace.config.rounds.count:
        return "done"
    return "fusing"
