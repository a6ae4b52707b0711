"""From the aggregator's catalogue and the devices' last states to the report's fleet section."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_runtime.aggregator import Catalogue, status
from edge_runtime.aggregator.config import default_catalogue_url
from edge_runtime.aggregator.records import MessageRecord
from edge_runtime.fleet.flights import FlightsData
from edge_runtime.fleet.observer import Snapshot

__all__ = ["fleet_figures"]

_MECHANISM = (
    "Counts carry exact discrete Gaussian noise; generators are trained with per-row clipped "
    "gradients and noise (DP-SGD) on each device; a Renyi accountant adds everything up in the "
    "device's own ledger, before anything is drawn."
)


def fleet_figures(
    data_dir: Path, *, data: FlightsData, snapshot: Snapshot, release: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fleet section of a report, and its privacy statement.

    Parameters
    ----------
    data_dir : Path
        The aggregator's data directory; its process has ended.
    data : FlightsData
        For names and counts of real rows, which only this machine's owner knows.
    snapshot : Snapshot
        The devices' last states: what each says to have spent.
    release : dict
        The facts beside the release.
    """
    told = status(data_dir)
    catalogue = Catalogue(default_catalogue_url(data_dir), create=False)
    try:
        kinds = ("census", "anchor", "moments", "score", "update", "batch")
        accepted = [record for kind in kinds for record in catalogue.messages(kind=kind)]
    finally:
        catalogue.close()
    private = bool(told["private"])
    devices = []
    for device in data.devices:
        state = snapshot.devices.get(device.device)
        counted = told["devices"].get(device.device, {}).get("accepted") or {}
        devices.append(
            {
                "device": device.device,
                "name": device.carrier,
                "real_rows": device.rows,
                "rows_accepted": counted.get("rows", 0),
                "quarantined": counted.get("quarantined", 0),
                "bytes_up": state.bytes_up if state is not None else counted.get("bytes", 0),
                "epsilon": state.epsilon_spent if state is not None and private else None,
                "status": state.status if state is not None else "never seen",
                "reason": state.reason if state is not None else "",
            }
        )
    spent = [d["epsilon"] for d in devices if d["epsilon"] is not None]
    fleet = {
        "devices": devices,
        "real_rows": data.rows,
        # No message of the protocol can carry one: batches hold generated codes, summaries noisy
        # counts. What would count here is a batch accepted with lineage depth 0.
        "real_rows_sent": sum(m.rows for m in accepted if m.kind == "batch" and m.depth == 0),
        "rows_accepted": told["totals"]["rows"],
        "rows_quarantined": told["totals"]["quarantined"],
        "rounds": _rounds(told, accepted, private=private),
        "epsilon_limit": told["privacy"].get("epsilon_limit"),
        "alarms": told["alarms"],
        "curve": told["curve"],
    }
    privacy: dict[str, Any] = {"epsilon": None, "unit": "row"}
    if private:
        privacy = {
            "epsilon": max(spent, default=told["privacy"]["epsilon"]),
            "delta": told["privacy"]["delta"],
            "unit": told["privacy"]["unit"],
            "accountant": told["privacy"]["accountant"],
            "mechanism": _MECHANISM,
        }
    fleet["release"] = {
        key: release.get(key) for key in ("rows", "pooled_rows", "distinct_pooled_rows", "metrics")
    }
    return fleet, privacy


def _rounds(
    told: dict[str, Any], accepted: list[MessageRecord], *, private: bool
) -> list[dict[str, Any]]:
    figures = []
    for record in told["rounds"]:
        number = record["round"]
        until = [m for m in accepted if m.round <= number]
        spent = [m.epsilon for m in until if m.epsilon is not None]
        ended = record["ended_unix_s"]
        figures.append(
            {
                "name": "census" if number == 0 else f"round {number}",
                "devices": len({m.device for m in until if m.round == number}),
                "rows": sum(m.rows for m in until if m.kind == "batch"),
                "epsilon": max(spent, default=None) if private else None,
                "seconds": ended - record["started_unix_s"] if ended is not None else None,
                "outcome": record["reason"],
            }
        )
    return figures
