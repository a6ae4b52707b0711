"""All parameters in one vector, so that noise and the optimiser run over memory once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_runtime.generator.layout import Layout, Weights

__all__ = ["F32", "U8", "FlatWeights", "parameter_mask"]

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]


class FlatWeights:
    """A vector of all parameters, masked ones included, and the tensors as views into it.

    Parameters
    ----------
    layout : Layout
    values : Weights, optional
        Copied; zeros without.

    Attributes
    ----------
    vector : float32 [size]
    weights : Weights
        Views: writing to either shows in the other.
    """

    def __init__(self, layout: Layout, values: Weights | None = None) -> None:
        v, h = layout.width, layout.hidden
        shapes: tuple[tuple[int, ...], ...] = ((v, h), (h,), (h, h), (h,), (h, v), (v,))
        sizes = [int(np.prod(shape)) for shape in shapes]
        self.vector: F32 = np.zeros(sum(sizes), dtype=np.float32)
        parts = np.split(self.vector, np.cumsum(sizes)[:-1])
        self.weights = Weights(*(part.reshape(s) for part, s in zip(parts, shapes, strict=True)))
        if values is not None:
            layout.check(values)
            for view, value in zip(self.weights, values, strict=True):
                view[...] = value

    def copy(self) -> Weights:
        """Tensors of their own."""
        return Weights(*(view.copy() for view in self.weights))


def parameter_mask(layout: Layout) -> U8:
    """1 where the vector of `FlatWeights` holds a parameter that exists, uint8 [size]."""
    m1, m2, m3 = layout.masks
    flat = FlatWeights(layout)
    flat.vector[:] = 1.0
    for view, mask in ((flat.weights.w1, m1), (flat.weights.w2, m2), (flat.weights.w3, m3)):
        view[...] = mask
    return flat.vector.astype(np.uint8)
