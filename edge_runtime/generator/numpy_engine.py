"""The integer network in numpy: runs everywhere, and says what the other engines must compute."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import EngineError
from edge_runtime.generator.layout import F32, I32, Layout
from edge_runtime.generator.quantize import check_quantised
from edge_runtime.generator.reference import check_noise, draw
from edge_runtime.generator.stepping import step_through

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
        return step_through(
            t, layout, len(noise), lambda column, scores: draw(scores, noise[:, column])
        )

    def close(self) -> None:
        """Free the tensors."""
        self._tensors = None
