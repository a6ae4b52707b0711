"""The one classifier that scores everything: a network with 64 hidden units.

Every system ends in it: peers average its weights, pools train it from their rows, and the two
bounds (all real rows together, each device alone) are this same network with the same settings.
Inputs are scaled by the schema's public bounds, so no system learns anything from an encoding.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from edge_runtime.evaluation import Features, Frame, TargetTask
from edge_runtime.evaluation.network import Mlp, fit_early
from edge_runtime.evaluation.utility import score_network
from tools.bench.federation.client import unflatten
from tools.bench.federation.tasks import Task, load_task

__all__ = ["HIDDEN", "SETTINGS", "Encoder", "Settings", "local_scores", "score", "train"]

F32 = npt.NDArray[np.float32]
HIDDEN = 64


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the classifier is trained on a table of rows, real or synthetic.

    Parameters
    ----------
    learning_rate : float
        Of Adam.
    batch : int
    patience : int
        Passes without a better loss on a tenth of the same rows before training stops.
    max_epochs : int
    """

    learning_rate: float
    batch: int
    patience: int
    max_epochs: int = 400


#: the best of the grid below on validation rows; every pool is scored with the same settings
SETTINGS: dict[str, Settings] = {
    "digits-by-class": Settings(learning_rate=0.01, batch=32, patience=10),
    "digits-dirichlet": Settings(learning_rate=0.01, batch=32, patience=10),
    "flights-by-carrier": Settings(learning_rate=0.003, batch=1024, patience=4),
    "watch-by-person": Settings(learning_rate=0.003, batch=32, patience=20),
    "watch-by-exercise": Settings(learning_rate=0.003, batch=32, patience=20),
}


class Encoder:
    """A task's rows as network inputs and labels; the same for every system.

    Parameters
    ----------
    task : Task
    """

    def __init__(self, task: Task) -> None:
        self.schema = task.schema
        self.target = TargetTask.of(task.schema, task.label)
        self.features = Features.public(task.schema, self.target.inputs, quantities=task.quantities)

    def arrays(self, rows: pd.DataFrame | Frame) -> tuple[F32, F32]:
        """Return inputs float32 ``[n, width]`` and labels float32 ``[n]`` (class numbers)."""
        frame, labels = self.target.labelled(Frame.of(rows, self.schema))
        return self.features.transform(frame), labels.astype(np.float32)

    @property
    def kind(self) -> Literal["binary", "classes"]:
        """What the network's outputs mean."""
        return "binary" if self.target.task == "binary" else "classes"

    def frame(self, rows: pd.DataFrame | Frame) -> Frame:
        """Return rows in the form that scoring needs, to convert them once."""
        return Frame.of(rows, self.schema)

    def network(self, seed: int) -> Mlp:
        """Return an untrained classifier."""
        return Mlp.create(
            inputs=self.features.width,
            outputs=self.target.outputs,
            hidden=HIDDEN,
            task=self.target.task,
            seed=seed,
        )

    def with_weights(self, vector: F32) -> Mlp:
        """Return the classifier with these weights, all layers in one vector."""
        shapes = [layer.shape for layer in self.network(0).weights]
        return Mlp(self.kind, unflatten(vector, shapes))

    def score(self, network: Mlp, rows: pd.DataFrame | Frame) -> float:
        """Return the task's metric of a trained network on `rows`."""
        return score_network(network, Frame.of(rows, self.schema), self.target, self.features)


def train(
    task: Task, rows: pd.DataFrame | Frame, *, settings: Settings | None = None, seed: int = 0
) -> Mlp:
    """Train the classifier on `rows`; a tenth of the same rows decides when to stop."""
    encoder = Encoder(task)
    x, y = encoder.arrays(rows)
    chosen = settings or SETTINGS[task.name]
    return fit_early(
        encoder.network(seed),
        x,
        y,
        max_epochs=chosen.max_epochs,
        batch=chosen.batch,
        learning_rate=chosen.learning_rate,
        patience=chosen.patience,
        seed=seed,
    ).network


def local_scores(task: Task, *, settings: Settings | None = None, seed: int = 0) -> list[float]:
    """Return, for each device, the metric of a classifier of the device's own rows.

    A device with fewer than ten rows cannot stop early and keeps the untrained network.
    """
    encoder = Encoder(task)
    scores = []
    for rows in task.devices:
        if len(rows) < 10:
            network = encoder.network(seed)
        else:
            network = train(task, rows, settings=settings, seed=seed)
        scores.append(encoder.score(network, task.test))
    return scores


def score(
    task: Task, rows: pd.DataFrame | Frame, *, settings: Settings | None = None, seed: int = 0
) -> float:
    """Train the classifier on `rows` and return its metric on the task's held-out rows."""
    network = train(task, rows, settings=settings, seed=seed)
    return Encoder(task).score(network, task.test)


#: what was tried; flights, with 48,000 rows, with larger batches and less patience
GRID = {"learning_rate": (0.001, 0.003, 0.01), "batch": (32, 128), "patience": (10, 20)}
GRID_FLIGHTS = {"learning_rate": (0.001, 0.003, 0.01), "batch": (256, 1024), "patience": (4, 8)}


def main() -> None:
    """Print what each setting reaches on validation rows with all real rows together."""
    for name in SETTINGS:
        grid = GRID_FLIGHTS if name.startswith("flights") else GRID
        print(f"\n{name}\n\n| rate | batch | patience | validation rows, mean of 3 |")
        print("| --- | --- | --- | --- |")
        for rate, batch, patience in itertools.product(*grid.values()):
            settings = Settings(learning_rate=rate, batch=int(batch), patience=int(patience))
            values = [_on_validation_rows(name, settings, seed) for seed in range(3)]
            print(f"| {rate} | {batch} | {patience} | {np.mean(values):.4f} |", flush=True)


def _on_validation_rows(name: str, settings: Settings, seed: int) -> float:
    task = load_task(name, seed=seed)
    kept, validation = task.tuning()
    pooled = pd.concat(kept, ignore_index=True)
    return Encoder(task).score(train(task, pooled, settings=settings, seed=seed), validation)


if __name__ == "__main__":
    main()
