"""Alarms over many seeds: fleets that are well, that live on themselves, are poisoned, or drift."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.generator import Bundle, Layout, Weights
from edge_runtime.schema import read_table
from edge_runtime.training import mean_nll
from tools.bench.collapse.curve import fleet_curve
from tools.bench.collapse.fleets import OPEN_GATE, Cost, FleetRun, Poison, run_fleet
from tools.bench.collapse.regimes import Fit, fit, generations
from tools.bench.collapse.tables import FleetTable, flights, seasons

__all__ = ["LIES", "SCENARIOS", "curve_study", "fleet_study", "held_out_nll", "poisoned_devices"]

I32 = npt.NDArray[np.int32]

#: small enough that eighty fleets run in minutes
CHEAP = Cost(hidden=32, steps=60, learning_rate=2e-2, fusion_epochs=6, rows_share=0.4, holdout=0.25)
#: for a fleet whose generator does not come from its devices
CHEAPEST = Cost(hidden=32, steps=5, rows_share=0.2, holdout=0.25)
DEVICES, ROWS, ROUNDS = 5, 600, 3

SCENARIOS = ("well", "self-consuming", "poisoned", "drifting")

#: alarms that say that the generator has declined
DECLINE = frozenset({"likelihood", "tails", "rare", "pairs", "subgroup", "rejections", "rollback"})


def _noise(seed: int) -> Poison:
    # Drawn anew for every batch: the same rows twice would be found as copies.
    rng = np.random.default_rng(seed)

    def lie(codes: I32) -> I32:
        return rng.integers(0, codes.max(axis=0) + 1, codes.shape).astype(np.int32)

    return lie


def _copies(_seed: int) -> Poison:
    return lambda codes: np.repeat(codes[:1], len(codes), axis=0)


def _shuffled(seed: int) -> Poison:
    rng = np.random.default_rng(seed)

    def lie(codes: I32) -> I32:
        return np.ascontiguousarray(np.stack([rng.permutation(c) for c in codes.T], axis=1))

    return lie


def _exchanged(_seed: int) -> Poison:
    def lie(codes: I32) -> I32:
        changed = codes.copy()
        # The two commonest labels of the condition change places.
        common = np.argsort(np.bincount(codes[:, 0]))[::-1][:2]
        if len(common) == 2:
            for old, new in (common, common[::-1]):
                changed[codes[:, 0] == old, 0] = new
        return changed

    return lie


#: ways to lie about rows, the counts staying honest
LIES: dict[str, Callable[[int], Poison]] = {
    "noise": _noise,
    "copies of a row": _copies,
    "columns shuffled": _shuffled,
    "labels exchanged": _exchanged,
}


def poisoned_devices(table: FleetTable, seed: int) -> tuple[str, dict[str, Poison]]:
    """Return the kind of lie and the fifth of the devices that tell it."""
    kind = list(LIES)[seed % len(LIES)]
    names = np.random.default_rng(seed).permutation(sorted(table.devices))
    return kind, {str(name): LIES[kind](seed) for name in names[: len(names) // 5]}


def fleet_study(seeds: int) -> Iterator[dict[str, Any]]:
    """Run every scenario with every seed; yield one record each.

    Without privacy: whatever is not exact then is the sample, and a false alarm the guard's own.
    """
    for seed in range(seeds):
        table = flights(seed=seed, devices=DEVICES, rows=ROWS)
        for scenario in SCENARIOS:
            kind, lies = poisoned_devices(table, seed)
            special: dict[str, Any] = {
                "well": {},
                "self-consuming": {"strategy": "self-consuming", "guard": OPEN_GATE},
                "poisoned": {"poison": lies},
                "drifting": {"drift": seasons(seed=seed, devices=DEVICES, rows=ROWS, rounds=ROUNDS)}
                if scenario == "drifting"
                else {},
            }[scenario]
            living_on_itself = scenario == "self-consuming"
            run = run_fleet(
                table,
                rounds=ROUNDS + 1 if living_on_itself else ROUNDS,
                epsilon=None,
                cost=CHEAPEST if living_on_itself else CHEAP,
                seed=seed,
                **special,
            )
            yield {
                "seed": seed,
                "scenario": scenario,
                "lie": kind if scenario == "poisoned" else "",
                "nll": held_out_nll(run, table),
                **_verdict(run, set(lies) if scenario == "poisoned" else set()),
            }


def held_out_nll(run: FleetRun, table: FleetTable) -> list[float]:
    """Nats per row of the rows that no device has, after every round."""
    codes = run.codec.encode(read_table(table.held_out, table.schema)).codes
    return [mean_nll(bundle.weights, codes, bundle.layout) for bundle in run.bundles]


def _verdict(run: FleetRun, liars: set[str]) -> dict[str, Any]:
    """Return what the guard said: declines by kind, drift noticed, devices caught."""
    kinds = [a.kind for found in run.alarms for a in found if a.kind in DECLINE]
    return {
        "first_likelihood": run.first("likelihood"),
        "declines": sorted(set(kinds)),
        "texts": [a.text for found in run.alarms for a in found if a.kind in DECLINE][:5],
        "drift_noticed": any(a.kind == "drift" for found in run.notices for a in found),
        "rejected": sum("rejected" in reason for reason in run.reasons),
        "liars_caught": len(liars & set(run.quarantined)),
        "liars_rows_pooled": sum(run.pooled.get(name, 0) for name in liars),
        "liars": len(liars),
        "honest_quarantined": {
            name: reasons[0] for name, reasons in run.quarantined.items() if name not in liars
        },
    }


def curve_study(
    seeds: int,
    *,
    real: I32,
    held: I32,
    devices: int,
    bundle: Bundle,
    judge: Any,
    healthy: list[Weights],
    layout: Layout,
    count: int = 10,
) -> Iterator[dict[str, Any]]:
    """Score a collapsing chain and the healthy fleet's with a device's noise, seed by seed."""
    how = Fit(steps=400)
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(held))
        parts = [held[part] for part in np.array_split(order, devices)]
        first = fit(real, layout, judge, how, seed=seed)
        chain = [
            first,
            *generations(
                "replace", first=first, real=real, bundle=bundle, judge=judge, count=count,
                how=how, seed=seed,
            ),
        ]  # fmt: skip
        bad = fleet_curve(chain, layout=layout, held=parts)
        well = fleet_curve(healthy, layout=layout, held=parts)
        yield {"seed": seed, "collapse_seen_at": bad.alarm, "false_alarm_at": well.alarm}
