"""What a peer's device does in a round: some steps on its own rows, with or without privacy.

Under privacy a step is that of DP-SGD (Abadi et al. 2016): a Poisson sample, every example's
gradient clipped in L2 over all weights together, Gaussian noise on the sum. All steps of all
rounds are composed with the project's own accountant. A proximal term or a control variate is made
of weights that are already released, so adding it costs no privacy.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from edge_runtime.evaluation.network import Mlp, Moments
from edge_runtime.privacy import calibrate_noise
from tools.bench.federation.records import DELTA

__all__ = ["Choice", "Client", "Devices", "OneByOne", "flatten", "noise_multiplier", "unflatten"]

F32 = npt.NDArray[np.float32]
Shapes = list[tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Settings of one run of a peer.

    Parameters
    ----------
    rounds : int
    learning_rate : float
        Of the local steps.
    optimiser : {"sgd", "adam"}
        Local; its state is fresh in each round.
    epochs, batch : int
        Local passes and rows a step, without privacy.
    final_rate : float
        Share of `learning_rate` left in the last round; it falls along a cosine.
    mu : float
        FedProx: weight of the proximal term.
    server_rate : float
        FedAdam: the server's learning rate.
    sampling : float
        With privacy: probability that a row takes part in a step.
    steps : int
        With privacy: local steps a round.
    clip : float
        With privacy: L2 bound of one example's gradient.
    """

    rounds: int = 50
    learning_rate: float
    optimiser: Literal["sgd", "adam"] = "sgd"
    epochs: int = 1
    batch: int = 32
    final_rate: float = 1.0
    mu: float = 0.0
    server_rate: float = 1.0
    sampling: float = 0.0
    steps: int = 0
    clip: float = 0.0

    def rate(self, number: int) -> float:
        """Return the local learning rate of round `number`, counted from 1."""
        turn = (number - 1) / max(1, self.rounds - 1)
        fall = 0.5 * (1.0 + np.cos(np.pi * turn))
        return float(self.learning_rate * (self.final_rate + (1.0 - self.final_rate) * fall))


def flatten(layers: list[F32]) -> F32:
    """Return all layers in one vector."""
    return np.concatenate([layer.ravel() for layer in layers])


def unflatten(vector: F32, shapes: Shapes) -> list[F32]:
    """Return the layers as views of the vector."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    parts = np.split(vector, ends[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


@functools.cache
def noise_multiplier(epsilon: float, sampling: float, steps: int) -> float:
    """Return the noise multiplier with which `steps` steps together cost `epsilon`."""
    return calibrate_noise(spent=None, epsilon=epsilon, delta=DELTA, q=sampling, steps=steps)


class Client:
    """One device of a peer.

    Parameters
    ----------
    x : float32 [n, d]
    y : float32 [n]
        Class numbers or 0/1.
    kind : {"binary", "classes"}
    shapes : list of tuple of int
        Of the network's layers.
    choice : Choice
    epsilon : float or None
        For the whole run. The number of rows is taken as public, which favours the peer.
    seed : int
    """

    def __init__(
        self,
        x: F32,
        y: F32,
        *,
        kind: Literal["binary", "classes"],
        shapes: Shapes,
        choice: Choice,
        epsilon: float | None,
        seed: int,
    ) -> None:
        self.x = x
        self.y = y.astype(np.int64) if kind == "classes" else y
        self.kind = kind
        self.choice = choice
        self.noise = (
            None
            if epsilon is None
            else noise_multiplier(epsilon, choice.sampling, choice.rounds * choice.steps)
        )
        #: layer shapes of the network that the weights belong to
        self.shapes = shapes
        self._squared = np.square(x).sum(axis=1)
        self.seed = seed
        self._rng = np.random.default_rng(seed)

    @property
    def rows(self) -> int:
        """Rows this device has."""
        return len(self.x)

    def train(
        self, start: F32, *, rate: float, mu: float = 0.0, correction: F32 | None = None
    ) -> tuple[F32, int]:
        """Train from the global weights.

        Parameters
        ----------
        start : float32 [parameters]
            All weights in one vector (`flatten`); left as they are.
        rate : float
            Learning rate of this round.
        mu : float
            Adds ``mu * (weights - start)`` to every gradient (Li et al. 2020, FedProx).
        correction : float32 [parameters], optional
            Added to every gradient (SCAFFOLD's ``c - c_i``).

        Returns
        -------
        weights : float32 [parameters]
        steps : int
            Steps taken.
        """
        weights = start.copy()
        # views of the vector, so that a step on it is a step of the network
        network = Mlp(self.kind, unflatten(weights, self.shapes))
        adam = Moments.zeros([weights]) if self.choice.optimiser == "adam" else None
        steps = 0
        for rows in self._batches():
            if self.noise is None:
                gradient = flatten(network.gradient(self.x[rows], self.y[rows]))
            else:
                gradient = self._private_gradient(network, rows)
            if mu:
                gradient += np.float32(mu) * (weights - start)
            if correction is not None:
                gradient += correction
            if adam is not None:
                adam.step([weights], [gradient], rate)
            else:
                weights -= np.float32(rate) * gradient
            steps += 1
        return weights, steps

    def _batches(self) -> list[npt.NDArray[np.int64]]:
        if self.noise is not None:
            draws = self._rng.random((self.choice.steps, self.rows)) < self.choice.sampling
            return [np.flatnonzero(draw) for draw in draws]
        batches = []
        for _ in range(self.choice.epochs):
            order = self._rng.permutation(self.rows)
            batches += [
                order[i : i + self.choice.batch] for i in range(0, self.rows, self.choice.batch)
            ]
        return batches

    def _private_gradient(self, network: Mlp, rows: npt.NDArray[np.int64]) -> F32:
        """Return the noisy mean of clipped gradients; an empty sample gives noise alone."""
        assert self.noise is not None
        x = self.x[rows]
        hidden, delta = network.row_errors(x, self.y[rows])
        # One example's gradient is an outer product per layer, so its exact norm follows from the
        # layers' inputs and errors (Goodfellow 2015, arXiv 1510.01799); the ones stand for biases.
        back = (delta @ network.weights[2].T) * (hidden > 0)
        squared = (self._squared[rows] + 1) * np.square(back).sum(axis=1)
        squared += (np.square(hidden).sum(axis=1) + 1) * np.square(delta).sum(axis=1)
        clip = np.float32(self.choice.clip)
        factor = np.minimum(1, clip / np.sqrt(np.maximum(squared, np.float32(1e-20))))
        total = flatten(network.chain(x, hidden, delta * factor[:, None]))
        total += np.float32(self.noise) * clip * self._rng.standard_normal(total.size, np.float32)
        total *= np.float32(1.0 / (self.choice.sampling * self.rows))
        return total


class Devices(Protocol):
    """All devices of one run."""

    #: rows of each device
    rows: npt.NDArray[np.int64]

    def train(
        self, start: F32, *, rate: float, mu: float = 0.0, corrections: F32 | None = None
    ) -> tuple[F32, npt.NDArray[np.int64]]:
        """Return every device's weights float32 ``[devices, parameters]``, and its steps."""
        ...


class OneByOne:
    """Devices that train one after the other, as each would on its own machine.

    Parameters
    ----------
    clients : sequence of Client
    """

    def __init__(self, clients: Sequence[Client]) -> None:
        self.clients = clients
        self.rows = np.array([client.rows for client in clients])
        #: CPU seconds of all devices together, so far
        self.cpu_s = 0.0

    def train(
        self, start: F32, *, rate: float, mu: float = 0.0, corrections: F32 | None = None
    ) -> tuple[F32, npt.NDArray[np.int64]]:
        """Train every device from the global weights; see `Client.train`."""
        weights = np.empty((len(self.clients), start.size), np.float32)
        steps = np.zeros(len(self.clients), np.int64)
        begin = time.process_time()
        for at, client in enumerate(self.clients):
            correction = None if corrections is None else corrections[at]
            weights[at], steps[at] = client.train(start, rate=rate, mu=mu, correction=correction)
        self.cpu_s += time.process_time() - begin
        return weights, steps
