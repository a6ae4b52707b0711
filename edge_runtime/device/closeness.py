"""WITHOUT PRIVACY only: synthetic rows that lie too close to a real row are drawn again.

Where no noise protects the rows, the least that can be done is not to send copies: a row that lies
closer to a real row than real rows lie to each other is replaced. Where privacy is on this filter
must not exist: which rows are missing would itself tell about real rows, at a cost that no ledger
holds; there the mechanism protects, and rows near real ones are as likely as chance makes them.

Distance (Gower 1971, on codes): per column 0 for equal codes; where codes have an order, as bins
of numbers do, their difference over the largest one; else 1. A missing value is 1 from any other.
Columns add up. Real rows' own spacing is the 1 % quantile of the distance to the nearest other
real row: about a hundredth of perfect synthetic rows falls below it by chance and is drawn again.
In a table of few distinct rows that distance is 0 (equal rows are ordinary there), and nothing is
dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.schema import Codec

__all__ = ["SPACING_QUANTILE", "Distance", "Replaced", "replace_close", "spacing"]

I32 = npt.NDArray[np.int32]
F32 = npt.NDArray[np.float32]

#: of the distances between real rows; see the top of this file
SPACING_QUANTILE = 0.01
#: real rows whose nearest neighbour is looked for: the tenth smallest distance is the quantile then
_SPACING_ROWS = 1000
#: a row that is too close is drawn again so often, then left out
_TRIES = 8
#: distances held at a time: 1 MB of float32, which stays in the cache
_BLOCK = 1 << 18
#: on the scale of ordered codes (0 to 1): at least 1 from every value
_MISSING = np.float32(2.0)


class Distance:
    """Distances between rows of codes.

    Parameters
    ----------
    codec : Codec
        Says which columns have an order and which code means missing.
    go_on : callable, optional
        Called now and then; may raise, as `Bench.go_on` does.
    """

    def __init__(self, codec: Codec, *, go_on: Callable[[], None] = lambda: None) -> None:
        self._go_on = go_on
        self._columns: list[tuple[F32, bool]] = []
        for column, k in zip(codec.schema.columns, codec.cardinalities, strict=True):
            places = np.arange(k, dtype=np.float32)
            if column.numeric:
                values = k - column.nullable  # missing is the last code
                places /= np.float32(max(1, values - 1))
                places[values:] = _MISSING
            self._columns.append((places, column.numeric))

    def nearest(self, rows: I32, real: I32) -> F32:
        """Distance of each row to the nearest other row of `real`.

        Parameters
        ----------
        rows : int32 [n, D]
        real : int32 [m, D]

        Returns
        -------
        float32 [n]
            Infinite where `real` is empty.
        """
        found = np.full(len(rows), np.inf, np.float32)
        if not len(real):
            return found
        theirs = self._placed(real)
        step = max(1, _BLOCK // len(real))
        for start in range(0, len(rows), step):
            self._go_on()
            ours = self._placed(rows[start : start + step])
            found[start : start + step] = self._between(ours, theirs).min(axis=1)
        return found

    def spacings(self, chosen: npt.NDArray[np.intp], real: I32) -> F32:
        """Distance of real rows, by their index, to the nearest real row at another index."""
        found = np.full(len(chosen), np.inf, np.float32)
        theirs = self._placed(real)
        step = max(1, _BLOCK // max(1, len(real)))
        for start in range(0, len(chosen), step):
            self._go_on()
            own = chosen[start : start + step]
            between = self._between([column[own] for column in theirs], theirs)
            between[np.arange(len(own)), own] = np.inf
            found[start : start + step] = between.min(axis=1)
        return found

    def _placed(self, codes: I32) -> list[F32]:
        return [places[codes[:, d]] for d, (places, _) in enumerate(self._columns)]

    def _between(self, ours: list[F32], theirs: list[F32]) -> F32:
        """float32 [n, m]."""
        total = np.zeros((len(ours[0]), len(theirs[0])), np.float32)
        part = np.empty_like(total)
        for a, b, (_, ordered) in zip(ours, theirs, self._columns, strict=True):
            if ordered:
                np.subtract(a[:, None], b[None, :], out=part)
                np.abs(part, out=part)
                np.minimum(part, 1.0, out=part)
            else:
                np.not_equal(a[:, None], b[None, :], out=part)
            total += part
        return total


def spacing(real: I32, distance: Distance) -> float:
    """How close real rows lie to each other: the low quantile that the filter compares with.

    Parameters
    ----------
    real : int32 [m, D]
        PRIVATE.
    distance : Distance

    Returns
    -------
    float
        PRIVATE. 0 where at least a twentieth of the rows has an equal, or with fewer than 2 rows.
    """
    if len(real) < 2:
        return 0.0
    chosen = np.unique(np.linspace(0, len(real) - 1, _SPACING_ROWS).astype(np.intp))
    return float(np.quantile(distance.spacings(chosen, real), SPACING_QUANTILE, method="lower"))


class Replaced(NamedTuple):
    """Rows of which none is too close to a real one.

    `codes` is int32 [n - left_out, D]; `close` counts the rows that were too close at first,
    `left_out` those that no further draw could replace.
    """

    codes: I32
    close: int
    left_out: int


def replace_close(
    codes: I32,
    *,
    real: I32,
    codec: Codec,
    redraw: Callable[[npt.NDArray[np.intp]], I32],
    go_on: Callable[[], None] = lambda: None,
) -> Replaced:
    """Replace synthetic rows that lie closer to a real row than real rows lie to each other.

    Parameters
    ----------
    codes : int32 [n, D]
        Synthetic rows.
    real : int32 [m, D]
        PRIVATE: the device's rows.
    codec : Codec
    redraw : callable
        Fresh rows int32 [k, D] in place of those at the k indices given; called a few times.
    go_on : callable, optional
        As for `Distance`.

    Returns
    -------
    Replaced
        Depends on real rows: for runs WITHOUT PRIVACY only.
    """
    distance = Distance(codec, go_on=go_on)
    limit = spacing(real, distance)
    if limit <= 0.0:
        return Replaced(codes, 0, 0)
    # Equal real rows are as far away as one of them.
    distinct = np.unique(real, axis=0)
    made = codes.copy()
    waiting = np.flatnonzero(distance.nearest(made, distinct) < limit)
    close = len(waiting)
    for _ in range(_TRIES):
        if not len(waiting):
            break
        made[waiting] = redraw(waiting)
        waiting = waiting[distance.nearest(made[waiting], distinct) < limit]
    return Replaced(np.delete(made, waiting, axis=0), close, len(waiting))
