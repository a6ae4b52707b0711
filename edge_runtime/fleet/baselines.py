"""The demo's three baselines, in a process of their own: all rows, one device's rows, FedAvg.

``python -m edge_runtime.fleet.baselines --data DIR --out FILE``. It reads what `prepare_flights`
wrote, including the held-out rows, which the fleet never sees. The same network and the same
input scaling score the release later.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import EdgeRuntimeError
from edge_runtime.evaluation import Features, Frame, TargetTask, score_network, train_and_score
from edge_runtime.fleet.fedavg import FEDAVG_CHOICE, federated_average
from edge_runtime.fleet.flights import INPUTS, TARGET, FlightsData, load_flights, read_rows
from edge_runtime.schema import Schema

__all__ = ["main", "measure_baselines"]

F32 = npt.NDArray[np.float32]

#: share of the rows that picks FedAvg's round; the server would ask devices for the same
_VALIDATION_SHARE = 0.05


def measure_baselines(data: FlightsData, *, seed: int = 0) -> list[dict[str, Any]]:
    """Return the utility of the three baselines, as `evaluate` takes them.

    Parameters
    ----------
    data : FlightsData
        As prepared on disk.
    seed : int
        Of initial weights and shuffles.

    Returns
    -------
    list of dict
        ``name``, ``kind`` (real, local, federated), ``value`` (AUC), ``rows``, ``note``,
        ``seconds``.
    """
    schema = data.schema
    task = TargetTask.of(schema, TARGET, INPUTS)
    features = Features.public(schema, INPUTS)
    frames = [Frame.of(read_rows(device.path), schema) for device in data.devices]
    test = Frame.of(read_rows(data.held_out_path), schema)
    return [
        _all_rows(frames, test, task, features, seed),
        _one_device(frames, test, task, features, seed),
        _federated(frames, test, task, features, seed),
    ]


def _all_rows(
    frames: list[Frame], test: Frame, task: TargetTask, features: Features, seed: int
) -> dict[str, Any]:
    start = time.perf_counter()
    score = train_and_score(_joined(frames), test, task, features=features, seed=seed)
    return {
        "name": "all real rows together",
        "kind": "real",
        "value": score.value,
        "rows": score.rows,
        "note": "what no fleet may do",
        "seconds": time.perf_counter() - start,
    }


def _one_device(
    frames: list[Frame], test: Frame, task: TargetTask, features: Features, seed: int
) -> dict[str, Any]:
    start = time.perf_counter()
    scores = [train_and_score(f, test, task, features=features, seed=seed) for f in frames]
    values = [score.value for score in scores if np.isfinite(score.value)]
    return {
        "name": "one device's rows",
        "kind": "local",
        "value": float(np.mean(values)) if values else None,
        "rows": round(float(np.mean([score.rows for score in scores]))),
        "note": f"mean of {len(scores)} devices, "
        + (f"{min(values):.3f} to {max(values):.3f}" if values else "none could be trained"),
        "seconds": time.perf_counter() - start,
    }


def _federated(
    frames: list[Frame], test: Frame, task: TargetTask, features: Features, seed: int
) -> dict[str, Any]:
    start = time.perf_counter()
    devices: list[tuple[F32, F32]] = []
    checks: list[tuple[F32, F32]] = []
    for position, frame in enumerate(frames):
        rows, target = task.labelled(frame)
        x, y = features.transform(rows), target.astype(np.float32)
        rng = np.random.default_rng([seed, position])
        check = rng.random(len(y)) < _VALIDATION_SHARE
        devices.append((x[~check], y[~check]))
        checks.append((x[check], y[check]))
    validation = (
        np.concatenate([x for x, _ in checks]),
        np.concatenate([y for _, y in checks]),
    )
    result = federated_average(
        devices, validation=validation if len(validation[1]) else None, seed=seed
    )
    value = score_network(result.network, test, task, features)
    megabytes = result.bytes_up_per_device / 1e6
    return {
        "name": "FedAvg classifier",
        "kind": "federated",
        "value": value,
        "rows": sum(len(y) for _, y in devices),
        "note": f"{result.rounds} rounds, {megabytes:.1f} MB up a device, no privacy",
        "bytes_up_per_device": result.bytes_up_per_device,
        "choice": {
            "learning_rate": FEDAVG_CHOICE.learning_rate,
            "epochs": FEDAVG_CHOICE.epochs,
            "batch": FEDAVG_CHOICE.batch,
            "final_rate": FEDAVG_CHOICE.final_rate,
        },
        "seconds": time.perf_counter() - start,
    }


def _joined(frames: list[Frame]) -> Frame:
    first = frames[0]
    schema: Schema = first.schema
    return Frame(
        schema=schema,
        numbers={n: np.concatenate([f.numbers[n] for f in frames]) for n in first.numbers},
        codes={n: np.concatenate([f.codes[n] for f in frames]) for n in first.codes},
        labels=first.labels,
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure, write JSON, return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m edge_runtime.fleet.baselines", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--data", required=True, type=Path, help="directory of prepare_flights")
    parser.add_argument("--out", required=True, type=Path, help="JSON file to write")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        figures = measure_baselines(load_flights(options.data), seed=options.seed)
    except EdgeRuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    partial = options.out.with_suffix(".partial")
    partial.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    partial.replace(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
