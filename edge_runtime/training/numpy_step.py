"""The step in plain numpy: the reference of the graphs, and the fallback without onnxruntime.

Shapes: X [B, V] one-hot rows, h1 and h2 [B, H], logits [B, V]. Only the gradients with respect to
the layers' outputs (g1, g2, g3) are formed per row. The squared norm of one row's gradient follows
from them exactly: for a masked layer it is sum_k g_k^2 ((a^2 M)_k + 1), where a is the layer's
input, M its mask and the one stands for the bias (Goodfellow 2015, arXiv 1510.01799, extended to
masks: the usual |a|^2 |g|^2 counts entries that do not exist).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from edge_runtime.generator.layout import Layout, Weights
from edge_runtime.training.flat import F32, FlatWeights
from edge_runtime.training.step import I32, ChunkedStep

__all__ = ["NumpyStep"]


class _Pass(NamedTuple):
    x: F32
    h1: F32
    r2: F32
    h2: F32
    shifted: F32
    exps: F32
    sums: F32


#: a matrix product of rows float32 [rows, n] with a matrix
_Product = Callable[[F32, F32], F32]


def _each_row(rows: F32, matrix: F32) -> F32:
    """Multiply rows with a matrix, one by one.

    A product of many rows may round a row by where it stands among them (OpenBLAS under AVX2
    does). One row more in a sample would then change what all others add, which the sensitivity
    does not allow for.
    """
    product: F32 = np.matmul(rows[:, None, :], matrix)[:, 0, :]
    return product


class NumpyStep(ChunkedStep):
    """Forward, backward and clipping with numpy.

    Parameters
    ----------
    layout : Layout
    """

    name = "numpy"

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        self._starts = np.array(layout.offsets[:-1])
        self._sizes = np.array(layout.cardinalities)
        #: columns seen by each unit of the first layer, and its bias: X is one-hot
        self._seen = (layout.degrees + 2).astype(np.float32)
        columns = np.arange(layout.columns)
        #: units of the second layer seen by each column, [H, D]
        self._visible = (layout.degrees[:, None] < columns[None, :]).astype(np.float32)

    def _clipped(
        self, weights: Weights, codes: I32, factors: F32, bound: float, out: FlatWeights
    ) -> F32:
        # Overflow makes a row's norm infinite, which the caller looks for.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            state = self._forward(weights, codes, _each_row)
            g1, g2, g3 = self._backward(weights, state, _each_row)
            inner = _each_row(state.h1 * state.h1, self.layout.masks[1]) + np.float32(1)
            inner *= g2 * g2
            blocks = np.add.reduceat(g3 * g3, self._starts, axis=1)
            outer = (_each_row(state.h2 * state.h2, self._visible) + np.float32(1)) * blocks
            norms: F32 = np.sqrt((g1 * g1) @ self._seen + inner.sum(axis=1) + outer.sum(axis=1))
            scale = np.minimum(np.float32(bound) / norms, np.float32(1)) * factors
            self._sum(state, (g1, g2, g3), scale, out)
        return norms

    def _plain(self, weights: Weights, codes: I32, factors: F32, out: FlatWeights) -> F32:
        state = self._forward(weights, codes)
        self._sum(state, self._backward(weights, state), factors, out)
        return self._losses(state)

    def _nll(self, weights: Weights, codes: I32) -> F32:
        return self._losses(self._forward(weights, codes))

    def _forward(self, weights: Weights, codes: I32, product: _Product = np.matmul) -> _Pass:
        x = np.zeros((codes.shape[0], self.layout.width), dtype=np.float32)
        np.put_along_axis(x, codes + self._starts, np.float32(1), axis=1)
        h1 = np.maximum(product(x, weights.w1) + weights.b1, 0)
        r2 = np.maximum(product(h1, weights.w2) + weights.b2, 0)
        h2 = r2 + h1
        logits = product(h2, weights.w3) + weights.b3
        # The maximum of each column's block: a row's maximum would underflow whole columns.
        tops = np.maximum.reduceat(logits, self._starts, axis=1)
        shifted = logits - np.repeat(tops, self._sizes, axis=1)
        exps = np.exp(shifted)
        return _Pass(x, h1, r2, h2, shifted, exps, np.add.reduceat(exps, self._starts, axis=1))

    def _backward(
        self, weights: Weights, state: _Pass, product: _Product = np.matmul
    ) -> tuple[F32, F32, F32]:
        sums: F32 = np.repeat(state.sums, self._sizes, axis=1)
        g3: F32 = state.exps / sums - state.x
        skip: F32 = product(g3, weights.w3.T)
        g2: F32 = skip * (state.r2 > 0)
        g1: F32 = (product(g2, weights.w2.T) + skip) * (state.h1 > 0)
        return g1, g2, g3

    def _sum(
        self, state: _Pass, gradients: tuple[F32, F32, F32], scale: F32, out: FlatWeights
    ) -> None:
        g1, g2, g3 = (g * scale[:, None] for g in gradients)
        m1, m2, m3 = self.layout.masks
        w = out.weights
        for source, g, mask, weight, bias in (
            (state.x, g1, m1, w.w1, w.b1),
            (state.h1, g2, m2, w.w2, w.b2),
            (state.h2, g3, m3, w.w3, w.b3),
        ):
            np.matmul(source.T, g, out=weight)
            np.multiply(weight, mask, out=weight)
            np.sum(g, axis=0, out=bias)

    def _losses(self, state: _Pass) -> F32:
        losses: F32 = np.log(state.sums).sum(axis=1) - (state.x * state.shifted).sum(axis=1)
        return losses
