"""Moments: noisy sums of scores of codes and of their products, given a condition.

What tells rows of one condition from rows of another is mostly where columns lie and how they move
together. Tables of pairs carry the noise of every cell; a sum of products says the same about two
ordered columns in one number. Both ends take the arithmetic of a release from here.
"""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edge_runtime.errors import RangeError

__all__ = ["MOMENT_UNITS", "MomentsRequest", "products"]

#: One row's vector, clipped, is at most so many units long before it is rounded: rounding then adds
#: a fraction of a percent to the sensitivity, whatever the number of columns.
MOMENT_UNITS = 1 << 14
#: How much of `MOMENT_UNITS` a row adds to the number of rows, by order. The number is worth its
#: noise where means are taken; products come after it and sharpen it a little.
_ROW_SHARE = {1: 0.5, 2: 0.25}

#: Scores are of the size of 1. Beyond these bounds products could leave what a float holds, and
#: with it what one row may add.
_LARGEST = 1e6
_ClipNorm = Annotated[float, Meta(ge=1e-6, le=1e6)]

_Column = Annotated[int, Meta(ge=0, le=65_535)]
_Numbers = tuple[float, ...]


def products(columns: int) -> int:
    """Return the number of products of two of `columns` scores, squares included."""
    return columns * (columns + 1) // 2


class MomentsRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which sums to release.

    With s the scores of a row's codes and c the centre of its condition, a row has the vector s
    (order 1) or s - c (order 2), scaled down to `clip_norm` where it is longer in L2. It adds the
    vector v itself, or all products: v_i^2 and sqrt(2) v_i v_j for i < j, whose L2 norm is |v|^2.
    It adds it to one group, and its share to that group's number of rows.

    Parameters
    ----------
    share : float
        Share of this plan's budget, in RDP.
    order : {1, 2}
        Sums of scores, or of products of centred scores.
    given : int
        The condition column.
    groups : int
        Codes of `given`, to be summed apart; 1: all rows together, for order 2 only.
    columns : tuple of int
        The columns that have scores, in ascending order, `given` not among them.
    scores : tuple of tuple of float
        One number for each code of each column.
    centres : tuple of tuple of float
        For order 2: by code of `given`, one number for each column.
    clip_norm : float
        L2 norm in units of the scores, 1e-6 to 1e6.

    Raises
    ------
    RangeError
        If parts do not fit together, or a number is beyond 1e6.
    """

    share: Annotated[float, Meta(gt=0.0, le=1.0)]
    order: Literal[1, 2]
    given: _Column
    groups: Annotated[int, Meta(ge=1, le=65_535)]
    columns: Annotated[tuple[_Column, ...], Meta(min_length=1, max_length=512)]
    scores: tuple[_Numbers, ...]
    centres: tuple[_Numbers, ...] = ()
    clip_norm: _ClipNorm

    def __post_init__(self) -> None:
        width = len(self.columns)
        if any(a >= b for a, b in itertools.pairwise(self.columns)):
            raise RangeError(f"moments: columns {list(self.columns)} are not in ascending order")
        if self.given in self.columns:
            raise RangeError(f"moments: column {self.given} is given and summed at once")
        if len(self.scores) != width:
            raise RangeError(f"moments: scores of {len(self.scores)} columns, not of {width}")
        if self.order == 1 and (self.centres or self.groups == 1):
            raise RangeError("moments: order 1 has no centres and sums every condition apart")
        if self.order == 2 and self.groups not in (1, len(self.centres)):
            raise RangeError(
                f"moments: {self.groups} groups and centres of {len(self.centres)} conditions"
            )
        if self.order == 2 and not self.centres:
            raise RangeError("moments: order 2 needs centres")
        if any(len(centre) != width for centre in self.centres):
            raise RangeError(f"moments: a centre does not have {width} numbers")
        numbers = itertools.chain(*self.scores, *self.centres)
        if not all(abs(number) <= _LARGEST for number in numbers):
            raise RangeError(f"moments: a score or centre is not within {_LARGEST:g} of 0")

    @property
    def width(self) -> int:
        """Numbers that one row adds to its group."""
        return len(self.columns) if self.order == 1 else products(len(self.columns))

    @property
    def unit(self) -> float:
        """What one unit of a sum stands for, in scores or products of scores."""
        return float(self.clip_norm**self.order) / MOMENT_UNITS

    @property
    def row_units(self) -> int:
        """Units that one row adds to the number of rows."""
        return round(_ROW_SHARE[self.order] * MOMENT_UNITS)

    @property
    def sensitivity_squared(self) -> int:
        """Squared L2 norm, in units, of the most that one row adds, rounding included."""
        # A rounded number is off by half a unit at most; one more for the rounding of the clipping.
        longest = MOMENT_UNITS + math.ceil(math.sqrt(self.width) / 2) + 1
        return longest**2 + self.row_units**2
