"""The one classifier that scores everything: a network with 64 hidden units.

Every system ends in it: peers average its weights, pools train it from their rows, and the two
bounds (all real rows together, each device alone) are this same network with the same settings.
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
    """A task's rows as network inputs and labels.

    Quantities are scaled by their mean and standard deviation: those of the rows that a pool
    consists of, which is all its user has; for everything that trains on real rows, those of all
    devices together, which favours the peers (they would have to be shared first, and paid for).
    Scaled by wide public bounds instead, FedAvg lost .1 accuracy on watch. Columns in
    `Task.quantities` are codes with few values and scaled by their bounds.

    Parameters
    ----------
    task : Task
    rows : pandas.DataFrame or Frame, optional
        Where means and deviations come from; the training rows of all devices when None.
    """

    def __init__(self, task: Task, rows: pd.DataFrame | Frame | None = None) -> None:
        self.schema = task.schema
        self.target = TargetTask.of(task.schema, task.label)
        inputs = self.target.inputs
        if task.quantities:
            self.features = Features.public(task.schema, inputs, quantities=task.quantities)
        else:
            known = pd.concat(task.devices, ignore_index=True) if rows is None else rows
            self.features = Features.fit(self.frame(known), inputs)

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
    encoder: Encoder, rows: pd.DataFrame | Frame, *, settings: Settings, seed: int = 0
) -> Mlp:
    """Train the classifier on `rows`; a tenth of the same rows decides when to stop."""
    x, y = encoder.arrays(rows)
    return fit_early(
        encoder.network(seed),
        x,
        y,
        max_epochs=settings.max_epochs,
        batch=settings.batch,
        learning_rate=settings.learning_rate,
        patience=settings.patience,
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
            network = train(encoder, rows, settings=settings or SETTINGS[task.name], seed=seed)
        scores.append(encoder.score(network, task.test))
    return scores


def score(
    task: Task, rows: pd.DataFrame | Frame, *, settings: Settings | None = None, seed: int = 0
) -> float:
    """Train the classifier on `rows` and return its metric on the task's held-out rows."""
    encoder = Encoder(task, rows)
    network = train(encoder, rows, settings=settings or SETTINGS[task.name], seed=seed)
    return encoder.score(network, task.test)


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
    encoder = Encoder(task)
    return encoder.score(train(encoder, pooled, settings=settings, seed=seed), validation)


if __name__ == "__main__":
    main()
