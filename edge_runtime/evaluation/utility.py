"""What the rows are good for: train on them, test on real rows that nobody trained on.

One network shape scores every candidate (all real rows, one device's, a federated model, the
synthetic release), so that differences come from the rows. Higher is better in every metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import EvaluationError, MissingExtraError
from edge_runtime.evaluation.features import Features
from edge_runtime.evaluation.frames import Frame
from edge_runtime.evaluation.network import Mlp, Task, fit_early
from edge_runtime.schema import Schema

__all__ = ["Score", "TargetTask", "TrainingChoice", "score_network", "train_and_score"]

Metric = Literal["auc", "accuracy", "r2"]


@dataclass(frozen=True, kw_only=True)
class TrainingChoice:
    """How a scoring network is trained; early stopping looks at its own rows only.

    The defaults were chosen on validation rows of the flights table (docs/baselines.md).
    """

    hidden: int = 64
    learning_rate: float = 0.01
    batch: int = 1024
    max_epochs: int = 30
    patience: int = 3


@dataclass(frozen=True, kw_only=True)
class TargetTask:
    """What is predicted from what.

    Parameters
    ----------
    target : str
        A boolean column (AUC), a category (accuracy) or a number (R2).
    inputs : tuple of str
    task : {"binary", "classes", "regression"}
    outputs : int
    metric : {"auc", "accuracy", "r2"}
    """

    target: str
    inputs: tuple[str, ...]
    task: Task
    outputs: int
    metric: Metric

    @classmethod
    def of(cls, schema: Schema, target: str, inputs: Sequence[str] | None = None) -> TargetTask:
        """Read the task off the target's kind; all other columns are inputs when none are named.

        Raises
        ------
        EvaluationError
            The target is not a column, or is among its own inputs.
        """
        kinds = {column.name: column for column in schema.columns}
        if target not in kinds:
            raise EvaluationError(
                f"target {target!r} is not a column of schema {schema.name!r}: {', '.join(kinds)}"
            )
        chosen = tuple(inputs) if inputs else tuple(n for n in kinds if n != target)
        if target in chosen:
            raise EvaluationError(f"target {target!r} is among its own inputs")
        column = kinds[target]
        if column.kind == "boolean":
            return cls(target=target, inputs=chosen, task="binary", outputs=1, metric="auc")
        if column.kind == "category":
            outputs = len(column.values) + int(column.other)
            if outputs == 2:
                return cls(target=target, inputs=chosen, task="binary", outputs=1, metric="auc")
            return cls(
                target=target, inputs=chosen, task="classes", outputs=outputs, metric="accuracy"
            )
        return cls(target=target, inputs=chosen, task="regression", outputs=1, metric="r2")

    def values(self, frame: Frame) -> npt.NDArray[np.float64]:
        """Return the target, float64 ``[rows]``: class numbers or values, NaN where missing."""
        if self.target in frame.numbers:
            return frame.numbers[self.target]
        codes = frame.codes[self.target].astype(np.float64)
        codes[codes < 0] = np.nan
        return codes

    def labelled(self, frame: Frame) -> tuple[Frame, npt.NDArray[np.float64]]:
        """Return the rows whose target is known, and the target."""
        values = self.values(frame)
        known = ~np.isnan(values)
        return frame.take(known), values[known]


@dataclass(frozen=True, kw_only=True)
class Score:
    """One candidate's result on the held-out real rows.

    Parameters
    ----------
    value : float
        The metric; NaN when the candidate's rows cannot train a model at all.
    rows : int
        Labelled rows that were trained on.
    epochs : int
        Passes that early stopping kept.
    reason : str
        Why the value is NaN, otherwise empty.
    """

    value: float
    rows: int
    epochs: int
    reason: str = ""


def train_and_score(
    train: Frame,
    test: Frame,
    task: TargetTask,
    *,
    features: Features | None = None,
    choice: TrainingChoice | None = None,
    seed: int = 0,
) -> Score:
    """Train the scoring network on `train` and test it on `test`.

    Parameters
    ----------
    train, test : Frame
        Rows with an unknown target are left out of both.
    task : TargetTask
    features : Features, optional
        Fitted on `train` when None, which is all that a user of those rows has.
    choice : TrainingChoice, optional
    seed : int

    Returns
    -------
    Score
    """
    chosen = choice or TrainingChoice()
    rows, target = task.labelled(train)
    too_few = _unusable(task, target)
    if too_few:
        return Score(value=float("nan"), rows=len(target), epochs=0, reason=too_few)
    encoder = features or Features.fit(rows, task.inputs)
    centre, scale = 0.0, 1.0
    if task.task == "regression":
        centre, scale = float(target.mean()), float(target.std()) or 1.0
    x = encoder.transform(rows)
    network = Mlp.create(
        inputs=x.shape[1], outputs=task.outputs, hidden=chosen.hidden, task=task.task, seed=seed
    )
    fit = fit_early(
        network,
        x,
        ((target - centre) / scale).astype(np.float32),
        max_epochs=chosen.max_epochs,
        # A small table needs small batches, or an epoch is a handful of steps.
        batch=min(chosen.batch, max(32, len(x) // 50)),
        learning_rate=chosen.learning_rate,
        seed=seed,
        patience=chosen.patience,
    )
    value = score_network(fit.network, test, task, encoder, centre=centre, scale=scale)
    return Score(value=value, rows=len(x), epochs=fit.epochs)


def score_network(
    network: Mlp,
    test: Frame,
    task: TargetTask,
    features: Features,
    *,
    centre: float = 0.0,
    scale: float = 1.0,
) -> float:
    """Return the metric of a trained network on the rows of `test` whose target is known.

    Raises
    ------
    EvaluationError
        The test rows cannot tell good from bad: none, or one class only.
    """
    rows, target = task.labelled(test)
    if not len(target):
        raise EvaluationError(f"no test row has a known {task.target!r}")
    out = network.outputs(features.transform(rows))
    if task.metric == "auc":
        if len(np.unique(target)) < 2:
            raise EvaluationError(f"all test rows have the same {task.target!r}; AUC needs both")
        try:
            from sklearn.metrics import roc_auc_score  # noqa: PLC0415 - aggregator extra
        except ImportError as error:
            raise MissingExtraError("scikit-learn", "aggregator") from error
        return float(roc_auc_score(target, out[:, 0]))
    if task.metric == "accuracy":
        return float(np.mean(out.argmax(axis=1) == target))
    predicted = out[:, 0].astype(np.float64) * scale + centre
    spread = float(np.sum((target - target.mean()) ** 2))
    if spread == 0:
        raise EvaluationError(f"all test rows have the same {task.target!r}; R2 is undefined")
    return 1.0 - float(np.sum((target - predicted) ** 2)) / spread


def _unusable(task: TargetTask, target: npt.NDArray[np.float64]) -> str:
    if len(target) < 10:
        return f"only {len(target)} rows with a known {task.target}"
    if task.task != "regression" and len(np.unique(target)) < 2:
        return f"all rows have the same {task.target}"
    return ""
