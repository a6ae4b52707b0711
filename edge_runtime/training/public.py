"""Training on rows that are public to the trainer: the pool, or raw rows without privacy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import TrainingError
from edge_runtime.generator.layout import Layout, Weights
from edge_runtime.training.adam import Adam, cosine
from edge_runtime.training.flat import F32, FlatWeights
from edge_runtime.training.step import GradientStep, make_step

__all__ = ["Epoch", "History", "mean_nll", "train"]

I32 = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One pass: `loss` is the weighted mean while training, `validation` afterwards (nats/row)."""

    epoch: int
    steps: int
    loss: float
    validation: float | None


@dataclass(frozen=True, kw_only=True)
class History:
    """What happened: all passes, the one whose weights were kept, and why training ended."""

    epochs: tuple[Epoch, ...]
    best_epoch: int
    ended: str


def mean_nll(
    weights: Weights, codes: I32, layout: Layout, step: GradientStep | None = None
) -> float:
    """Mean negative log-likelihood in nats per row.

    Raises
    ------
    TrainingError
        If there are no rows.
    """
    if codes.shape[0] == 0:
        raise TrainingError("the mean over no rows is undefined")
    used = make_step(layout) if step is None else step
    return float(used.nll(weights, codes).mean(dtype=np.float64))


def train(
    weights: Weights,
    codes: I32,
    *,
    layout: Layout,
    epochs: int | None = None,
    steps: int | None = None,
    batch: int = 512,
    learning_rate: float = 3e-3,
    seed: int = 0,
    weights_of_rows: F32 | None = None,
    validation: I32 | None = None,
    patience: int = 5,
    step: GradientStep | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Weights, History]:
    """Minimise the negative log-likelihood with Adam, shuffled batches and a cosine schedule.

    Parameters
    ----------
    weights : Weights
        Where to start.
    codes : int32 [rows, D]
        At least one row.
    layout : Layout
    epochs, steps : int
        Exactly one of them: passes over the rows, or gradient steps.
    batch : int
        Rows per step.
    learning_rate : float
    seed : int
        Of the shuffling: same seed, same result on the same machine.
    weights_of_rows : float32 [rows], optional
        Nonnegative importance of each row; their scale does not matter.
    validation : int32 [rows, D], optional
        Rows that decide when to stop and which weights are best; without, the last are returned.
    patience : int
        Passes without improvement after which training ends.
    step : GradientStep, optional
        `make_step(layout)` without.
    should_stop : callable, optional
        Asked before every step; the best weights so far are returned.
    on_progress : callable, optional
        Called with (steps done, steps at most).

    Returns
    -------
    Weights, History

    Raises
    ------
    TrainingError
        If an argument is out of range, or training diverged.
    """
    rows = codes.shape[0]
    importance = _importance(weights_of_rows, rows)
    if (epochs is None) == (steps is None):
        raise TrainingError("say how long to train: either epochs or steps")
    size = max(1, min(batch, rows))
    per_epoch = -(-rows // size)
    total = steps if steps is not None else per_epoch * (epochs or 0)
    if total < 1 or batch < 1 or patience < 1:
        raise TrainingError(f"{total} steps, batch {batch}, patience {patience}: 1 is the least")

    used = make_step(layout) if step is None else step
    order = np.random.default_rng(seed)
    flat = FlatWeights(layout, weights)
    gradient = FlatWeights(layout)
    optimiser = Adam(flat.vector.size)
    best, best_nll, best_epoch = flat.vector.copy(), np.inf, 0
    history: list[Epoch] = []
    ended = "steps"
    while optimiser.step < total and ended == "steps":
        loss, mass = 0.0, 0.0
        for picked in np.array_split(order.permutation(rows), per_epoch)[: total - optimiser.step]:
            if should_stop is not None and should_stop():
                ended = "stopped"
                break
            shares = importance[picked]
            _, losses = used.plain(flat.weights, codes[picked], shares, gradient)
            # The mean weight is one, so a light batch moves the weights less.
            gradient.vector *= np.float32(1.0 / len(picked))
            rate = cosine(learning_rate, optimiser.step / total)
            optimiser.update(flat.vector, gradient.vector, rate)
            loss += float(np.dot(losses.astype(np.float64), shares))
            mass += float(shares.sum(dtype=np.float64))
            if on_progress is not None:
                on_progress(optimiser.step, total)
        if not np.isfinite(flat.vector).all() or not np.isfinite(loss):
            raise TrainingError(
                f"training diverged in pass {len(history) + 1}; lower the learning rate "
                f"({learning_rate})"
            )
        score = None
        if validation is not None and validation.shape[0]:
            score = mean_nll(flat.weights, validation, layout, used)
            if score < best_nll:
                best, best_nll, best_epoch = flat.vector.copy(), score, len(history) + 1
        else:
            best, best_epoch = flat.vector.copy(), len(history) + 1
        if mass > 0.0:
            history.append(
                Epoch(
                    epoch=len(history) + 1,
                    steps=optimiser.step,
                    loss=loss / mass,
                    validation=score,
                )
            )
        if score is not None and len(history) - best_epoch >= patience and ended == "steps":
            ended = "no improvement"
    flat.vector[:] = best
    return flat.copy(), History(epochs=tuple(history), best_epoch=best_epoch, ended=ended)


def _importance(weights_of_rows: F32 | None, rows: int) -> F32:
    if rows == 0:
        raise TrainingError("there are no rows to train on")
    if weights_of_rows is None:
        return np.ones(rows, dtype=np.float32)
    given = np.asarray(weights_of_rows, dtype=np.float64)
    if given.shape != (rows,) or not np.isfinite(given).all() or bool((given < 0.0).any()):
        raise TrainingError(f"row weights must be {rows} finite numbers, 0 or more")
    mean = given.mean()
    if mean <= 0.0:
        raise TrainingError("all row weights are zero")
    scaled: F32 = (given / mean).astype(np.float32)
    return scaled
