"""Tune the demo's two classifier baselines on validation rows and print the grids.

Validation rows are a tenth of the fleet's rows; the held-out rows score the chosen setting only,
with three seeds. Results belong into docs/baselines.md, the choice into
edge_runtime/fleet/fedavg.py and edge_runtime/evaluation/utility.py.

    OMP_NUM_THREADS=1 python tools/bench/fedavg_grid.py
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import roc_auc_score

from edge_runtime.evaluation import Features, Frame, TargetTask, TrainingChoice, train_and_score
from edge_runtime.fleet.fedavg import FedAvgChoice, federated_average
from edge_runtime.fleet.flights import INPUTS, TARGET, prepare_flights

RATES = (0.001, 0.003, 0.01)
FEDAVG_RATES = (0.003, 0.01, 0.03)
FEDAVG_EPOCHS = (1, 2)
FEDAVG_BATCHES = (64, 256, 1024)
CENTRAL_BATCHES = (256, 1024, 4096)
Rows = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


def main() -> None:
    """Run both grids."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        data = prepare_flights(Path(directory))
        frames = [Frame.of(pd.read_csv(d.path), data.schema) for d in data.devices]
        test = Frame.of(pd.read_csv(data.held_out_path), data.schema)
        pooled = Frame.of(pd.concat([pd.read_csv(d.path) for d in data.devices]), data.schema)
    task = TargetTask.of(data.schema, TARGET, INPUTS)
    features = Features.public(data.schema, INPUTS)
    devices, checks = zip(
        *[_split(f, task, features, i) for i, f in enumerate(frames)], strict=True
    )
    validation = (np.concatenate([x for x, _ in checks]), np.concatenate([y for _, y in checks]))
    _central_grid(pooled, test, task, features, options.seeds)
    _fedavg_grid(list(devices), validation, (test, task, features), options)


def _split(frame: Frame, task: TargetTask, features: Features, seed: int) -> tuple[Rows, Rows]:
    """One device's rows for training and for validation."""
    rows, target = task.labelled(frame)
    x, y = features.transform(rows), target.astype(np.float32)
    check = np.random.default_rng(seed).random(len(y)) < 0.1
    return (x[~check], y[~check]), (x[check], y[check])


def _central_grid(
    pooled: Frame, test: Frame, task: TargetTask, features: Features, seeds: int
) -> None:
    check = np.random.default_rng(0).random(pooled.rows) < 0.1
    learn, held = pooled.take(~check), pooled.take(check)
    print("\nAll real rows together, early stopping on a tenth of the training rows\n")
    print("| rate | batch | epochs kept | AUC, validation | s |\n| --- | --- | --- | --- | --- |")
    found: dict[TrainingChoice, float] = {}
    for rate, batch in itertools.product(RATES, CENTRAL_BATCHES):
        choice = TrainingChoice(learning_rate=rate, batch=batch)
        start = time.perf_counter()
        score = train_and_score(learn, held, task, features=features, choice=choice)
        found[choice] = score.value
        seconds = time.perf_counter() - start
        print(
            f"| {rate} | {batch} | {score.epochs} | {score.value:.4f} | {seconds:.0f} |", flush=True
        )
    best = max(found, key=lambda choice: found[choice])
    values = [
        train_and_score(pooled, test, task, features=features, choice=best, seed=seed).value
        for seed in range(seeds)
    ]
    print(f"\nchosen: {best}\nAUC on held-out rows, seeds 0..: {np.round(values, 4).tolist()}")


def _fedavg_grid(
    devices: list[Rows],
    validation: Rows,
    scoring: tuple[Frame, TargetTask, Features],
    options: argparse.Namespace,
) -> None:
    print(f"\nFedAvg over {len(devices)} devices, {options.rounds} rounds\n")
    print("| rate | local epochs | batch | rate at the end | AUC, validation | best round | s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    found: dict[FedAvgChoice, float] = {}

    def run(choice: FedAvgChoice) -> None:
        start = time.perf_counter()
        result = federated_average(devices, choice=choice, validation=validation)
        found[choice] = float(
            roc_auc_score(validation[1], result.network.outputs(validation[0])[:, 0])
        )
        print(
            f"| {choice.learning_rate} | {choice.epochs} | {choice.batch} | {choice.final_rate:g}x "
            f"| {found[choice]:.4f} | {result.best_round} | {time.perf_counter() - start:.0f} |",
            flush=True,
        )

    for rate, epochs, batch in itertools.product(FEDAVG_RATES, FEDAVG_EPOCHS, FEDAVG_BATCHES):
        run(
            FedAvgChoice(
                rounds=options.rounds, learning_rate=rate, epochs=epochs, batch=batch, final_rate=1
            )
        )
    # a falling rate, for the best few
    for choice in sorted(found, key=lambda c: -found[c])[:3]:
        run(replace(choice, final_rate=0.05))
    best = max(found, key=lambda choice: found[choice])
    test, task, features = scoring
    rows, target = task.labelled(test)
    x = features.transform(rows)
    values = [
        roc_auc_score(
            target,
            federated_average(
                devices, choice=best, validation=validation, seed=seed
            ).network.outputs(x)[:, 0],
        )
        for seed in range(options.seeds)
    ]
    print(f"\nchosen: {best}\nAUC on held-out rows, seeds 0..: {np.round(values, 4).tolist()}")


if __name__ == "__main__":
    main()
