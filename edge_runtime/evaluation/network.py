"""The small network that every utility figure is measured with: one hidden layer.

It is written out in numpy so that the same code serves three uses: trained on one table (real or
synthetic), trained on one device's rows, and averaged over devices (FedAvg), where the weights
must be readable and settable between rounds. tests/evaluation holds it against scikit-learn's
network of the same shape. Inputs and weights are float32; training is deterministic for a seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import EvaluationError

__all__ = ["Fit", "Mlp", "Task", "fit_early"]

F32 = npt.NDArray[np.float32]
Task = Literal["binary", "classes", "regression"]

#: first and second moment decay of Adam (Kingma and Ba 2015, algorithm 1)
_BETA1, _BETA2 = 0.9, 0.999
_TINY = 1e-8


@dataclass
class Mlp:
    """One hidden layer of rectified units; weights are plain arrays.

    Parameters
    ----------
    task : {"binary", "classes", "regression"}
        What the outputs mean: one logit, one logit per class, or one value.
    weights : list of float32 arrays
        ``[w1 (d, hidden), b1 (hidden,), w2 (hidden, outputs), b2 (outputs,)]``.
    """

    task: Task
    weights: list[F32]

    @classmethod
    def create(
        cls, *, inputs: int, outputs: int = 1, hidden: int = 64, task: Task, seed: int
    ) -> Mlp:
        """Return a network with He-normal hidden weights (He et al. 2015) and zero biases."""
        if task != "classes" and outputs != 1:
            raise EvaluationError(f"a {task} network has one output, not {outputs}")
        rng = np.random.default_rng(seed)
        # Most inputs are one-hot, so few are non-zero at a time: scaled by their number, the
        # first layer would start far too small to learn quickly.
        scale1 = float(np.sqrt(2.0 / min(inputs, 16)))
        w1 = rng.standard_normal((inputs, hidden)).astype(np.float32) * np.float32(0.5 * scale1)
        w2 = rng.standard_normal((hidden, outputs)).astype(np.float32)
        w2 *= np.float32(np.sqrt(1.0 / hidden))
        return cls(task, [w1, np.zeros(hidden, np.float32), w2, np.zeros(outputs, np.float32)])

    @property
    def parameters(self) -> int:
        """Number of trained values."""
        return sum(w.size for w in self.weights)

    def copy(self) -> Mlp:
        """Return a network with its own copy of the weights."""
        return Mlp(self.task, [w.copy() for w in self.weights])

    def outputs(self, x: F32, *, block: int = 8192) -> F32:
        """Return the raw outputs, float32 ``[n, outputs]``, computed block by block."""
        w1, b1, w2, b2 = self.weights
        out = np.empty((len(x), w2.shape[1]), np.float32)
        for start in range(0, len(x), block):
            part = x[start : start + block]
            out[start : start + block] = np.maximum(part @ w1 + b1, 0) @ w2 + b2
        return out

    def loss(self, x: F32, y: npt.NDArray[np.generic]) -> float:
        """Return the mean loss: cross-entropy in nats, or half the squared error."""
        out = self.outputs(x).astype(np.float64)
        if self.task == "binary":
            z = out[:, 0]
            return float(np.mean(np.logaddexp(0.0, z) - z * y.astype(np.float64)))
        if self.task == "classes":
            top = out.max(axis=1, keepdims=True)
            log_sum = top[:, 0] + np.log(np.exp(out - top).sum(axis=1))
            return float(np.mean(log_sum - out[np.arange(len(out)), y.astype(np.int64)]))
        return float(0.5 * np.mean((out[:, 0] - y.astype(np.float64)) ** 2))

    def train(
        self,
        x: F32,
        y: npt.NDArray[np.generic],
        *,
        epochs: int,
        batch: int,
        learning_rate: float,
        seed: int,
        moments: Moments | None = None,
    ) -> None:
        """Run Adam over shuffled minibatches, in place.

        Parameters
        ----------
        x : float32 [n, d]
        y : [n]
            0/1 for a binary task, class numbers, or the standardised target.
        epochs, batch : int
            Passes over the rows, and rows a step; the last batch of a pass may be smaller.
        learning_rate : float
        seed : int
            Of the shuffles.
        moments : Moments, optional
            Carried over from an earlier call; fresh ones are used when None.
        """
        state = moments if moments is not None else Moments.zeros(self.weights)
        rng = np.random.default_rng(seed)
        target = y.astype(np.int64) if self.task == "classes" else y.astype(np.float32)
        for _ in range(epochs):
            order = rng.permutation(len(x))
            for start in range(0, len(x), batch):
                rows = order[start : start + batch]
                gradient = self.gradient(x[rows], target[rows])
                state.step(self.weights, gradient, learning_rate)

    def gradient(self, x: F32, y: npt.NDArray[np.generic]) -> list[F32]:
        """Return the mean gradient of the loss, one array per entry of `weights`."""
        hidden, delta = self.row_errors(x, y)
        return self.chain(x, hidden, (delta / np.float32(len(y))).astype(np.float32))

    def row_errors(self, x: F32, y: npt.NDArray[np.generic]) -> tuple[F32, F32]:
        """Return every row's hidden units and the gradient of its loss in its raw outputs.

        Parameters
        ----------
        x : float32 [n, d]
        y : [n]
            Class numbers (integers), 0/1, or the standardised target.

        Returns
        -------
        hidden : float32 [n, hidden]
        delta : float32 [n, outputs]
        """
        w1, b1, w2, b2 = self.weights
        hidden: F32 = np.maximum(x @ w1 + b1, 0)
        out: F32 = hidden @ w2 + b2
        delta: F32
        if self.task == "binary":
            # the logistic function without overflow for large negative logits
            delta = 0.5 * (1.0 + np.tanh(0.5 * out)) - y[:, None].astype(np.float32)
        elif self.task == "classes":
            delta = np.exp(out - out.max(axis=1, keepdims=True))
            delta /= delta.sum(axis=1, keepdims=True)
            delta[np.arange(len(y)), y] -= 1
        else:
            delta = out - y[:, None].astype(np.float32)
        return hidden, delta

    def chain(self, x: F32, hidden: F32, delta: F32) -> list[F32]:
        """Return what these output errors sum to, one array per entry of `weights`."""
        back = (delta @ self.weights[2].T) * (hidden > 0)
        return [x.T @ back, back.sum(axis=0), hidden.T @ delta, delta.sum(axis=0)]


@dataclass
class Moments:
    """Adam's running moments for one list of weights."""

    first: list[F32]
    second: list[F32]
    steps: int = 0

    @classmethod
    def zeros(cls, weights: list[F32]) -> Moments:
        """Return moments of zero for these weights."""
        return cls([np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights])

    def step(self, weights: list[F32], gradient: list[F32], learning_rate: float) -> None:
        """Apply one Adam step to `weights`, in place."""
        self.steps += 1
        correct1 = 1.0 - _BETA1**self.steps
        correct2 = np.float32(np.sqrt(1.0 - _BETA2**self.steps))
        rate = np.float32(learning_rate / correct1)
        for w, g, m, v in zip(weights, gradient, self.first, self.second, strict=True):
            np.add(m * np.float32(_BETA1), np.float32(1 - _BETA1) * g, out=m)
            np.add(v * np.float32(_BETA2), np.float32(1 - _BETA2) * g * g, out=v)
            np.subtract(w, rate * m / (np.sqrt(v) / correct2 + np.float32(_TINY)), out=w)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A trained network and how it got there."""

    network: Mlp
    epochs: int
    validation_loss: float


def fit_early(
    network: Mlp,
    x: F32,
    y: npt.NDArray[np.generic],
    *,
    max_epochs: int,
    batch: int,
    learning_rate: float,
    seed: int,
    patience: int = 2,
    validation_share: float = 0.1,
) -> Fit:
    """Train with early stopping on a share of the given rows, and return the best network.

    Nothing but `x` and `y` is looked at: a network trained on synthetic rows stops by synthetic
    rows, as its user, who has no real ones, would have to.
    """
    if len(x) < 10:
        raise EvaluationError(f"{len(x)} rows are too few to train a network; at least 10")
    order = np.random.default_rng(seed).permutation(len(x))
    held = max(1, int(len(x) * validation_share))
    check, learn = order[:held], order[held:]
    x_check, y_check = x[check], y[check]
    x_learn, y_learn = x[learn], y[learn]
    moments = Moments.zeros(network.weights)
    best, best_loss, best_epoch = network.copy(), network.loss(x_check, y_check), 0
    for epoch in range(1, max_epochs + 1):
        network.train(
            x_learn,
            y_learn,
            epochs=1,
            batch=batch,
            learning_rate=learning_rate,
            seed=seed * 1000 + epoch,
            moments=moments,
        )
        loss = network.loss(x_check, y_check)
        if loss < best_loss:
            best, best_loss, best_epoch = network.copy(), loss, epoch
        elif epoch - best_epoch >= patience:
            break
    return Fit(network=best, epochs=best_epoch, validation_loss=best_loss)
