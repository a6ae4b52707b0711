"""Mechanisms broken on purpose, which the same attacks must catch: so the audit can fail."""

from __future__ import annotations

from fractions import Fraction

import msgspec
import numpy as np
import numpy.typing as npt

from audit.device import I32, I64, Recorder
from edge_runtime.device.moments import sum_moments
from edge_runtime.generator import Weights
from edge_runtime.messages import MomentsRequest
from edge_runtime.training import GradientStep
from edge_runtime.training.flat import F32, FlatWeights
from edge_runtime.training.step import Clipped

__all__ = ["HalfNoise", "Unclipped", "Unsampled", "unclipped_sums"]

#: clips nothing that an audit's rows hold, and is exact in binary
_LOOSE = 64


class HalfNoise(Recorder):
    """Half the noise that was paid for, on counts, moments and gradients."""

    def discrete_gaussian(self, out: npt.NDArray[np.int64], *, sigma: Fraction | float) -> None:
        """See `PrivacyNoise.discrete_gaussian`."""
        super().discrete_gaussian(out, sigma=sigma / 2)

    def add_training_noise(
        self,
        grad: F32,
        mask: npt.NDArray[np.uint8] | None = None,
        *,
        clip_norm: float,
        noise_multiplier: float,
    ) -> None:
        """See `PrivacyNoise.add_training_noise`."""
        super().add_training_noise(
            grad, mask, clip_norm=clip_norm, noise_multiplier=noise_multiplier / 2
        )


class Unsampled(Recorder):
    """Every row in every step, where a Poisson sample was accounted for."""

    def bernoulli(self, out: npt.NDArray[np.uint8], *, p: float) -> None:  # noqa: ARG002
        """See `PrivacyNoise.bernoulli`."""
        out[:] = 1


class Unclipped:
    """A gradient step that forgets to clip."""

    name = "unclipped"

    def __init__(self, inner: GradientStep) -> None:
        self._inner = inner
        self.layout = inner.layout

    def __call__(
        self,
        weights: Weights,
        codes: npt.NDArray[np.int32],
        clip_norm: float,
        out: FlatWeights | None = None,
    ) -> Clipped:
        """See `GradientStep`."""
        return self._inner(weights, codes, 1e6 * clip_norm, out)

    def plain(
        self,
        weights: Weights,
        codes: npt.NDArray[np.int32],
        row_weights: F32 | None = None,
        out: FlatWeights | None = None,
    ) -> tuple[Weights, F32]:
        """See `GradientStep`."""
        return self._inner.plain(weights, codes, row_weights, out)

    def nll(self, weights: Weights, codes: npt.NDArray[np.int32]) -> F32:
        """See `GradientStep`."""
        return self._inner.nll(weights, codes)


def unclipped_sums(codes: I32, request: MomentsRequest) -> dict[str, I64]:
    """Add up moments as `sum_moments` does, and forget to clip."""
    loose = msgspec.structs.replace(request, clip_norm=_LOOSE * request.clip_norm)
    sums = sum_moments(codes, loose)
    # In the units of the request, as if it had been asked for.
    return {**sums, "moments": sums["moments"] * _LOOSE**request.order}
