"""The moments alone, hundreds of thousands of times: sums of scores, and of their products.

The canary has a condition and codes of its own. Its scores are far longer than the clipping norm,
so what it adds has the full length that the ledger paid for, in a direction that no other row has.
The attacker knows all other rows and the request, and projects what was sent on what the canary
adds: with equal Gaussian noise in every number this is the likelihood ratio, and no statistic tells
more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

from audit.alone import pay, tell_apart
from audit.canary import Verdict, canary_row, other_rows
from audit.device import I32, I64, Recorder, digest
from edge_runtime.device.moments import check_moments, noise_digits, sum_moments
from edge_runtime.device.noisy_counts import round_off
from edge_runtime.generator import Layout
from edge_runtime.messages import MomentsRequest
from edge_runtime.privacy import release_counts

__all__ = ["VIEWS", "Order", "Sums", "attack_moments"]

Order = Literal[1, 2]
#: adds up what all rows add, as `sum_moments` does
Sums = Callable[[I32, MomentsRequest], dict[str, I64]]

VIEWS: dict[Order, str] = {1: "sums of scores", 2: "sums of products"}

#: the condition, and three columns that have scores
_LAYOUT = Layout((3, 4, 4, 4), 16)
#: The last code is the canary's; three others together stay within the clipping norm of 1.
_SCORES = ((-0.2, 0.0, 0.2, 5.0), (-0.1, 0.1, 0.3, -4.0), (0.3, -0.3, 0.0, 3.0))
_CENTRES = ((0.1, 0.0, -0.1), (0.0, 0.1, 0.1), (-0.1, 0.1, 0.0))
_OTHERS = 30


def attack_moments(
    epsilon: float | None,
    *,
    order: Order,
    devices: int,
    seed: int,
    confidence: float = 0.95,
    noise: Callable[[bytes], Recorder] = Recorder,
    sums: Sums = sum_moments,
) -> Verdict:
    """Tell devices with the canary from devices without it by their noisy moments.

    Parameters
    ----------
    epsilon : float or None
        What the moments may cost.
    order : {1, 2}
    devices : int
        On each side; all of them have the same other rows, and noise of their own.
    seed : int
    confidence : float
        Of each bound.
    noise, sums : callable
        Makes the noise from a seed, and adds up rows before it: what a test breaks.
    """
    request = _request(order)
    check_moments(request, _LAYOUT.cardinalities)
    paid = pay(
        f"moments of order {order}",
        epsilon=epsilon,
        sensitivity_squared=request.sensitivity_squared,
    )
    others, canary = other_rows(_LAYOUT, _OTHERS), canary_row(_LAYOUT)
    sides = [sums(rows, request) for rows in (np.concatenate([others, canary]), others)]
    noisy = release_counts(
        paid.entry,
        {
            name: np.repeat(np.stack([side[name] for side in sides]), devices, axis=0)
            for name in sides[0]
        },
        sensitivity_squared=request.sensitivity_squared,
        sigma=paid.sigma,
        noise=noise(digest(b"moments", str(order).encode(), str(seed).encode())),
    )
    digits = noise_digits(paid.sigma)
    scores = _projected(
        round_off(noisy, digits=digits),
        digits=digits,
        # The attacker's own arithmetic, which a broken device does not touch.
        background=sum_moments(others, request),
        added=sum_moments(canary, request),
    )
    return tell_apart(VIEWS[order], scores, claimed=paid.claimed, confidence=confidence)


def _request(order: Order) -> MomentsRequest:
    return MomentsRequest(
        share=1.0,
        order=order,
        given=0,
        groups=_LAYOUT.cardinalities[0],
        columns=(1, 2, 3),
        scores=_SCORES,
        centres=_CENTRES if order == 2 else (),
        clip_norm=1.0,
    )


def _projected(
    sent: dict[str, I64], *, digits: int, background: dict[str, I64], added: dict[str, I64]
) -> npt.NDArray[np.float64]:
    """Project what devices sent on what the canary adds; 0 is half way, float64 [devices]."""
    total = np.zeros(len(sent["rows"]))
    for name, own in added.items():
        rest = (sent[name] << digits) - background[name] - 0.5 * own
        total += np.tensordot(rest, own.astype(np.float64), axes=own.ndim)
    return total
