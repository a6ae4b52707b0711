"""The fleet's score curve over a regime's generations: what devices would have released of each."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.aggregator.guard import score_curve, worsened
from edge_runtime.aggregator.summaries import DeviceScore
from edge_runtime.device.score import clipped_losses
from edge_runtime.generator import Layout, Weights
from edge_runtime.kernel import PrivacyNoise
from edge_runtime.messages import SCORE_UNITS

__all__ = ["Curve", "fleet_curve"]

I32 = npt.NDArray[np.int32]

#: where a row's loss is cut off
CLIP_NATS = 60.0
#: standard deviation of the noise in a device's number of held-out rows
SIGMA_ROWS = 3.0
#: as in [guard]: chance of a false alarm per round, and the rise that is no alarm yet
FALSE_ALARMS, MARGIN = 1e-4, 0.01


class Curve(NamedTuple):
    """Means and standard errors in nats per row by generation, and the first alarm (or None)."""

    nll: list[float]
    error: list[float]
    alarm: int | None


def fleet_curve(generations: Sequence[Weights], *, layout: Layout, held: Sequence[I32]) -> Curve:
    """Score generations on the devices' own held-out rows, with noise, and look for a decline.

    Parameters
    ----------
    generations : sequence of Weights
        From generation 0 on.
    held : sequence of int32 [rows, D]
        Each device's held-out real rows.
    """
    noise = PrivacyNoise()
    sigma = Fraction(SIGMA_ROWS) * SCORE_UNITS
    scores: list[DeviceScore] = []
    alarm = None
    for number, weights in enumerate(generations):
        for device, codes in enumerate(held):
            losses = clipped_losses(codes, weights, layout, clip_nats=CLIP_NATS)
            drawn = np.empty(2, np.int64)
            noise.discrete_gaussian(drawn, sigma=sigma)
            total = float(drawn[0] + losses.sum())
            rows = float(drawn[1] + SCORE_UNITS * len(codes))
            scores.append(
                DeviceScore(
                    device=str(device),
                    round=number,
                    bundle_digest=str(number),
                    nats=total / SCORE_UNITS * CLIP_NATS,
                    rows=rows / SCORE_UNITS,
                    sigma_rows=SIGMA_ROWS,
                    clip_nats=CLIP_NATS,
                )
            )
        found = worsened(
            scores,
            bundle=str(number),
            among=[str(earlier) for earlier in range(number)],
            margin=MARGIN,
            false_alarms=FALSE_ALARMS,
        )
        if found is not None and alarm is None:
            alarm = number
    points = score_curve(scores)
    return Curve([p.nll for p in points], [p.noise_error for p in points], alarm)
