"""All devices of a peer at once: the same steps as `Client`, as one batched computation.

Searching settings takes hundreds of runs; this makes them several times cheaper when devices have
about as many rows each. The reported runs use one `Client` after the other, whose CPU time is a
device's. tests/bench holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from tools.bench.federation.client import Client, unflatten

__all__ = ["Lockstep"]

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


class Lockstep:
    """Devices that train together; rows are padded to the longest device.

    Parameters
    ----------
    clients : sequence of Client
        Of one run: the same choice and privacy.
    """

    def __init__(self, clients: Sequence[Client]) -> None:
        self.clients = clients
        self.choice, self.noise = clients[0].choice, clients[0].noise
        self.rows = np.array([client.rows for client in clients])
        self._offsets = (np.cumsum(self.rows) - self.rows)[:, None]
        self._x = np.concatenate([client.x for client in clients])
        self._y = np.concatenate([client.y for client in clients])
        self._squared = np.square(self._x).sum(axis=1)
        self._rng = np.random.default_rng([clients[0].seed, len(clients)])

    def train(
        self, start: F32, *, rate: float, mu: float = 0.0, corrections: F32 | None = None
    ) -> tuple[F32, I64]:
        """Train every device from the global weights; see `Client.train`.

        Parameters
        ----------
        start : float32 [parameters]
        rate, mu : float
        corrections : float32 [devices, parameters], optional

        Returns
        -------
        weights : float32 [devices, parameters]
        steps : int64 [devices]
        """
        weights = np.repeat(start[None], len(self.clients), axis=0)
        layers = [_layer(weights, part, shape) for part, shape in self._parts(start)]
        gradient = np.empty_like(weights)
        into = [_layer(gradient, part, shape) for part, shape in self._parts(start)]
        adam = _Adam(weights) if self.choice.optimiser == "adam" else None
        steps = np.zeros(len(self.clients), np.int64)
        for rows, taken in self._batches():
            self._gradient(layers, rows, taken, into, gradient)
            active = np.ones(len(steps), np.bool_) if self.noise is not None else taken.any(axis=1)
            if mu:
                gradient += np.float32(mu) * (weights - start)
            if corrections is not None:
                gradient += corrections
            if adam is not None:
                adam.step(weights, gradient, rate, active[:, None].astype(np.float32))
            else:
                weights -= np.float32(rate) * active[:, None].astype(np.float32) * gradient
            steps += active
        return weights, steps

    def _parts(self, start: F32) -> list[tuple[slice, tuple[int, ...]]]:
        shapes = self.clients[0].shapes
        ends = np.cumsum([part.size for part in unflatten(start, shapes)]).tolist()
        begins = [0, *ends[:-1]]
        return [(slice(a, b), s) for a, b, s in zip(begins, ends, shapes, strict=True)]

    def _batches(self) -> Iterator[tuple[I64, npt.NDArray[np.bool_]]]:
        """Yield row numbers [devices, width] and which of them are not padding."""
        longest = int(self.rows.max())
        exists = np.arange(longest) < self.rows[:, None]
        if self.noise is not None:
            for _ in range(self.choice.steps):
                drawn = exists & (self._rng.random(exists.shape) < self.choice.sampling)
                width = max(1, int(drawn.sum(axis=1).max()))
                order = np.argsort(~drawn, axis=1, kind="stable")[:, :width]
                yield self._known(order), np.take_along_axis(drawn, order, axis=1)
            return
        batch = self.choice.batch
        for _ in range(self.choice.epochs):
            keys = np.where(exists, self._rng.random(exists.shape), 2.0)
            order = np.argsort(keys, axis=1)
            for begin in range(0, longest, batch):
                part = order[:, begin : begin + batch]
                yield self._known(part), np.take_along_axis(exists, part, axis=1)

    def _known(self, order: I64) -> I64:
        """Return places in the joined rows; padding points at a row that exists."""
        return np.minimum(order, self.rows[:, None] - 1) + self._offsets

    def _gradient(
        self,
        layers: list[F32],
        rows: I64,
        taken: npt.NDArray[np.bool_],
        into: list[F32],
        gradient: F32,
    ) -> None:
        w1, b1, w2, b2 = layers
        x, y = self._x[rows], self._y[rows]
        hidden = np.maximum(x @ w1 + b1[:, None, :], 0)
        out = hidden @ w2 + b2[:, None, :]
        if self.clients[0].kind == "binary":
            delta = 0.5 * (1.0 + np.tanh(0.5 * out)) - y[:, :, None]
        else:
            delta = np.exp(out - out.max(axis=2, keepdims=True))
            delta /= delta.sum(axis=2, keepdims=True)
            delta -= y[:, :, None] == np.arange(out.shape[2])
        back = (delta @ w2.transpose(0, 2, 1)) * (hidden > 0)
        if self.noise is None:
            factor = taken / np.maximum(1, taken.sum(axis=1, keepdims=True))
        else:
            squared = (self._squared[rows] + 1) * np.square(back).sum(axis=2)
            squared += (np.square(hidden).sum(axis=2) + 1) * np.square(delta).sum(axis=2)
            norms = np.sqrt(np.maximum(squared, np.float32(1e-20)))
            factor = taken * np.minimum(1, np.float32(self.choice.clip) / norms)
        delta *= factor.astype(np.float32)[:, :, None]
        back *= factor.astype(np.float32)[:, :, None]
        into[0][...] = x.transpose(0, 2, 1) @ back
        into[1][...] = back.sum(axis=1)
        into[2][...] = hidden.transpose(0, 2, 1) @ delta
        into[3][...] = delta.sum(axis=1)
        if self.noise is not None:
            scale = np.float32(self.noise * self.choice.clip)
            gradient += scale * self._rng.standard_normal(gradient.shape, np.float32)
            gradient /= (self.choice.sampling * self.rows[:, None]).astype(np.float32)


class _Adam:
    """Adam's moments of all devices (as `edge_runtime.evaluation.network.Moments`)."""

    def __init__(self, weights: F32) -> None:
        self.first, self.second = np.zeros_like(weights), np.zeros_like(weights)
        self.steps = np.zeros((len(weights), 1), np.float32)

    def step(self, weights: F32, gradient: F32, rate: float, active: F32) -> None:
        """Move the devices that are active (1, else 0; float32 [devices, 1])."""
        self.steps += active
        self.first += active * np.float32(0.1) * (gradient - self.first)
        self.second += active * np.float32(0.001) * (np.square(gradient) - self.second)
        taken = np.maximum(1, self.steps)
        part = active * np.float32(rate) / (1 - np.float32(0.9) ** taken)
        root = np.sqrt(self.second / (1 - np.float32(0.999) ** taken))
        weights -= part * self.first / (root + np.float32(1e-8))


def _layer(stacked: F32, part: slice, shape: tuple[int, ...]) -> F32:
    """Return one layer of all devices, as a view."""
    layer = stacked[:, part].reshape(len(stacked), *shape)
    assert np.shares_memory(layer, stacked)
    return layer
