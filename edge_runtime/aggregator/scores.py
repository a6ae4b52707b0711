"""Scores of codes: where a code's rows would lie if the column were normal.

Normal scores (van der Waerden 1952) take the bins' shape out of sums and products: sums are then
of one size for every column, and one clipping norm fits all.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from edge_runtime.schema import Schema

__all__ = ["normal_scores", "ordered_columns", "variance_of"]

F64 = npt.NDArray[np.float64]

_NORMAL = NormalDist()
#: a code without rows gets its score from so small a share
_LEAST = 1e-6


def ordered_columns(schema: Schema) -> tuple[int, ...]:
    """Return the columns whose codes have an order and that are no condition."""
    return tuple(
        d
        for d, column in enumerate(schema.columns)
        if d not in schema.conditions and (column.numeric or column.kind == "boolean")
    )


def normal_scores(share: F64, *, nullable: bool) -> F64:
    """Return the mean of a standard normal variable within each code's share of it.

    Parameters
    ----------
    share : float64 [K]
        Of each code, adding up to 1; with `nullable` the last code means missing.
    nullable : bool
        A missing value has the score 0, the mean of all.

    Returns
    -------
    float64 [K]
        Ascending with the code, missing apart.
    """
    present = np.maximum(share[:-1] if nullable else share, _LEAST)
    present = present / present.sum()
    edges = np.concatenate([[0.0], np.cumsum(present)])[1:-1]
    inner = np.array([_NORMAL.pdf(_NORMAL.inv_cdf(edge)) for edge in edges])
    density = np.concatenate([[0.0], inner, [0.0]])
    scores = (density[:-1] - density[1:]) / present
    return np.append(scores, 0.0) if nullable else scores


def variance_of(share: F64, scores: F64) -> float:
    """Return the variance of a column's scores over all rows."""
    mean = float(share @ scores)
    return float(share @ scores**2) - mean**2
