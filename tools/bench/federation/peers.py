"""The peers: tuned on validation rows, then run with three seeds on the held-out rows.

    OMP_NUM_THREADS=1 python -m tools.bench.federation.peers --task digits-by-class --epsilon 8

Results are added to tools/bench/federation/results/peers.json; what was tried goes into
peers-grid.json beside it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from tools.bench.federation.classifier import SETTINGS, Encoder, local_scores
from tools.bench.federation.classifier import score as classifier_score
from tools.bench.federation.client import Choice, Client, Devices, OneByOne, flatten
from tools.bench.federation.flower import STRATEGIES, run_flower
from tools.bench.federation.grids import GRIDS, Search, search
from tools.bench.federation.lockstep import Lockstep
from tools.bench.federation.records import (
    PRIVACY_LEVELS,
    RESULTS,
    Point,
    Record,
    level_name,
    load,
    save,
)
from tools.bench.federation.resources import client_peak_mb
from tools.bench.federation.scaffold import run_scaffold
from tools.bench.federation.tasks import TASKS, Task, load_task

__all__ = ["SYSTEMS", "run_bounds", "run_peer", "tune_peer"]

F32 = npt.NDArray[np.float32]
SYSTEMS = (*STRATEGIES, "SCAFFOLD")
#: a setting is judged by its last rounds together, so that one lucky round does not choose it
JUDGED_SHARE = 0.1
MOST_PADDING = 3


def run_peer(
    task: Task, system: str, choice: Choice, *, epsilon: float | None, seed: int
) -> Record:
    """Train over the task's devices and score every round on the held-out rows."""
    encoder = Encoder(task)
    data = [encoder.arrays(rows) for rows in task.devices]
    test = encoder.frame(task.test)
    curve: list[Point] = []
    factor = 2 if system == "SCAFFOLD" else 1
    sent = 4 * factor * encoder.network(0).parameters

    def on_round(number: int, weights: F32) -> None:
        score = encoder.score(encoder.with_weights(weights), test)
        curve.append(Point(round=number, bytes_up=number * sent, score=score))

    cpu_s = _train(encoder, data, system, choice, epsilon=epsilon, seed=seed, on_round=on_round)
    return Record(
        task=task.name,
        system=system,
        epsilon=epsilon,
        seed=seed,
        metric=task.metric,
        score=curve[-1].score,
        rounds=choice.rounds,
        bytes_up=choice.rounds * sent,
        device_cpu_s=cpu_s,
        curve=curve,
        settings=asdict(choice),
    )


def tune_peer(
    task: Task,
    system: str,
    *,
    epsilon: float | None,
    fedavg: Search | None = None,
    looser: Search | None = None,
) -> Search:
    """Search a peer's settings on the task's validation rows."""
    encoder = Encoder(task)
    kept, validation = task.tuning()
    data = [encoder.arrays(rows) for rows in kept]
    frame = encoder.frame(validation)

    def trial(choice: Choice, seed: int) -> float:
        scores: list[float] = []

        def on_round(number: int, weights: F32) -> None:
            if number > choice.rounds - max(1, round(choice.rounds * JUDGED_SHARE)):
                scores.append(encoder.score(encoder.with_weights(weights), frame))

        with np.errstate(over="ignore", invalid="ignore"):  # a rate too high for a task
            try:
                _train(
                    encoder,
                    data,
                    system,
                    choice,
                    epsilon=epsilon,
                    seed=seed,
                    fast=True,
                    on_round=on_round,
                )
            except ValueError:  # weights that are no numbers any more cannot be scored
                return 0.0
        return float(np.mean(scores))

    return search(
        system,
        trial,
        private=epsilon is not None,
        flights=task.name.startswith("flights"),
        fedavg=fedavg,
        looser=looser,
    )


def run_bounds(task: Task, *, seed: int) -> list[Record]:
    """Return what all real rows together reach, and what a device reaches alone."""
    pooled = pd.concat(task.devices, ignore_index=True)
    start = time.process_time()
    score = classifier_score(task, pooled, seed=seed)
    pooled_s = time.process_time() - start
    start = time.process_time()
    alone = local_scores(task, seed=seed)
    alone_s = (time.process_time() - start) / len(task.devices)
    return [
        Record(
            task=task.name,
            system=system,
            epsilon=None,
            seed=seed,
            metric=task.metric,
            score=value,
            rounds=0,
            bytes_up=0,
            device_cpu_s=cpu_s,
            settings=asdict(SETTINGS[task.name]),
        )
        for system, value, cpu_s in (
            ("centralised", score, pooled_s),
            ("local only", float(np.mean(alone)), alone_s),
        )
    ]


def _train(
    encoder: Encoder,
    data: Sequence[tuple[F32, F32]],
    system: str,
    choice: Choice,
    *,
    epsilon: float | None,
    seed: int,
    fast: bool = False,
    on_round: Callable[[int, F32], None],
) -> float:
    layers = encoder.network(seed).weights
    clients = [
        Client(
            x,
            y,
            kind=encoder.kind,
            shapes=[layer.shape for layer in layers],
            choice=choice,
            epsilon=epsilon,
            seed=seed * 1000 + at,
        )
        for at, (x, y) in enumerate(data)
    ]
    rows = [client.rows for client in clients]
    # Padding every device to the longest must not cost more than it saves.
    together = fast and max(rows) < MOST_PADDING * np.mean(rows)
    one_by_one = OneByOne(clients)
    devices: Devices = Lockstep(clients) if together else one_by_one
    initial = flatten(layers)
    if system == "SCAFFOLD":
        run_scaffold(devices, initial, choice=choice, on_round=on_round)
    else:
        run_flower(system, devices, initial, choice=choice, on_round=on_round)
    return one_by_one.cpu_s / len(clients)


def main() -> None:
    """Tune and run what the options name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=TASKS, action="append")
    parser.add_argument("--system", choices=SYSTEMS, action="append")
    parser.add_argument(
        "--epsilon", choices=[level_name(v) for v in PRIVACY_LEVELS], action="append"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--tune", action="store_true", help="search again, even where a choice is recorded"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    levels = [
        level
        for level in PRIVACY_LEVELS
        if not options.epsilon or level_name(level) in options.epsilon
    ]
    for name in options.task or TASKS:
        path = options.results / "peers.json"
        if not any(r.task == name and r.system == "centralised" for r in load(path)):
            seeds = range(options.seeds)
            records = [r for seed in seeds for r in run_bounds(load_task(name), seed=seed)]
            _report(records)
            save(path, records)
        searches: dict[tuple[str, float | None], Search] = {}
        for level in levels:
            _run_level(name, level, searches, options)


def _run_level(
    name: str,
    level: float | None,
    searches: dict[tuple[str, float | None], Search],
    options: argparse.Namespace,
) -> None:
    peak = client_peak_mb(load_task(name))
    chosen = _recorded(options.results / "peers.json", name, level)
    for system in options.system or SYSTEMS:
        choice = None if options.tune else chosen.get(system)
        if choice is None:
            start = time.perf_counter()
            if system == "FedProx" and ("FedAvg", level) not in searches:
                searches["FedAvg", level] = tune_peer(load_task(name), "FedAvg", epsilon=level)
            found = tune_peer(
                load_task(name),
                system,
                epsilon=level,
                fedavg=searches.get(("FedAvg", level)),
                looser=searches.get((system, 8.0)) if level == 2.0 else None,
            )
            searches[system, level] = found
            choice = found.confirm()
            _keep_grid(options.results / "peers-grid.json", name, system, level, found)
            print(
                f"{name} {system} epsilon {level_name(level)}: {len(found.found)} tried in "
                f"{time.perf_counter() - start:.0f} s, best on validation rows "
                f"{found.confirmed[choice]:.4f}: {choice}",
                flush=True,
            )
        records = [
            run_peer(load_task(name, seed=seed), system, choice, epsilon=level, seed=seed)
            for seed in range(options.seeds)
        ]
        records = [Record(**{**vars(record), "peak_rss_mb": peak}) for record in records]
        _report(records)
        save(options.results / "peers.json", records)


def _recorded(path: Path, task: str, level: float | None) -> dict[str, Choice]:
    """Return the choices of an earlier search, by system."""
    return {
        record.system: Choice(**record.settings)
        for record in load(path)
        if record.task == task and record.epsilon == level and record.system in SYSTEMS
    }


def _keep_grid(path: Path, task: str, system: str, level: float | None, found: Search) -> None:
    document = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    document["grids"] = GRIDS
    tried = document.setdefault("tried", {})
    tried[f"{task}, {system}, epsilon {level_name(level)}"] = [
        {"score": round(found.found[choice], 4), **_changed(choice)}
        for choice in found.best(10_000)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = json.dumps(document, indent=1).replace("\n    ", " ").replace("\n   }", " }")
    path.write_text(lines + "\n", encoding="utf-8")


def _changed(choice: Choice) -> dict[str, object]:
    """Return what differs from the defaults."""
    plain = asdict(Choice(learning_rate=0.0))
    return {key: value for key, value in asdict(choice).items() if value != plain[key]}


def _report(records: Sequence[Record]) -> None:
    for system in dict.fromkeys(record.system for record in records):
        scores = [record.score for record in records if record.system == system]
        first = next(record for record in records if record.system == system)
        print(
            f"{first.task} {system} epsilon {level_name(first.epsilon)}: {first.metric} "
            f"{np.mean(scores):.4f} +- {np.std(scores):.4f}, {first.rounds} rounds, "
            f"{first.bytes_up / 1000:.0f} kB, {first.device_cpu_s:.2f} s a device",
            flush=True,
        )


if __name__ == "__main__":
    main()
