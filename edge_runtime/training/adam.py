"""Adam over one vector (Kingma and Ba 2015, algorithm 1), in place."""

from __future__ import annotations

import math

import numpy as np

from edge_runtime.training.flat import F32

__all__ = ["Adam", "cosine"]

_BETA1 = 0.9
_BETA2 = 0.99
_EPSILON = 1e-8


class Adam:
    """State and update of Adam.

    Parameters
    ----------
    size : int
        Length of the vector.

    Attributes
    ----------
    first_moment, second_moment : float32 [size]
    step : int
        Updates made.
    """

    def __init__(self, size: int) -> None:
        self.first_moment: F32 = np.zeros(size, dtype=np.float32)
        self.second_moment: F32 = np.zeros(size, dtype=np.float32)
        self.step = 0
        self._scratch: F32 = np.empty(size, dtype=np.float32)

    def update(self, vector: F32, gradient: F32, learning_rate: float) -> None:
        """Move `vector` against `gradient`, which is overwritten."""
        self.step += 1
        scratch = self._scratch
        np.multiply(gradient, gradient, out=scratch)
        scratch *= np.float32(1.0 - _BETA2)
        self.second_moment *= np.float32(_BETA2)
        self.second_moment += scratch
        gradient *= np.float32(1.0 - _BETA1)
        self.first_moment *= np.float32(_BETA1)
        self.first_moment += gradient
        # The bias corrections are folded into the step size and epsilon (same section, end).
        second = math.sqrt(1.0 - _BETA2**self.step)
        rate = learning_rate * second / (1.0 - _BETA1**self.step)
        np.sqrt(self.second_moment, out=scratch)
        scratch += np.float32(_EPSILON * second)
        np.divide(self.first_moment, scratch, out=scratch)
        scratch *= np.float32(rate)
        vector -= scratch


def cosine(learning_rate: float, progress: float) -> float:
    """Learning rate after a share `progress` of the run: half a cosine down to a tenth."""
    return learning_rate * (0.55 + 0.45 * math.cos(math.pi * min(1.0, progress)))
