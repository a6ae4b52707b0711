"""The integer network in numpy: runs everywhere, and says what the other engines must compute."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import EngineError
from edge_runtime.generator.layout import F32, I32, Layout
from edge_runtime.generator.quantize import check_quantised, to_activation
from edge_runtime.generator.reference import check_noise, draw

__all__ = ["NumpyEngine"]


class NumpyEngine:
    """Draw rows with numpy alone.

    Parameters
    ----------
    tensors : mapping of str to ndarray
        As in `edge_runtime.generator.quantize.TENSORS`.
    layout : Layout

    Raises
    ------
    EngineError
        If the tensors do not fit the layout.
    """

    name = "numpy"

    def __init__(self, tensors: Mapping[str, npt.NDArray[np.generic]], *, layout: Layout) -> None:
        check_quantised(tensors, layout)
        self.layout = layout
        # Integers below 2**24 are exact in float32, and only float32 products use the fast BLAS.
        self._tensors: dict[str, F32] | None = {
            name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()
        }

    def generate(self, noise: F32) -> I32:
        """See `edge_runtime.generator.engine.Engine.generate`."""
        t, layout = self._tensors, self.layout
        if t is None:
            raise EngineError("the engine is closed")
        check_noise(noise, layout)
        rows = noise.shape[0]
        codes = np.zeros((rows, layout.columns), np.int32)
        acc = np.zeros((rows, layout.hidden), np.float32)
        h1 = np.zeros((rows, layout.hidden), np.float32)
        h2 = np.zeros_like(h1)
        for column, (a, b) in enumerate(zip(layout.offsets, layout.offsets[1:], strict=False)):
            first, end = layout.units(column - 1) if column else (0, 0)
            new = slice(first, end)
            if end > first:
                h1[:, new] = to_activation(acc[:, new] * t["rescale1"][new] + t["shift1"][new])
                inner = h1[:, :end] @ t["w2"][:end, new] + t["b2"][new]
                inner = np.maximum(inner * t["rescale2"][new], 0)
                skip = h1[:, new] * t["skip2"][new]
                h2[:, new] = to_activation(inner + skip + np.float32(0.5))
            scores = (h2[:, :end] @ t["w3"][:end, a:b] + t["b3"][a:b]) * t["scale3"][a:b]
            codes[:, column] = draw(scores, noise[:, column])
            acc += t["w1"][codes[:, column] + a]
        return codes

    def close(self) -> None:
        """Free the tensors."""
        self._tensors = None
