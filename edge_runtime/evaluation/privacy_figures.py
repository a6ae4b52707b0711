"""Two looks at privacy: what was spent (a guarantee) and how close rows come (a smoke alarm).

The distance to the closest record is a test, not a guarantee: rows that copy training rows are
closer to those than to held-out rows of the same kind. A share of one half is what a generator
that copies nobody gives. Epsilon is what protects people; this figure only finds accidents.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import EvaluationError
from edge_runtime.evaluation.features import Features
from edge_runtime.evaluation.frames import Frame

__all__ = ["Closest", "closest_records"]

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Closest:
    """Where synthetic rows find their closest real row.

    Parameters
    ----------
    closer_to_training : float
        Share of synthetic rows whose closest row is a training row and not a held-out one, out of
        equally many of each; ties count half. One half is ideal.
    margin : float
        Two standard errors of that share.
    exact : float
        Share of synthetic rows equal to one of the training rows compared.
    exact_held_out : float
        The same for held-out rows, which nothing can have copied.
    median, median_held_out : float
        Median distance of synthetic rows to the closest training row, and to the closest
        held-out row.
    rows, references : int
        Synthetic rows looked at, and real rows on either side.
    """

    closer_to_training: float
    margin: float
    exact: float
    exact_held_out: float
    median: float
    median_held_out: float
    rows: int
    references: int


def closest_records(
    training: Frame,
    held_out: Frame,
    synthetic: Frame,
    *,
    max_rows: int = 2_000,
    max_references: int = 10_000,
    seed: int = 0,
) -> Closest:
    """Compare synthetic rows with equally many training and held-out rows.

    Distances are Euclidean over one-hot categories and numbers scaled by the training rows'
    standard deviation.

    Raises
    ------
    EvaluationError
        One of the tables has no rows.
    """
    references = min(training.rows, held_out.rows, max_references)
    rows = min(synthetic.rows, max_rows)
    if references == 0 or rows == 0:
        raise EvaluationError("the distance to closest records needs rows in every table")
    encoder = Features.fit(training, training.schema.names)
    near = encoder.transform(training.sample(references, seed=seed))
    far = encoder.transform(held_out.sample(references, seed=seed + 1))
    drawn = encoder.transform(synthetic.sample(rows, seed=seed + 2))
    to_training = _closest(drawn, near)
    to_held_out = _closest(drawn, far)
    # Differences below float32's cancellation in the squared distance are ties.
    tie = np.isclose(to_training, to_held_out, rtol=1e-4, atol=1e-3)
    wins = np.where(tie, 0.5, (to_training < to_held_out).astype(np.float64))
    share = float(wins.mean())
    return Closest(
        closer_to_training=share,
        margin=2.0 * float(wins.std() / np.sqrt(rows)),
        exact=float(np.mean(to_training < 1e-2)),
        exact_held_out=float(np.mean(to_held_out < 1e-2)),
        median=float(np.median(to_training)),
        median_held_out=float(np.median(to_held_out)),
        rows=rows,
        references=references,
    )


def _closest(rows: F32, references: F32, *, block: int = 500) -> npt.NDArray[np.float64]:
    """Return the Euclidean distance of each row to the closest reference, in blocks of rows."""
    square = np.einsum("ij,ij->i", references, references)
    out = np.empty(len(rows))
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        own = np.einsum("ij,ij->i", part, part)
        distance = square[None, :] - 2.0 * (part @ references.T)
        out[start : start + block] = distance.min(axis=1) + own
    return np.asarray(np.sqrt(np.maximum(out, 0.0)))
