"""The score: how well the plan's bundle predicts real rows that nothing was ever trained on."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edge_runtime.device.bench import Bench
from edge_runtime.device.noisy_counts import is_released, release_noisy, share_of_room
from edge_runtime.generator import Bundle, Layout, Weights
from edge_runtime.messages import SCORE_UNITS, Plan, ScoreRequest
from edge_runtime.schema import Schema

__all__ = ["SCORE_SENSITIVITY_SQUARED", "clipped_losses", "release_score"]

_LOG = logging.getLogger(__name__)

#: rows between two questions whether to go on: a fraction of a second on a small board
_BLOCK = 512

#: one row adds at most `SCORE_UNITS` to the sum of losses and exactly `SCORE_UNITS` to the count
SCORE_SENSITIVITY_SQUARED = 2 * SCORE_UNITS**2


def release_score(
    bench: Bench,
    plan: Plan,
    request: ScoreRequest,
    *,
    codes: npt.NDArray[np.int32],
    bundle: Bundle,
    schema: Schema,
) -> None:
    """Release the noisy sum of clipped losses and the noisy number of held-out rows, once per plan.

    Parameters
    ----------
    codes : int32 [rows, columns]
        Held-out real rows.
    """
    if is_released(bench, plan, "score"):
        return
    bench.reporter.set(status="measuring", progress=0.0, reason="")
    losses = clipped_losses(
        codes, bundle.weights, bundle.layout, clip_nats=request.clip_nats, go_on=bench.go_on
    )
    sigma = release_noisy(
        bench,
        plan,
        "score",
        counts={"score": np.array([losses.sum(), SCORE_UNITS * len(losses)], dtype=np.int64)},
        sensitivity_squared=SCORE_SENSITIVITY_SQUARED,
        sigma=lambda: share_of_room(
            bench, plan, sensitivity_squared=SCORE_SENSITIVITY_SQUARED, share=request.share
        ),
        schema=schema,
        codec_digest=bundle.codec.digest,
        extra={"clip_nats": request.clip_nats},
    )
    _LOG.info(
        "bundle scored with noise of standard deviation %.4g rows", float(sigma) / SCORE_UNITS
    )


def clipped_losses(
    codes: npt.NDArray[np.int32],
    weights: Weights,
    layout: Layout,
    *,
    clip_nats: float,
    go_on: Callable[[], None] = lambda: None,
) -> npt.NDArray[np.int64]:
    """Each row's negative log-likelihood in units of `clip_nats` / 1024, at most 1024. PRIVATE.

    Row by row: inside a batch the rounding of one row's loss may depend on the others, and then a
    row that is added or removed would change more than its own loss.

    Parameters
    ----------
    codes : int32 [rows, columns]
    clip_nats : float
        Larger losses, and such that are not numbers, count as this.
    go_on : callable, optional
        Called now and then; may raise, as `Bench.go_on` does.

    Returns
    -------
    int64 [rows]
    """
    starts = np.asarray(layout.offsets[:-1])
    sizes = np.asarray(layout.cardinalities)
    losses = np.empty(len(codes), dtype=np.int64)
    for index, row in enumerate(codes):
        if index % _BLOCK == 0:
            go_on()
        chosen = row + starts
        h1 = np.maximum(weights.w1[chosen].sum(axis=0) + weights.b1, 0.0)
        h2 = np.maximum(h1 @ weights.w2 + weights.b2, 0.0) + h1
        logits = (h2 @ weights.w3 + weights.b3).astype(np.float64)
        # The maximum of each column, not of the row: a row maximum underflows a whole column.
        logits -= np.repeat(np.maximum.reduceat(logits, starts), sizes)
        nats = float(np.log(np.add.reduceat(np.exp(logits), starts)).sum() - logits[chosen].sum())
        share = min(nats / clip_nats, 1.0) if math.isfinite(nats) else 1.0
        losses[index] = round(SCORE_UNITS * max(share, 0.0))
    return losses
