"""The aggregator's retained status, as people and observers see it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_runtime.aggregator.catalogue import Catalogue
from edge_runtime.aggregator.config import AggregatorConfig
from edge_runtime.aggregator.planner import Step
from edge_runtime.aggregator.rollout import STOPPED
from edge_runtime.messages import AggregatorStatus, DeviceProgress, DeviceState, decode_plan

__all__ = ["make_status", "rollout_of"]


def make_status(
    *,
    step: Step,
    catalogue: Catalogue,
    config: AggregatorConfig,
    states: Mapping[str, DeviceState],
    bundle_digest: str,
    unauthentic: int = 0,
) -> AggregatorStatus:
    """Put a status together.

    Parameters
    ----------
    step : Step
        Where the planner is.
    catalogue : Catalogue
        What was accepted.
    config : AggregatorConfig
        What is planned, and whether it is private.
    states : mapping of str to DeviceState
        The devices' own last words.
    bundle_digest : str
        The generator in force, or empty.
    unauthentic : int
        Messages that were dropped as they were not of whom they said.
    """
    totals, per_device = catalogue.totals(), catalogue.device_totals()
    devices = {}
    for device in sorted(states.keys() | per_device.keys()):
        total = per_device.get(device)
        devices[device] = DeviceProgress(
            status=states[device].status if device in states else "unknown",
            round=total.last_round if total else 0,
            batches=total.batches if total else 0,
            rows=total.rows if total else 0,
            quarantined=total.quarantined if total else 0,
            bytes=total.bytes if total else 0,
            epsilon=total.epsilon if total else None,
            throttled=states[device].throttled if device in states else "",
        )
    made = catalogue.bundles(status=None)
    private = config.privacy.limit is not None
    return AggregatorStatus(
        phase=step.phase,
        round=step.number,
        rounds=config.rounds.count,
        devices=devices,
        batches=totals["batches"],
        rows=totals["rows"],
        quarantined=totals["quarantined"],
        unauthentic=unauthentic,
        bundle_digest=bundle_digest,
        progress=step.progress,
        private=private,
        metrics=_figures(made[-1].metrics) if made else {},
        reason=step.reason if private else f"WITHOUT PRIVACY. {step.reason}",
        signed=config.updates is not None,
        **rollout_of(catalogue),
    )


def rollout_of(catalogue: Catalogue) -> dict[str, Any]:
    """How far the last round's plan has come, and whether it was stopped there."""
    rounds = catalogue.rounds()
    if not rounds:
        return {}
    return {
        "rollout": decode_plan(rounds[-1].plan.encode()).rollout,
        "rollout_stopped": rounds[-1].reason.startswith(STOPPED),
    }


def _figures(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the numbers among a bundle's figures; nested ones, as of a packed graph, with dots."""
    found: dict[str, float | None] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": figure for inner, figure in _figures(value).items()}
        elif value is None or isinstance(value, (int, float)):
            found[name] = value
    return found
