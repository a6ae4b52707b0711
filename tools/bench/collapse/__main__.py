"""Ten generations: regimes that collapse, the fleet that does not, and alarms over many seeds.

    OMP_NUM_THREADS=1 python -m tools.bench.collapse [--out DIR] [--seeds 20] [--skip-alarms]

Prints tables, draws plots and leaves collapse.json; about a quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.generator import Bundle, Weights
from edge_runtime.schema import read_table
from tools.bench.collapse.alarms import LIES, curve_study, fleet_study
from tools.bench.collapse.curve import fleet_curve
from tools.bench.collapse.figures import Figures, Judge
from tools.bench.collapse.fleets import Cost, FleetRun, run_fleet
from tools.bench.collapse.plots import draw_alarms, draw_generations
from tools.bench.collapse.regimes import REGIMES, Fit, fit, generations, sample
from tools.bench.collapse.tables import TABLES, FleetTable, seasons

#: generations after the first generator
COUNT = 10
#: rows that a generation is judged by
JUDGED_ROWS = 10_000
FIT = Fit()
COSTS = {
    None: Cost(steps=200, rows_share=0.5, fusion_epochs=8),
    8.0: Cost(steps=100, batch=256, rows_share=0.5, fusion_epochs=8, score_share=0.1),
}


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("bench-collapse"))
    parser.add_argument("--seeds", type=int, default=20, help="of the study of alarms")
    parser.add_argument("--skip-alarms", action="store_true")
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=list(TABLES))
    options = parser.parse_args()
    # Warnings that a fleet runs without privacy would fill the table.
    logging.disable(logging.ERROR)
    options.out.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    result: dict[str, Any] = {"facts": _facts(options), "tables": {}}
    for name in options.tables:
        result["tables"][name] = _table(TABLES[name](), options)
        _save(result, options.out)
    if not options.skip_alarms:
        result["alarms"] = _alarms(options.seeds)
    result["facts"]["cpu_seconds"] = round(time.process_time() - began)
    _save(result, options.out)
    print(f"\n{result['facts']['cpu_seconds']} s of one core; {options.out}/collapse.json")


def _table(table: FleetTable, options: argparse.Namespace) -> dict[str, Any]:
    """Run all regimes and fleets on one table."""
    print(
        f"\n## {table.name}: {table.rows} real rows of {len(table.devices)} devices, "
        f"{len(table.held_out)} held out\n\n"
        "| regime | generation | held-out NLL | tails | dependence | rare kept | coverage | "
        "local quality | alarm |\n" + "| --- " * 9 + "|",
        flush=True,
    )
    runs: dict[str, dict[str, Any]] = {}
    ours = run_fleet(table, rounds=COUNT + 1, epsilon=None, cost=COSTS[None], seed=0)
    bundle, codec = ours.bundles[0], ours.codec
    real = [codec.encode(read_table(f, table.schema)).codes for f in table.devices.values()]
    held = codec.encode(read_table(table.held_out, table.schema)).codes
    judge = Judge(
        codec=codec,
        layout=bundle.layout,
        held_out=held,
        local_models=[fit(rows, bundle.layout, None, FIT, seed=k) for k, rows in enumerate(real)],
    )
    everything = np.concatenate(real)
    # Each device's own held-out rows, for the curve; in a fleet they come from its own table.
    parts = np.array_split(np.random.default_rng(1).permutation(len(held)), len(real))
    first = fit(everything, bundle.layout, judge, FIT, seed=0)
    for regime in REGIMES:
        chain = [
            first,
            *generations(
                regime, first=first, real=everything, bundle=bundle, judge=judge, count=COUNT,
                how=FIT, seed=0,
            ),
        ]  # fmt: skip
        curve = fleet_curve(chain, layout=bundle.layout, held=[held[part] for part in parts])
        runs[regime] = {
            "generations": [f.as_dict() for f in _judged(chain, bundle, judge, regime)],
            "curve": curve._asdict(),
        }
        _print_run(regime, runs[regime])
    runs["ours"] = _ours(ours, judge)
    runs["ours"]["curve"] = fleet_curve(
        [b.weights for b in ours.bundles],
        layout=bundle.layout,
        held=[held[part] for part in parts],
    )._asdict()
    _print_run("ours", runs["ours"])
    private = run_fleet(table, rounds=COUNT + 1, epsilon=8.0, cost=COSTS[8.0], seed=0)
    runs["ours, epsilon 8"] = _ours(private, _judge_of(private, table))
    _print_run("ours, epsilon 8", runs["ours, epsilon 8"])
    if table.schema.conditions:
        # A fifth of the devices: one sends noise, one exchanges labels.
        liars = sorted(table.devices)[:2]
        lies = {liars[0]: LIES["noise"](0), liars[1]: LIES["labels exchanged"](0)}
        poisoned = run_fleet(
            table, rounds=COUNT + 1, epsilon=None, cost=COSTS[None], seed=0, poison=lies
        )
        runs["ours, a fifth poisoned"] = _ours(poisoned, _judge_of(poisoned, table))
        _print_run("ours, a fifth poisoned", runs["ours, a fifth poisoned"])
    draw_generations(table.name, runs, options.out / f"{table.name}.png")
    draw_alarms(table.name, runs, options.out / f"{table.name}-score.png")
    # Not drawn: each of its generations is judged by rows of other months.
    if table.name == "flights":
        runs["ours, drifting"] = _drifting(table)
        _print_run("ours, drifting", runs["ours, drifting"])
    return runs


def _judge_of(run: FleetRun, table: FleetTable) -> Judge:
    """Return a judge with the run's own codec; its NLL compares within the run."""
    return Judge(
        codec=run.codec,
        layout=run.bundles[0].layout,
        held_out=run.codec.encode(read_table(table.held_out, table.schema)).codes,
        local_models=[],
    )


def _judged(chain: list[Weights], bundle: Bundle, judge: Judge, name: str) -> list[Figures]:
    return [
        judge.figures(weights, sample(bundle, weights, JUDGED_ROWS, name=f"judge {name} {number}"))
        for number, weights in enumerate(chain)
    ]


def _ours(run: FleetRun, judge: Judge) -> dict[str, Any]:
    chain = [b.weights for b in run.bundles]
    figures = _judged(chain, run.bundles[0], judge, "ours")
    return {
        "generations": [f.as_dict() for f in figures],
        "fleet_curve": run.curve,
        "reasons": run.reasons,
        "alarms": [[f"{a.kind}, {a.subject}: {a.text}" for a in found] for found in run.alarms],
        "notices": [sorted({a.kind for a in found}) for found in run.notices],
        "quarantined": run.quarantined,
        "pooled": run.pooled,
        "cpu_seconds_per_device": run.cpu_seconds,
        "bytes_up_per_device": run.bytes_up,
    }


def _drifting(table: FleetTable) -> dict[str, Any]:
    """Run the fleet through the year; every generation is judged by rows of its own months."""
    devices, rows = len(table.devices), len(next(iter(table.devices.values())))
    rounds = COUNT + 1
    windows = seasons(seed=0, devices=devices, rows=rows, rounds=rounds)
    later = seasons(seed=1, devices=devices, rows=rows, rounds=rounds)
    run = run_fleet(table, rounds=rounds, epsilon=None, cost=COSTS[None], seed=0, drift=windows)
    figures = []
    for bundle, window in zip(run.bundles, later, strict=True):
        held = np.concatenate(
            [run.codec.encode(read_table(f, table.schema)).codes for f in window.values()]
        )
        judge = Judge(codec=run.codec, layout=bundle.layout, held_out=held, local_models=[])
        rows_made = sample(bundle, bundle.weights, JUDGED_ROWS, name="drift")
        figures.append(judge.figures(bundle.weights, rows_made).as_dict())
    made = _ours(run, _judge_of(run, table))
    return {**made, "generations": figures}


def _print_run(name: str, run: dict[str, Any]) -> None:
    figures = run["generations"]
    alarm = (run.get("curve") or {}).get("alarm")
    if "alarms" in run:
        declines = sum(bool(found) for found in run["alarms"])
        seen = f"{declines} of {len(run['alarms'])} rounds"
    else:
        seen = "none" if alarm is None else f"generation {alarm}"
    for number in (0, 1, 5, 10):
        f = figures[number]
        rise = f["nll"] / figures[0]["nll"] - 1
        nll = f"{f['nll']:.2f}" + (f" ({rise:+.1%})" if number else "")
        quality = "" if np.isnan(f["local_quality"]) else f"{f['local_quality']:.2f}"
        print(
            f"| {name if number == 0 else ''} | {number} | {nll} | {f['tails']:.2f} | "
            f"{f['dependence']:.3f} | {f['rare']:.2f} | {f['coverage']:.3f} | {quality} | "
            f"{seen if number == 10 else ''} |",
            flush=True,
        )
    best = np.minimum.accumulate([f["nll"] for f in figures])
    run["largest_rise_over_best"] = float(
        max(f["nll"] / b - 1 for f, b in zip(figures, best, strict=True))
    )


def _alarms(seeds: int) -> dict[str, Any]:
    """Run the study of alarms and print what was missed and what was false."""
    records = []
    for record in fleet_study(seeds):
        records.append(record)
        if record["scenario"] == "drifting":
            print(f"seed {record['seed'] + 1} of {seeds}", file=sys.stderr, flush=True)
    by = {s: [r for r in records if r["scenario"] == s] for s in {r["scenario"] for r in records}}
    print("\n## Alarms\n\n| fleets | runs | what was asked | held |\n| --- | --- | --- | --- |")
    rows = (
        ("well", "no alarm of a decline", lambda r: not r["declines"]),
        ("well", "no honest device in quarantine", lambda r: not r["honest_quarantined"]),
        ("self-consuming", "likelihood alarm", lambda r: r["first_likelihood"] is not None),
        ("poisoned", "all liars caught", lambda r: r["liars_caught"] == r["liars"]),
        ("poisoned", "none of their rows pooled", lambda r: r["liars_rows_pooled"] == 0),
        ("poisoned", "no likelihood alarm", lambda r: r["first_likelihood"] is None),
        ("poisoned", "no honest device in quarantine", lambda r: not r["honest_quarantined"]),
        ("drifting", "drift noticed", lambda r: r["drift_noticed"]),
        ("drifting", "no alarm of a decline", lambda r: not r["declines"]),
    )
    summary = []
    for scenario, question, holds in rows:
        held = sum(bool(holds(r)) for r in by[scenario])
        summary.append([scenario, question, held, len(by[scenario])])
        print(f"| {scenario} | {len(by[scenario])} | {question} | {held} |", flush=True)
    curve = _curve_study(seeds)
    missed = sum(r["collapse_seen_at"] is None for r in curve)
    false = sum(r["false_alarm_at"] is not None for r in curve)
    seen = sorted(r["collapse_seen_at"] for r in curve if r["collapse_seen_at"] is not None)
    print(
        f"| noisy curve, replace | {len(curve)} | collapse seen (generation "
        f"{seen[0] if seen else '-'} to {seen[-1] if seen else '-'}) | {len(curve) - missed} |\n"
        f"| noisy curve, ours | {len(curve)} | no alarm | {len(curve) - false} |"
    )
    return {"fleets": records, "summary": summary, "curve": curve}


def _curve_study(seeds: int) -> list[dict[str, Any]]:
    table = TABLES["abalone"]()
    ours = run_fleet(table, rounds=COUNT + 1, epsilon=None, cost=COSTS[None], seed=0)
    codec, bundle = ours.codec, ours.bundles[0]
    real = np.concatenate(
        [codec.encode(read_table(f, table.schema)).codes for f in table.devices.values()]
    )
    held = codec.encode(read_table(table.held_out, table.schema)).codes
    judge = Judge(codec=codec, layout=bundle.layout, held_out=held, local_models=[])
    return list(
        curve_study(
            seeds,
            real=real,
            held=held,
            devices=len(table.devices),
            bundle=bundle,
            judge=judge,
            healthy=[b.weights for b in ours.bundles],
            layout=bundle.layout,
        )
    )


def _facts(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} x {platform.processor() or platform.machine()}",
        "python": platform.python_version(),
        "versions": {
            n: version(n) for n in ("edge-runtime", "numpy", "onnxruntime", "scikit-lego")
        },
        "seeds": options.seeds,
        "generations": COUNT,
        "fit": vars(FIT) if hasattr(FIT, "__dict__") else str(FIT),
        "costs": {str(epsilon): str(cost) for epsilon, cost in COSTS.items()},
    }


def _save(result: dict[str, Any], out: Path) -> None:
    (out / "collapse.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
