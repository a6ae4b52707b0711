"""Which rows of the pool a release takes, and how often: the same for ever from the same key.

Systematic sampling (Madow 1949): a row of weight w comes floor or ceil of its expected number of
times, which repeats fewer rows than independent draws would. The pool is walked cell by cell of
the condition columns, so that every cell gets its share to within one row. Random numbers come
from the kernel's public streams and not from NumPy's, whose algorithms may change with a version.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.kernel import fill_uniform

__all__ = ["condition_cells", "draw_balanced", "draw_weighted"]

F64 = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

#: streams of the key; decoding uses another key
_START, _ORDER_HIGH, _ORDER_LOW = 0, 1, 2
#: a uniform of the kernel is a multiple of 2^-24
_STEPS = 1 << 24


def condition_cells(
    codes: npt.NDArray[np.int32], conditions: tuple[int, ...]
) -> tuple[npt.NDArray[np.int32], Index]:
    """Return the combinations of condition codes that occur, and the one of each row.

    Parameters
    ----------
    codes : int32 [n, D]
    conditions : tuple of int
        Columns; without any there is one cell of no columns.

    Returns
    -------
    cells : int32 [c, len(conditions)]
        Ascending.
    cell : intp [n]
        Indices into `cells`.
    """
    if not conditions:
        return np.zeros((1, 0), np.int32), np.zeros(len(codes), np.intp)
    cells, cell = np.unique(codes[:, list(conditions)], axis=0, return_inverse=True)
    return cells, np.asarray(cell, np.intp).reshape(-1)


def draw_weighted(weights: F64, rows: int, *, cell: Index, key: bytes) -> Index:
    """Draw rows in proportion to their weights.

    Parameters
    ----------
    weights : float64 [n]
        Not negative, not all 0.
    rows : int
        How many, at least 1.
    cell : intp [n]
        From `condition_cells`.
    key : bytes
        32 public bytes.

    Returns
    -------
    intp [rows]
        Indices, shuffled.
    """
    order = np.argsort(cell, kind="stable")
    chosen = order[_systematic(weights[order], rows, _uniform(1, key, _START)[0])]
    return _shuffled(chosen, key)


def draw_balanced(weights: F64, rows: int, *, cell: Index, key: bytes) -> Index:
    """Draw equally many rows from every cell, to within one, in proportion to their weights there.

    Parameters and result as for `draw_weighted`. Where `rows` is no multiple of the cells, the
    cells of most weight get one row more.
    """
    cells = int(cell.max()) + 1
    each = np.full(cells, rows // cells)
    heaviest = np.argsort(-np.bincount(cell, weights, minlength=cells), kind="stable")
    each[heaviest[: rows % cells]] += 1
    start = _uniform(1, key, _START)[0]
    parts = []
    for number in range(cells):
        members = np.flatnonzero(cell == number)
        parts.append(members[_systematic(weights[members], int(each[number]), start)])
    return _shuffled(np.concatenate(parts), key)


def _systematic(weights: F64, rows: int, start: float) -> Index:
    if not rows:
        return np.empty(0, np.intp)
    edges = np.cumsum(weights)
    points = (np.arange(rows) + start) * (edges[-1] / rows)
    found: Index = np.searchsorted(edges, points, side="right")
    return np.minimum(found, len(weights) - 1, dtype=np.intp)


def _shuffled(chosen: Index, key: bytes) -> Index:
    # Two uniforms of 24 bits make a sort key without ties worth speaking of.
    high, low = (_uniform(len(chosen), key, stream) for stream in (_ORDER_HIGH, _ORDER_LOW))
    return chosen[np.argsort(high * _STEPS + low, kind="stable")]


def _uniform(count: int, key: bytes, stream: int) -> F64:
    out = np.empty(count, np.float32)
    fill_uniform(out, key=key, stream=stream)
    return out.astype(np.float64)
