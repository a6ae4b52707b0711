"""How a private training run is done: the same numbers in the plan, the ledger and the loop."""

from __future__ import annotations

import math

import msgspec

from edge_runtime.errors import TrainingError

__all__ = ["TrainSettings"]


class TrainSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of `train_private`.

    Attributes
    ----------
    steps : int
        Gradient steps, 1 or more.
    expected_batch : int
        Expected number of rows in a step's Poisson sample, 1 or more.
    clip_norm : float
        L2 bound of one row's gradient.
    learning_rate : float
        Adam's step size at the start; it falls to a tenth along half a cosine.
    noise_multiplier : float
        Standard deviation of the noise over `clip_norm`; 0 = WITHOUT PRIVACY.
    averaging : float
        Decay of the exponential average of the iterates that is returned; 0 = the last iterate.

    Raises
    ------
    TrainingError
        If a number is out of range.
    """

    steps: int
    expected_batch: int
    clip_norm: float
    learning_rate: float
    noise_multiplier: float
    averaging: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "expected_batch"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name} is {getattr(self, name)}, at least 1 is needed")
        for name in ("clip_norm", "learning_rate"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0.0):
                raise TrainingError(f"{name} is {value}, a positive number is needed")
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier >= 0.0):
            raise TrainingError(f"noise_multiplier is {self.noise_multiplier}, 0 or more is needed")
        if not 0.0 <= self.averaging < 1.0:
            raise TrainingError(f"averaging is {self.averaging}, 0 to below 1 is needed")
