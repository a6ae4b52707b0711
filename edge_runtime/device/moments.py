"""Moments: noisy sums of scores and their products, which say how columns hang together."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from edge_runtime.device.bench import Bench
from edge_runtime.device.budget import share_after
from edge_runtime.device.noisy_counts import is_released, release_noisy, share_of_room
from edge_runtime.errors import PlanError
from edge_runtime.messages import (
    DEFAULT_LIMITS,
    MOMENT_UNITS,
    MomentsRequest,
    Plan,
)
from edge_runtime.schema import Codec, Schema

__all__ = ["check_moments", "noise_digits", "release_moments", "row_vectors", "sum_moments"]

_LOG = logging.getLogger(__name__)

#: rows at a time: bounds the memory that products take
_BLOCK = 256
#: Steps in a standard deviation of the noise that are sent, at least. Rounding to them adds half a
#: percent to the variance, and a number takes 4 bits instead of some 20.
_KEPT = 4

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


def check_moments(
    request: MomentsRequest,
    cardinalities: Sequence[int],
    *,
    most_cells: int = DEFAULT_LIMITS.cells,
) -> None:
    """Decline moments of other columns or codes than the bundle's, or more than a message holds.

    Raises
    ------
    PlanError
    """
    highest = max(request.given, request.columns[-1])
    if highest >= len(cardinalities):
        raise PlanError(
            f"the plan's moments are about column {highest}, there are {len(cardinalities)}"
        )
    for column, scores in zip(request.columns, request.scores, strict=True):
        if len(scores) != cardinalities[column]:
            raise PlanError(
                f"the plan's moments have {len(scores)} scores for column {column}, it has "
                f"{cardinalities[column]} codes"
            )
    codes = cardinalities[request.given]
    if request.groups not in (1, codes) or len(request.centres) not in (0, codes):
        raise PlanError(
            f"the plan's moments tell {max(request.groups, len(request.centres))} conditions "
            f"apart, column {request.given} has {codes} codes"
        )
    cells = request.groups * request.width
    if cells > most_cells:
        raise PlanError(
            f"the plan's moments are {cells} sums, this device sends at most {most_cells}; ask for "
            "fewer columns, or for all conditions together"
        )


def row_vectors(codes: npt.NDArray[np.int32], request: MomentsRequest) -> I64:
    """Return what each row adds to its group. PRIVATE: exact.

    Every number is worked out from its own row alone, elementwise: a row that is added or removed
    changes no rounding of another.

    Parameters
    ----------
    codes : int32 [rows, D]

    Returns
    -------
    int64 [rows, request.width]
        In units; of an L2 norm of at most `sqrt(sensitivity_squared - row_units ** 2)`.
    """
    vectors = np.stack(
        [
            np.asarray(scores)[codes[:, column]]
            for column, scores in zip(request.columns, request.scores, strict=True)
        ],
        axis=1,
    )
    if request.centres:
        vectors -= np.asarray(request.centres)[codes[:, request.given]]
    # Added up column by column: numpy's own sums may go another way for another number of rows.
    squares = np.zeros(len(codes))
    for column in vectors.T:
        squares += column * column
    vectors *= (request.clip_norm / np.maximum(np.sqrt(squares), request.clip_norm))[:, None]
    if request.order == 2:
        first, second = np.triu_indices(len(request.columns))
        # Twice the product of two columns stands once here: the norm is that of the outer product.
        vectors = (
            vectors[:, first] * vectors[:, second] * np.where(first == second, 1, math.sqrt(2))
        )
    return np.rint(vectors / request.unit).astype(np.int64)


def sum_moments(
    codes: npt.NDArray[np.int32],
    request: MomentsRequest,
    *,
    go_on: Callable[[], None] = lambda: None,
) -> dict[str, I64]:
    """Add up what all rows add. PRIVATE: exact.

    Parameters
    ----------
    codes : int32 [rows, D]
    go_on : callable, optional
        Called now and then; may raise, as `Bench.go_on` does.

    Returns
    -------
    dict
        `moments` int64 [groups, width] and `rows` int64 [groups], in units.
    """
    sums = np.zeros((request.groups, request.width), np.int64)
    group = codes[:, request.given] if request.groups > 1 else np.zeros(len(codes), np.int32)
    for start in range(0, len(codes), _BLOCK):
        go_on()
        part = slice(start, start + _BLOCK)
        np.add.at(sums, group[part], row_vectors(codes[part], request))
    rows = np.bincount(group, minlength=request.groups) * request.row_units
    return {"moments": sums, "rows": rows.astype(np.int64)}


def noise_digits(sigma: Fraction) -> int:
    """Return how many low binary digits of a sum are nothing but noise, and not sent."""
    return max(0, math.floor(math.log2(sigma / _KEPT))) if sigma else 0


def release_moments(
    bench: Bench,
    plan: Plan,
    request: MomentsRequest,
    *,
    codes: npt.NDArray[np.int32],
    codec: Codec,
    schema: Schema,
) -> None:
    """Release the noisy sums that a plan asks for, once per plan.

    Parameters
    ----------
    codes : int32 [rows, columns]
        Real rows.

    Raises
    ------
    PlanError
        When the request does not fit this device; see `check_moments`.
    """
    check_moments(request, codec.cardinalities)
    if is_released(bench, plan, "moments"):
        return
    bench.reporter.set(status="measuring", progress=0.0, reason="")
    sensitivity_squared = request.sensitivity_squared
    earlier = sum(part.share for part in (plan.score, plan.anchor) if part is not None)
    sigma = release_noisy(
        bench,
        plan,
        "moments",
        counts=sum_moments(codes, request, go_on=bench.go_on),
        sensitivity_squared=sensitivity_squared,
        sigma=lambda: share_of_room(
            bench,
            plan,
            sensitivity_squared=sensitivity_squared,
            share=share_after(request.share, earlier=earlier),
        ),
        schema=schema,
        codec_digest=codec.digest,
        extra={"holdout": plan.holdout},
        details={"order": request.order},
        shift=noise_digits,
    )
    _LOG.info(
        "moments of order %d released with noise of %.4g of what one row may add",
        request.order,
        float(sigma) / MOMENT_UNITS,
    )
