"""Attack what devices release and compare what the attacks prove with what the devices claim.

    OMP_NUM_THREADS=1 python tools/bench/privacy_audit.py [--runs 400] [--only moments broken]

Each part at epsilon 1, 8 and without privacy, with the devices' own code (`audit.device`):

* noisy counts alone, in hundreds of thousands of devices;
* noisy moments alone, sums of scores and of their products, in as many;
* one worst-case canary, present in every second device: counts, gradient sums, released weights,
  batches with free and clamped conditions, and everything together; trained on all rows at every
  step, and on Poisson samples of a quarter;
* membership of ordinary rows and of canaries in the training set of devices that learn by heart;
* mechanisms broken on purpose, which must be caught.

Ends with an error if a bound exceeds a claim, if an attack fails where privacy is off, or if a
broken mechanism passes. Noise is the real one, seeded so that a run can be repeated.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from audit.broken import HalfNoise, Unclipped, Unsampled, unclipped_sums
from audit.canary import FULL, SAMPLED, Verdict, attack, other_rows
from audit.counts import attack_counts
from audit.device import DELTA, Setting
from audit.fleet import SETTING, Found, members
from audit.moments import VIEWS, attack_moments

EPSILONS = (1.0, 8.0, None)
#: lines for the record, and what is not as it must be
Result = tuple[list[dict[str, Any]], list[str]]


def main() -> None:
    """Run everything that is asked for, print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--runs", type=int, default=400, help="devices per canary table")
    parser.add_argument("--devices", type=int, default=60, help="devices per membership table")
    parser.add_argument(
        "--counts", type=int, default=200_000, help="devices of the counts and the moments alone"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/privacy_audit.json"))
    options = parser.parse_args()
    began, worked = time.monotonic(), time.process_time()
    problems: list[str] = []
    record: dict[str, Any] = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cpus": os.cpu_count(),
        },
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "settings": {**vars(options), "out": str(options.out), "delta": DELTA},
    }
    for part in options.only:
        record[part], found = PARTS[part](options)
        problems += found
    record["seconds"] = round(time.monotonic() - began)
    record["cpu_seconds"] = round(time.process_time() - worked)
    record["problems"] = problems
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1, default=str))
    print(
        f"\n{record['seconds']} s, {record['cpu_seconds']} of them on the processor; written to "
        f"{options.out}"
    )
    if problems:
        sys.exit("\n".join(["NOT AS IT MUST BE:", *problems]))
    print("no bound above its claim; every attack works without privacy; broken ones are caught")


def counts_alone(options: argparse.Namespace) -> Result:
    """Attack noisy counts and nothing else."""
    heading("Counts alone", CANARY_HEAD)
    lines, problems = [], []
    for epsilon in EPSILONS:
        verdict = attack_counts(epsilon, devices=options.counts, seed=options.seed)
        lines.append(show_verdict(epsilon, verdict))
        problems += judge(f"counts at {name(epsilon)}", verdict)
    return lines, problems


def moments_alone(options: argparse.Namespace) -> Result:
    """Attack noisy moments of both orders; then break them."""
    heading("Moments alone", CANARY_HEAD)
    lines, problems = [], []
    alone = {"devices": options.counts, "seed": options.seed}
    for order in VIEWS:
        for epsilon in EPSILONS:
            verdict = attack_moments(epsilon, order=order, **alone)
            lines.append(show_verdict(epsilon, verdict))
            problems += judge(f"{verdict.view} at {name(epsilon)}", verdict)
    for order in VIEWS:
        for what, changes in (
            ("half the noise", {"noise": HalfNoise}),
            ("no clipping", {"sums": unclipped_sums}),
        ):
            verdict = attack_moments(8.0, order=order, **alone, **changes)
            line, missed = show_broken(f"{verdict.view}, {what}", verdict)
            lines.append(line)
            problems += missed
    return lines, problems


def full(options: argparse.Namespace) -> Result:
    """Attack one canary where each row takes part in each step."""
    return one_canary(options, "One canary, every row in every step", FULL, rows=30)


def sampled(options: argparse.Namespace) -> Result:
    """Attack one canary under Poisson samples."""
    return one_canary(options, "One canary, Poisson samples of a quarter", SAMPLED, rows=0)


def one_canary(options: argparse.Namespace, title: str, setting: Setting, *, rows: int) -> Result:
    """Attack all that a device releases, beside so many other rows."""
    heading(title, CANARY_HEAD)
    lines, problems = [], []
    for epsilon in EPSILONS:
        verdicts = attack(
            dataclasses.replace(setting, epsilon=epsilon),
            others=other_rows(setting.layout, rows),
            runs=options.runs,
            seed=options.seed,
        )
        for verdict in verdicts.values():
            lines.append(show_verdict(epsilon, verdict))
            problems += judge(f"{title}, {verdict.view} at {name(epsilon)}", verdict)
    return lines, problems


def many_rows(options: argparse.Namespace) -> Result:
    """Guess which of many rows took part."""
    heading("Membership of many rows", MEMBER_HEAD)
    lines, problems = [], []
    for epsilon in EPSILONS:
        for found in members(
            dataclasses.replace(SETTING, epsilon=epsilon),
            devices=options.devices,
            seed=options.seed,
        ):
            lines.append(show_found(epsilon, found))
            problems += judge_members(epsilon, found)
    return lines, problems


def broken(options: argparse.Namespace) -> Result:
    """Break counts and training on purpose."""
    heading("Broken on purpose, at epsilon 8", CANARY_HEAD)
    lines, problems = [], []
    quick = {"runs": max(200, options.runs // 2), "seed": options.seed}
    others = other_rows(FULL.layout, 30)
    without_rows = dataclasses.replace(FULL, rows=0)
    for what, setting, rows, changes in (
        ("half the noise", without_rows, others, {"noise": HalfNoise}),
        ("no clipping", without_rows, others[:0], {"step": Unclipped}),
        ("no sampling", dataclasses.replace(SAMPLED, rows=0), others[:0], {"noise": Unsampled}),
    ):
        verdict = attack(setting, others=rows, **quick, **changes)["everything"]
        line, missed = show_broken(what, verdict)
        lines.append(line)
        problems += missed
    return lines, problems


PARTS = {
    "counts": counts_alone,
    "moments": moments_alone,
    "full": full,
    "sampled": sampled,
    "members": many_rows,
    "broken": broken,
}
CANARY_HEAD = (
    "view",
    "claimed",
    "proved",
    "at most",
    "as Gaussian",
    "at most",
    "AUC",
    "TPR 1 %",
    "runs",
)
MEMBER_HEAD = ("attack", "rows", "claimed", "proved", "at most", "guesses", "AUC", "TPR 1 %")


def name(epsilon: float | None) -> str:
    """Epsilon for people."""
    return "none" if epsilon is None else f"{epsilon:g}"


def heading(title: str, columns: tuple[str, ...]) -> None:
    """Begin a table."""
    print(f"\n{title}\n\n| epsilon | {' | '.join(columns)} |", flush=True)
    print("|" + " --- |" * (len(columns) + 1), flush=True)


def number(value: float) -> str:
    """Two decimals; no privacy has no number."""
    return "none" if math.isinf(value) else f"{value:.2f}"


def show_verdict(epsilon: float | None, verdict: Verdict) -> dict[str, Any]:
    """Print a line, and return it for the record."""
    audited = verdict.audited
    cells = (
        name(epsilon),
        verdict.view,
        number(verdict.claimed),
        number(audited.epsilon),
        number(audited.ceiling),
        number(audited.gaussian),
        number(audited.gaussian_ceiling),
        f"{verdict.area:.3f}",
        f"{verdict.found:.3f}",
        f"{verdict.runs}",
    )
    print(f"| {' | '.join(cells)} |", flush=True)
    return {"epsilon": name(epsilon), **dataclasses.asdict(verdict)}


def show_broken(what: str, verdict: Verdict) -> tuple[dict[str, Any], list[str]]:
    """Print a line about a broken mechanism; return it, and whether nothing was noticed."""
    line = show_verdict(8.0, dataclasses.replace(verdict, view=what))
    noticed = verdict.audited.gaussian > verdict.claimed
    return line, [] if noticed else [f"{what} was not noticed"]


def show_found(epsilon: float | None, found: Found) -> dict[str, Any]:
    """Print a line, and return it for the record."""
    cells = (
        name(epsilon),
        found.attack,
        found.rows,
        number(found.claimed),
        number(found.audit.epsilon),
        number(found.audit.ceiling),
        f"{found.audit.correct} of {found.audit.made}",
        f"{found.area:.3f}",
        f"{found.found:.3f}",
    )
    print(f"| {' | '.join(cells)} |", flush=True)
    return {"epsilon": name(epsilon), **dataclasses.asdict(found)}


def judge(what: str, verdict: Verdict) -> list[str]:
    """Say what is wrong with a verdict: too much proved with privacy, too little without."""
    audited = verdict.audited
    if math.isfinite(verdict.claimed):
        proved = max(audited.epsilon, audited.gaussian)
        if proved > verdict.claimed:
            return [f"{what}: {proved:.2f} proved, {verdict.claimed:.2f} claimed"]
        return []
    # Short runs cannot prove as much as 8; then nearly all that they can.
    wanted = min(8.0, 0.8 * audited.gaussian_ceiling)
    if audited.gaussian < wanted or verdict.area < 0.95:
        return [f"{what}: the attack fails without privacy"]
    return []


def judge_members(epsilon: float | None, found: Found) -> list[str]:
    """Do the same for an attack on many rows."""
    if found.audit.epsilon > found.claimed:
        return [f"{found.attack} on {found.rows}: more proved than {found.claimed:.2f}"]
    # Counts of columns add up over all rows: only a network and its rows betray single ones.
    expected = epsilon is None and found.rows == "canaries" and "counts" not in found.attack
    if expected and found.area < 0.95:
        return [f"{found.attack} misses canaries without privacy"]
    return []


if __name__ == "__main__":
    main()
