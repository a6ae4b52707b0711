"""The rows of a release: which of the pool, and values for their codes that keep the constraints.

Devices send codes, and rows drawn from merged counts know of no constraint. So rows of the pool
whose codes cannot keep the constraints are left out before anything is weighted, and a row whose
values cannot be settled is drawn anew among those of equal conditions. Both are counted.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.aggregator.drawing import condition_cells, draw_balanced, draw_weighted
from edge_runtime.aggregator.matching import Matched, match_pool
from edge_runtime.aggregator.pool import PoolRows
from edge_runtime.errors import AggregatorError
from edge_runtime.schema import Codec, Rules, Table

if TYPE_CHECKING:
    from edge_runtime.aggregator.release_book import ReleaseRecord
    from edge_runtime.aggregator.release_files import Seen

__all__ = ["DrawnRows", "draw_rows"]

I32 = npt.NDArray[np.int32]
Index = npt.NDArray[np.intp]

#: a row is drawn anew so often with its own conditions, and then so often with any
_TRIES_IN_CELL, _TRIES_ANYWHERE = 8, 8


class DrawnRows(NamedTuple):
    """What a release holds.

    `table` has the values, `codes` int32 [rows, D] their codes, `chosen` intp [rows] the rows of
    the pool that they are from. `constraints` counts what was left out for them, None where the
    schema has no constraints.
    """

    table: Table
    codes: I32
    chosen: Index
    constraints: dict[str, Any] | None


def draw_rows(seen: Seen, record: ReleaseRecord, *, key: bytes) -> DrawnRows:
    """Draw the rows of a release: the same for ever from the same record and what it saw.

    Parameters
    ----------
    seen : Seen
    record : ReleaseRecord
        Mode and number of rows.
    key : bytes
        32 public bytes.

    Raises
    ------
    AggregatorError
        If the constraints of the schema leave too few rows of the pool.
    """
    codec, conditions = seen.bundle.codec, seen.bundle.schema.conditions
    rules = Rules(codec)
    usable, pool = np.arange(len(seen.pool.codes)), seen.pool
    if rules.active:
        usable = np.flatnonzero(rules.possible(pool.codes))
        pool = pool.take(usable)
    matched = match_pool(
        pool, seen.rows_of, seen.anchor, raked=record.mode == "matched", conditions=conditions
    )
    weights = matched.weights
    if record.mode == "pool":
        weights = np.where(seen.from_counts[usable], 0.0, weights)
    if rules.active and not weights.sum():
        raise AggregatorError(
            "no row of the pool can keep the constraints of the schema: "
            f"{'; '.join(map(str, codec.schema.constraints))}"
        )
    _, cell = condition_cells(pool.codes, conditions)
    draw = draw_balanced if record.mode == "balanced" else draw_weighted
    chosen = draw(weights, record.rows, cell=cell, key=_key(key, "draw"))
    codes = matched.take(pool.codes, chosen, key=_key(key, "outcomes"))
    if not rules.active:
        return DrawnRows(codec.decode(codes, key=key, stream=0), codes, usable[chosen], None)
    settling = _Settling(pool, matched, weights, cell, codes=codes, chosen=chosen, key=key)
    table = settling.run(codec, rules)
    if rules.computed:
        computed = list(rules.computed)
        codes[:, computed] = codec.encode(table).codes[:, computed]
    left_out = np.delete(seen.from_counts, usable)
    constraints = {
        "pooled_rows_left_out": int((~left_out).sum()),
        "rows_from_counts_left_out": int(left_out.sum()) if record.mode != "pool" else 0,
        "rows_drawn": settling.drawn,
        "rows_rejected": settling.drawn - record.rows,
    }
    return DrawnRows(table, codes, usable[settling.chosen], constraints)


def _key(key: bytes, what: str) -> bytes:
    return hashlib.sha256(key + what.encode()).digest()


class _Settling:
    """Decodes chosen rows, and draws those anew that cannot keep the constraints."""

    def __init__(
        self,
        pool: PoolRows,
        matched: Matched,
        weights: npt.NDArray[np.float64],
        cell: Index,
        *,
        codes: I32,
        chosen: Index,
        key: bytes,
    ) -> None:
        self._pool, self._matched, self._weights, self._cell = pool, matched, weights, cell
        self._codes, self._key = codes, key
        self.chosen = chosen
        self.drawn = 0

    def run(self, codec: Codec, rules: Rules) -> Table:
        """Return the table of all rows; `chosen` and the codes are changed to what it holds."""
        waiting = np.arange(len(self._codes))
        places: list[Index] = []
        tables: list[Table] = []
        for attempt in range(_TRIES_IN_CELL + _TRIES_ANYWHERE):
            if attempt:
                self._again(waiting, attempt)
            self.drawn += len(waiting)
            # The outcome of a row may be new, and impossible beside its other codes.
            at = waiting[rules.possible(self._codes[waiting])]
            table, kept = rules.decode(
                np.ascontiguousarray(self._codes[at]), key=self._key, stream=attempt
            )
            tables.append(table)
            places.append(at[kept])
            waiting = np.setdiff1d(waiting, at[kept], assume_unique=True)
            if not len(waiting):
                return Table.concat(tables).take(np.argsort(np.concatenate(places)))
        raise AggregatorError(
            f"{len(waiting)} of {len(self._codes)} rows cannot keep the constraints of the schema "
            f"({'; '.join(map(str, codec.schema.constraints))}) after {self.drawn} draws; loosen "
            "them, or ask devices for more rows"
        )

    def _again(self, waiting: Index, attempt: int) -> None:
        """Choose other rows of the pool in place of some."""
        cells = self._cell[self.chosen[waiting]]
        if attempt > _TRIES_IN_CELL:
            cells = np.full(len(waiting), -1)
        for number in np.unique(cells):
            places = waiting[cells == number]
            members = np.flatnonzero((self._cell == number) | (number < 0))
            found = draw_weighted(
                self._weights[members],
                len(places),
                cell=np.zeros(len(members), np.intp),
                key=_key(self._key, f"draw {attempt} {number}"),
            )
            self.chosen[places] = members[found]
        self._codes[waiting] = self._matched.take(
            self._pool.codes, self.chosen[waiting], key=_key(self._key, f"outcomes {attempt}")
        )
