"""Rows that keep the constraints of their schema, made from codes.

Codes are checked first: a row is impossible when no values inside its bins could satisfy the
constraints. Then values are drawn inside the bins. Computed columns of sums follow from the other
columns; an order that the drawn values break is drawn again inside the same bins, so that a row
keeps its codes and the distribution of its values is the one given that the constraint holds. What
no draw could satisfy is left out, and the caller counts it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_runtime import kernel
from edge_runtime.schema.codec import Codec, decode_streams
from edge_runtime.schema.coded import Coded
from edge_runtime.schema.constraints import Combinations, Order, Sum, sums_in_order
from edge_runtime.schema.holding import Listed, order_broken, sum_gap, units
from edge_runtime.schema.table import Table

__all__ = ["Kept", "Rules"]

_C = TypeVar("_C", Order, Sum)

I32 = NDArray[np.int32]
F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: draws inside the bins of a row. Two columns in one bin are in order every second time, three
#: every sixth: of those, one row in 100,000 is left out.
_DRAWS = 64
#: streams of one draw are this far from those of the next, see `Codec.decode`
_NEXT_DRAW = 1 << 20


class Kept(NamedTuple):
    """Rows that keep the constraints: a table, and their places among the codes, intp [rows]."""

    table: Table
    rows: NDArray[np.intp]


class _Part(NamedTuple):
    """Constraints between numbers that share columns, and these columns in order."""

    orders: list[Order]
    sums: list[Sum]
    names: list[str]


class Rules:
    """The constraints of a codec's schema, applied to codes and to what they decode to.

    Parameters
    ----------
    codec : Codec
    """

    def __init__(self, codec: Codec) -> None:
        schema = codec.schema
        self._codec = codec
        self._columns = {column.name: column for column in schema.columns}
        self._orders = [c for c in schema.constraints if isinstance(c, Order)]
        self._sums = sums_in_order(schema.constraints)
        self._listed = [
            (
                [schema.index(name) for name in c.columns],
                Listed(c, [self._columns[name] for name in c.columns]),
            )
            for c in schema.constraints
            if isinstance(c, Combinations)
        ]
        self._parts = [
            _Part(
                [order for order in self._orders if set(order.columns) <= names],
                [constraint for constraint in self._sums if set(constraint.columns) <= names],
                [name for name in schema.names if name in names],
            )
            for names in _linked(
                [*(set(c.columns) for c in self._orders), *(set(c.columns) for c in self._sums)]
            )
        ]
        #: numeric columns that a constraint names
        self._numeric = [name for part in self._parts for name in part.names]
        self._ranges = {name: _with_missing(codec, name) for name in self._numeric}

    @property
    def active(self) -> bool:
        """Whether there is anything to keep."""
        return bool(self._codec.schema.constraints)

    @property
    def computed(self) -> tuple[int, ...]:
        """Columns whose values are computed from others, whatever their codes."""
        return tuple(self._codec.schema.index(constraint.target) for constraint in self._sums)

    def possible(
        self,
        codes: I32,
        *,
        computing: bool = True,
        among: Collection[str] | None = None,
        wished: Mapping[int, int] = MappingProxyType({}),
    ) -> Mask:
        """Say which rows have values inside their bins that keep all constraints.

        Never says no to a row that could; may say yes to one that cannot.

        Parameters
        ----------
        codes : int32 [rows, columns]
        computing : bool
            Computed columns may take any value within their bounds. False: they keep their codes.
        among : collection of str, optional
            Only constraints that name no other columns.
        wished : mapping of int to int
            Codes that computed columns are to have in the end.

        Returns
        -------
        bool [rows]
        """
        broken = np.zeros(len(codes), np.bool_)
        names = self._codec.schema.names
        for columns, listed in self._listed:
            if among is None or all(names[column] in among for column in columns):
                broken |= listed.unlisted(codes[:, columns])
        if not self._numeric:
            return ~broken
        least, most, missing = {}, {}, {}
        for name in self._numeric:
            low, high = self._ranges[name]
            own = codes[:, self._codec.schema.index(name)]
            least[name], most[name] = low[own], high[own]
            missing[name] = np.isnan(least[name])
        for constraint in _within(self._sums, among):
            gone = np.logical_or.reduce([missing[name] for name in constraint.columns])
            low, high = self._implied(constraint, least, most)
            target = constraint.target
            if computing:
                bottom, top = self._bounds(target, wished)
                # What the column becomes, for the constraints behind.
                least[target] = np.where(gone, least[target], np.maximum(low, bottom))
                most[target] = np.where(gone, most[target], np.minimum(high, top))
                broken |= ~gone & (least[target] > most[target])
            else:
                broken |= ~gone & ((low > most[target]) | (high < least[target]))
        for order in _within(self._orders, among):
            broken |= order_broken(
                order,
                [least[name] for name in order.columns],
                [most[name] for name in order.columns],
                [missing[name] for name in order.columns],
            )
        return ~broken

    def _bounds(self, name: str, wished: Mapping[int, int]) -> tuple[float, float]:
        """Bounds of a computed column, or of the bin that it is to be in."""
        low, high = self._columns[name].bounds
        code = wished.get(self._codec.schema.index(name))
        cuts = self._codec.bins[name].cuts
        if code is None or code > len(cuts):  # the code of a missing value: nothing is computed
            return low, high
        return float(cuts[code - 1]) if code else low, float(cuts[code]) if code < len(
            cuts
        ) else high

    def _implied(
        self, constraint: Sum, least: Mapping[str, F64], most: Mapping[str, F64]
    ) -> tuple[F64, F64]:
        """Range of a sum's target that the ranges of its other columns leave, with rounding."""
        slack = 0.5 / units(self._columns, constraint)
        others = [part for part in constraint.parts if part != constraint.target]
        low, high = (np.sum([side[name] for name in others], axis=0) for side in (least, most))
        if constraint.target != constraint.total:
            low, high = least[constraint.total] - high, most[constraint.total] - low
        return low - slack, high + slack

    def decode(self, codes: I32, *, key: bytes, stream: int = 0, offset: int = 0) -> Kept:
        """As `Codec.decode`, and keep the constraints between numbers.

        Combinations are a matter of codes alone: ask `possible` before.

        Parameters
        ----------
        codes : int32 [rows, columns]
        key, stream, offset
            As for `Codec.decode`. Whether a row is kept and what becomes of it depends on its
            codes, the key, the stream and its number in the stream alone.

        Returns
        -------
        Kept
        """
        table = self._codec.decode(codes, key=key, stream=stream, offset=offset)
        return self.settle(table, codes, key=key, stream=stream, offset=offset)

    def settle(
        self,
        table: Table,
        codes: I32,
        *,
        key: bytes,
        stream: int,
        offset: int = 0,
        free: Mapping[str, Mask] | None = None,
    ) -> Kept:
        """Make decoded rows keep the constraints between numbers.

        Parameters
        ----------
        table : Table
            What the codes decoded to.
        codes : int32 [rows, columns]
        key, stream, offset
            With which they were decoded.
        free : mapping of str to bool [rows], optional
            Cells that may be drawn again or computed; all when not given. Where a sum's own
            target may not change, another free column of it is computed.

        Returns
        -------
        Kept
        """
        rows = np.arange(table.rows)
        if not self._numeric or not len(rows):
            return Kept(table, rows)
        values = {name: table.columns[name].astype(np.float64) for name in self._numeric}
        missing = {name: table.missing[name] for name in self._numeric}
        open_cells = {
            name: ~missing[name] if free is None else free[name] & ~missing[name]
            for name in self._numeric
        }
        lost = np.zeros(table.rows, np.bool_)
        for part in self._parts:
            wrong = rows
            for draw in range(_DRAWS):
                if draw:
                    again = stream + draw * _NEXT_DRAW
                    cells = {name: wrong[open_cells[name][wrong]] for name in part.names}
                    self._draw(values, codes, cells, key=key, stream=again, offset=offset)
                for constraint in part.sums:
                    self._compute(constraint, values, missing, open_cells, wrong)
                wrong = wrong[self._broken(part, values, missing, open_cells, wrong)]
                if not len(wrong):
                    break
            lost[wrong] = True
        columns: dict[str, NDArray[Any] | Coded] = {
            name: table.columns.held(name) for name in table.columns
        }
        for name in self._numeric:
            kind = self._columns[name].kind
            settled = np.where(missing[name], 0.0, values[name])
            columns[name] = values[name] if kind == "number" else np.rint(settled).astype(np.int64)
        made = Table(
            schema=table.schema,
            columns=columns,
            missing=table.missing,
            file=table.file,
            first_row=table.first_row,
            synthetic=table.synthetic,
        )
        if not lost.any():
            return Kept(made, rows)
        kept = np.flatnonzero(~lost)
        return Kept(made.take(kept), kept)

    def _draw(
        self,
        values: dict[str, F64],
        codes: I32,
        cells: Mapping[str, NDArray[np.intp]],
        *,
        key: bytes,
        stream: int,
        offset: int,
    ) -> None:
        """Draw some cells again, inside their bins."""
        uniform = np.empty(len(codes), np.float32)
        for name, at in cells.items():
            bins = self._codec.bins[name]
            if bins.single_valued or not len(at):
                continue
            index = self._codec.schema.index(name)
            kernel.fill_uniform(
                uniform, key=key, stream=decode_streams(stream) + index, offset=offset
            )
            values[name][at] = bins.place(np.ascontiguousarray(codes[at, index]), uniform[at])

    def _compute(
        self,
        constraint: Sum,
        values: dict[str, F64],
        missing: Mapping[str, Mask],
        open_cells: Mapping[str, Mask],
        rows: NDArray[np.intp],
    ) -> None:
        """Set one open cell of each row so that the sum holds, the target where it is open."""
        there = ~np.logical_or.reduce([missing[name][rows] for name in constraint.columns])
        rows = rows[there]
        scale = units(self._columns, constraint)
        others = [name for name in reversed(constraint.columns) if name != constraint.target]
        for name in (constraint.target, *others):
            at = rows[open_cells[name][rows]]
            rows = rows[~open_cells[name][rows]]
            if not len(at):
                continue
            gap = sum_gap(constraint, {n: values[n][at] for n in constraint.columns}, scale)
            change = -gap if name == constraint.total else gap
            whole = np.rint(values[name][at] * scale) + change
            # The decimals of the finest column: fewer, where those of the others allow it.
            values[name][at] = np.round(whole / scale, int(np.log10(scale) + 0.5))

    def _broken(
        self,
        part: _Part,
        values: Mapping[str, F64],
        missing: Mapping[str, Mask],
        open_cells: Mapping[str, Mask],
        rows: NDArray[np.intp],
    ) -> Mask:
        """Say which of some rows break a constraint, or left the bounds; bool [len(rows)]."""
        broken = np.zeros(len(rows), np.bool_)
        for order in part.orders:
            own = [values[name][rows] for name in order.columns]
            gone = [missing[name][rows] for name in order.columns]
            broken |= order_broken(order, own, own, gone)
        for constraint in part.sums:
            own_values = {name: values[name][rows] for name in constraint.columns}
            gone_any = np.logical_or.reduce([missing[name][rows] for name in constraint.columns])
            scale = units(self._columns, constraint)
            broken |= ~gone_any & (sum_gap(constraint, own_values, scale) != 0)
            for name in constraint.columns:
                low, high = self._columns[name].bounds
                outside = (own_values[name] < low) | (own_values[name] > high)
                step = self._columns[name].resolution
                assert step is not None, "sums are of columns with a resolution"
                # A column of fewer decimals than the others cannot take every computed value.
                outside |= np.rint(own_values[name] * scale) % np.rint(step * scale) != 0
                # What is known may lie anywhere; what was computed may not.
                broken |= ~gone_any & outside & open_cells[name][rows]
        return broken


def _linked(groups: list[set[str]]) -> list[set[str]]:
    """Join groups that share members, directly or through others."""
    joined: list[set[str]] = []
    for group in groups:
        apart = [other for other in joined if not other & group]
        joined = [*apart, group.union(*(other for other in joined if other & group))]
    return joined


def _within(constraints: Sequence[_C], among: Collection[str] | None) -> list[_C]:
    return [c for c in constraints if among is None or set(c.columns) <= set(among)]


def _with_missing(codec: Codec, name: str) -> tuple[F64, F64]:
    """Return the ranges of a column's codes; NaN for missing values."""
    low, high = codec.bins[name].ranges()
    gone = np.full(int(codec.schema.columns[codec.schema.index(name)].nullable), np.nan)
    return np.concatenate([low, gone]), np.concatenate([high, gone])
