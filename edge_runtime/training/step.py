"""One gradient step over a batch: what every implementation of it shares.

A step turns weights and rows into sums of gradients. Two implementations agree: `NumpyStep`, the
reference that runs everywhere, and `OnnxStep`, the packaged graphs under onnxruntime.

Rows go through in chunks of one fixed size. That keeps the memory small, bounds the rounding of
the float32 sums, and makes the arithmetic of one row independent of how many
other rows were sampled: a matrix product of another size may take another path.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import EngineError, MissingExtraError, TrainingError
from edge_runtime.generator.layout import Layout, Weights
from edge_runtime.training.flat import F32, FlatWeights

__all__ = [
    "CLIPPED_CHUNK",
    "I32",
    "PLAIN_CHUNK",
    "ChunkedStep",
    "Clipped",
    "GradientStep",
    "clip_margin",
    "make_step",
]

I32 = NDArray[np.int32]

#: Rows per chunk. Small for clipped sums, since their rounding is charged as sensitivity; larger
#: for plain sums, whose matrices still fit a core's second-level cache.
CLIPPED_CHUNK = 64
PLAIN_CHUNK = 256

#: Unit roundoff of float32.
_ROUNDOFF = 2.0**-24


class Clipped(NamedTuple):
    """What `GradientStep.__call__` returns.

    Attributes
    ----------
    gradient : Weights
        Sum over the rows of their gradients, each clipped.
    norms : float32 [rows]
        PRIVATE: the rows' gradient norms before clipping; not finite where a row was left out.
    """

    gradient: Weights
    norms: F32


class GradientStep(Protocol):
    """An implementation of the step for one layout."""

    name: str
    layout: Layout

    def __call__(
        self, weights: Weights, codes: I32, clip_norm: float, out: FlatWeights | None = None
    ) -> Clipped:
        """Sum of the rows' gradients of the negative log-likelihood, each clipped to `clip_norm`.

        Parameters
        ----------
        weights : Weights
            Pre-masked.
        codes : int32 [rows, D]
            0 rows are allowed.
        clip_norm : float
        out : FlatWeights, optional
            Overwritten with the sum; its views are then the returned gradient.

        Returns
        -------
        Clipped
            A row whose gradient is not finite adds nothing.
        """
        ...

    def plain(
        self,
        weights: Weights,
        codes: I32,
        row_weights: F32 | None = None,
        out: FlatWeights | None = None,
    ) -> tuple[Weights, F32]:
        """Weighted sum of the rows' gradients, not clipped, and each row's loss float32 [rows]."""
        ...

    def nll(self, weights: Weights, codes: I32) -> F32:
        """Negative log-likelihood of each row in nats, float32 [rows]. PRIVATE for real rows."""
        ...


def clip_margin(layout: Layout) -> float:
    """How much lower than `clip_norm` rows are clipped, as a fraction.

    A squared norm is computed in float32 as a sum of at most V + 2 H positive terms, each with at
    most H further roundings: its relative error is below (V + 3 H + 32) roundoffs (Higham 2002,
    section 3.1), its root's half of that. Clipping lower by the whole keeps the norm of what is
    added at or below `clip_norm` in exact arithmetic.
    """
    return (layout.width + 3 * layout.hidden + 32) * _ROUNDOFF


class ChunkedStep:
    """Cuts batches into chunks of a fixed size; the base of the implementations.

    Parameters
    ----------
    layout : Layout
    """

    name = "chunked"

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._scratch = FlatWeights(layout)

    def __call__(
        self, weights: Weights, codes: I32, clip_norm: float, out: FlatWeights | None = None
    ) -> Clipped:
        """See `GradientStep`."""
        self._check(weights, codes)
        bound = clip_norm * (1.0 - clip_margin(self.layout))
        total = self._start(out)
        norms = np.zeros(codes.shape[0], dtype=np.float32)
        for rows in _chunks(codes.shape[0], CLIPPED_CHUNK):
            norms[rows] = self._add_clipped(weights, codes[rows], bound, total)
        return Clipped(total.weights, norms)

    def plain(
        self,
        weights: Weights,
        codes: I32,
        row_weights: F32 | None = None,
        out: FlatWeights | None = None,
    ) -> tuple[Weights, F32]:
        """See `GradientStep`."""
        self._check(weights, codes)
        total = self._start(out)
        losses = np.zeros(codes.shape[0], dtype=np.float32)
        for rows in _chunks(codes.shape[0], PLAIN_CHUNK):
            count = rows.stop - rows.start
            factors = np.ones(count, np.float32) if row_weights is None else row_weights[rows]
            losses[rows] = self._plain(weights, codes[rows], factors, self._scratch)
            total.vector += self._scratch.vector
        return total.weights, losses

    def nll(self, weights: Weights, codes: I32) -> F32:
        """See `GradientStep`."""
        self._check(weights, codes)
        losses = np.zeros(codes.shape[0], dtype=np.float32)
        for rows in _chunks(codes.shape[0], PLAIN_CHUNK):
            losses[rows] = self._nll(weights, codes[rows])
        return losses

    def _clipped(
        self, weights: Weights, codes: I32, factors: F32, bound: float, out: FlatWeights
    ) -> F32:
        raise NotImplementedError

    def _plain(self, weights: Weights, codes: I32, factors: F32, out: FlatWeights) -> F32:
        raise NotImplementedError

    def _nll(self, weights: Weights, codes: I32) -> F32:
        raise NotImplementedError

    def _add_clipped(self, weights: Weights, codes: I32, bound: float, total: FlatWeights) -> F32:
        """Add one chunk, leaving out rows whose gradient is not finite; return all norms."""
        count = codes.shape[0]
        padded = np.zeros((CLIPPED_CHUNK, codes.shape[1]), dtype=np.int32)
        padded[:count] = codes
        padded[count:] = codes[0]
        factors = np.zeros(CLIPPED_CHUNK, dtype=np.float32)
        factors[:count] = 1.0
        norms = self._clipped(weights, padded, factors, bound, self._scratch)
        finite = np.isfinite(norms)
        if finite.all():
            total.vector += self._scratch.vector
        elif finite[:count].any():
            # Zero times infinity is not zero: such rows must not take part in the sum at all.
            self._add_clipped(weights, codes[finite[:count]], bound, total)
        return norms[:count]

    def _start(self, out: FlatWeights | None) -> FlatWeights:
        total = FlatWeights(self.layout) if out is None else out
        total.vector[:] = 0.0
        return total

    def _check(self, weights: Weights, codes: I32) -> None:
        self.layout.check(weights)
        if codes.ndim != 2 or codes.shape[1] != self.layout.columns or codes.dtype != np.int32:
            raise TrainingError(
                f"rows must be int32 [rows, {self.layout.columns}], "
                f"not {codes.dtype} {list(codes.shape)}"
            )
        if codes.shape[0]:
            limits = np.asarray(self.layout.cardinalities)
            if codes.min() < 0 or bool((codes.max(axis=0) >= limits).any()):
                raise TrainingError("a row has a code outside its column's cardinality")


def make_step(layout: Layout, engine: str = "auto", threads: int = 1) -> GradientStep:
    """Open the fastest implementation that is installed, or a named one.

    Parameters
    ----------
    layout : Layout
    engine : {"auto", "onnx", "numpy"}
    threads : int
        Of onnxruntime; numpy follows its own environment variables.

    Raises
    ------
    MissingExtraError
        If "onnx" is asked for and onnxruntime is not installed.
    EngineError
        For any other name.
    """
    # Imported here: each imports this module.
    from edge_runtime.training.numpy_step import NumpyStep  # noqa: PLC0415
    from edge_runtime.training.onnx_step import OnnxStep  # noqa: PLC0415

    if engine == "numpy":
        return NumpyStep(layout)
    if engine not in {"auto", "onnx"}:
        raise EngineError(f"training engine {engine!r} is unknown; choose auto, onnx or numpy")
    try:
        return OnnxStep(layout, threads=threads)
    except MissingExtraError:
        if engine == "onnx":
            raise
        return NumpyStep(layout)


def _chunks(rows: int, size: int) -> Iterator[slice]:
    for first in range(0, rows, size):
        yield slice(first, min(rows, first + size))
