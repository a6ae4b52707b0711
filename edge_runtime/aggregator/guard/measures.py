"""What a generator keeps of the anchor: tails, rare categories, dependence, subgroup rates.

Each measure is a figure of generated rows beside the anchor's, with the standard error of their
difference from the anchor's noise, the finite number of generated rows and the finite number of
real ones. Held-out likelihood alone is no substitute: it hardly moves when a rare group vanishes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.aggregator.anchor import Table
from edge_runtime.aggregator.guard.distance import (
    counts_of,
    dependence,
    marginal,
    rows_behind,
    rows_of,
)
from edge_runtime.schema import Codec

__all__ = ["ColumnFacts", "Measure", "column_facts", "measure"]

F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]

#: outer codes are tails up to this share of the rows on each side
_TAIL_SHARE = 0.05

#: codes with a smaller share are rare
_RARE_SHARE = 0.05

#: a figure of the anchor counts when it exceeds so many deviations of its own noise
_CERTAIN = 4.0

#: rows of a group below which its rate says nothing
_GROUP_ROWS = 50.0

#: codes up to which a column is taken for an outcome, or for a grouping
_OUTCOME_CODES, _GROUP_CODES = 12, 64


class ColumnFacts(NamedTuple):
    """What must be known of a column.

    `ordered` codes from 0 on are in order (a numeric column's bins), 0 for categories; `outcome`
    says whether rates of this column within groups are watched; `label` names a code.
    """

    name: str
    ordered: int
    outcome: bool
    label: Callable[[int], str]


class Measure(NamedTuple):
    """One figure: `kind` is "tails", "rare", "pairs" or "subgroup", `subject` what it is about.

    `error` is the standard error of `value - expected`. Smaller is worse for all kinds but
    "subgroup", where the difference counts; `overall` is then the rate over all groups.
    """

    kind: str
    subject: str
    value: float
    expected: float
    error: float
    overall: float = math.nan

    @property
    def kept(self) -> float:
        """How much is kept: 1 all of it, 0 nothing; for subgroups 1 less the absolute gap."""
        if self.kind == "subgroup":
            return 1.0 - abs(self.value - self.expected)
        return self.value / self.expected if self.expected > 0 else 1.0

    @property
    def kept_error(self) -> float:
        """Standard error of `kept`."""
        if self.kind == "subgroup":
            return self.error
        return self.error / self.expected if self.expected > 0 else 0.0


def column_facts(codec: Codec) -> tuple[ColumnFacts, ...]:
    """Return the facts of a codec's columns; conditions and booleans are outcomes."""

    def labels(d: int) -> Callable[[int], str]:
        return lambda code: codec.label(d, code)

    return tuple(
        ColumnFacts(
            name=column.name,
            ordered=codec.bins[column.name].bins if column.numeric else 0,
            outcome=column.condition or column.kind == "boolean",
            label=labels(d),
        )
        for d, column in enumerate(codec.schema.columns)
    )


def measure(codes: I32, tables: Iterable[Table], columns: Sequence[ColumnFacts]) -> list[Measure]:
    """Measure generated rows against the anchor's tables.

    Parameters
    ----------
    codes : int32 [n, D]
        Rows sampled from the generator, without conditions.
    tables : iterable of Table
        The anchor's, of one or more columns each.
    columns : sequence of ColumnFacts
        Of all columns.

    Returns
    -------
    list of Measure
        Only those about which the anchor is certain.
    """
    tables = list(tables)
    known = rows_of(tables)
    found: list[Measure] = []
    for d, facts in enumerate(columns):
        table = marginal(tables, (d,))
        if table is None:
            continue
        rows, _ = rows_behind(table, *known)
        share = counts_of(codes, table) / max(1, len(codes))
        if facts.ordered:
            found += _tails(facts, share, table, rows=rows, sampled=len(codes))
        else:
            found += _rare(facts, share, table, rows=rows, sampled=len(codes))
    for key in sorted({pair for table in tables for pair in _pairs_of(table)}):
        table = marginal(tables, key)
        assert table is not None
        rows, _ = rows_behind(table, *known)
        share = counts_of(codes, table).reshape(table.counts.shape) / max(1, len(codes))
        kept = _dependence(columns, share, table, rows=rows, sampled=len(codes))
        if kept is not None:
            found.append(kept)
        for axis in (0, 1):
            if columns[key[axis]].outcome:
                found += _rates(columns, share, table, axis, rows=rows, sampled=len(codes))
    return found


def _pairs_of(table: Table) -> list[tuple[int, int]]:
    d = table.columns
    return [(d[i], d[j]) for i in range(len(d)) for j in range(i + 1, len(d))]


def _share_measure(
    kind: str, subject: str, value: float, expected: float,
    *, cells: int, table: Table, rows: float, sampled: int,
) -> Measure | None:  # fmt: skip
    """Return the measure of a share of rows, if the anchor is certain that it is not zero."""
    noise = math.sqrt(cells * table.variance) / rows
    if expected <= _CERTAIN * noise or expected * rows < _GROUP_ROWS:
        return None
    likely = min(1.0, max(value, expected))
    error = math.sqrt(noise**2 + likely * (1 - likely) * (1 / max(1, sampled) + 1 / rows))
    return Measure(kind, subject, value, expected, error)


def _tails(
    facts: ColumnFacts, share: F64, table: Table, *, rows: float, sampled: int
) -> list[Measure]:
    """Mass of the outer bins on each side of a numeric column."""
    real = table.counts[: facts.ordered] / rows
    if facts.ordered < 4:
        return []
    found = []
    for side, order in (
        ("lowest", np.arange(facts.ordered)),
        ("highest", np.arange(facts.ordered)[::-1]),
    ):
        mass = np.cumsum(np.maximum(real[order], 0.0))
        cells = max(1, int(np.count_nonzero(mass <= _TAIL_SHARE)))
        outer = order[:cells]
        if mass[cells - 1] > 2 * _TAIL_SHARE:
            continue  # a heavy outer value is no tail
        text = facts.label(int(outer.min())) if side == "highest" else facts.label(int(outer.max()))
        towards = f"from {text} on" if side == "highest" else f"up to {text}"
        made = _share_measure(
            "tails",
            f"{facts.name}, {side} values ({towards})",
            float(share[outer].sum()),
            float(real[outer].sum()),
            cells=cells,
            table=table,
            rows=rows,
            sampled=sampled,
        )
        if made is not None:
            found.append(made)
    return found


def _rare(
    facts: ColumnFacts, share: F64, table: Table, *, rows: float, sampled: int
) -> list[Measure]:
    """Shares of the categories that few rows have."""
    real = table.counts / rows
    found = []
    for code in np.flatnonzero(real < _RARE_SHARE).tolist():
        made = _share_measure(
            "rare",
            f"{facts.name}={facts.label(code)}",
            float(share[code]),
            float(real[code]),
            cells=1,
            table=table,
            rows=rows,
            sampled=sampled,
        )
        if made is not None:
            found.append(made)
    return found


def _dependence(
    columns: Sequence[ColumnFacts], share: F64, table: Table, *, rows: float, sampled: int
) -> Measure | None:
    """How much of the anchor's dependence between two columns the rows have."""
    kept = dependence(share, table, sample=sampled, rows=rows)
    if kept.square <= 0 or kept.square < _CERTAIN * kept.spread:
        return None
    value = kept.product / kept.square
    error = math.sqrt(kept.variance + (value * kept.spread) ** 2) / kept.square
    a, b = (columns[d].name for d in table.columns)
    return Measure("pairs", f"{a} and {b}", value, 1.0, error)


def _rates(
    columns: Sequence[ColumnFacts], share: F64, table: Table, axis: int,
    *, rows: float, sampled: int,
) -> list[Measure]:  # fmt: skip
    """Rates of an outcome within the groups of another column."""
    outcome, group = columns[table.columns[axis]], columns[table.columns[1 - axis]]
    real = (table.counts if axis == 1 else table.counts.T) / rows  # [groups, outcomes]
    made = share if axis == 1 else share.T
    groups, outcomes = real.shape
    if outcomes > _OUTCOME_CODES or groups > _GROUP_CODES or (group.outcome and axis == 0):
        return []
    size, made_size = real.sum(axis=1), made.sum(axis=1)
    known = (size * rows > max(_GROUP_ROWS, _CERTAIN * math.sqrt(outcomes * table.variance))) & (
        made_size * sampled > _GROUP_ROWS
    )
    found = []
    # Of two outcomes one says everything.
    for o in range(1 if outcomes == 2 else 0, outcomes):
        for g in np.flatnonzero(known).tolist():
            expected = min(1.0, max(0.0, float(real[g, o] / size[g])))
            value = float(made[g, o] / made_size[g])
            noise = table.variance * (1 + outcomes * expected**2) / (rows * size[g]) ** 2
            likely = min(max(value, expected, 1e-3), 1 - 1e-3) if expected < 1 else 0.5
            sampling = likely * (1 - likely) * (1 / (made_size[g] * sampled) + 1 / (size[g] * rows))
            found.append(
                Measure(
                    "subgroup",
                    f"rate of {outcome.name}={outcome.label(o)} where "
                    f"{group.name}={group.label(g)}",
                    value,
                    expected,
                    math.sqrt(noise + sampling),
                    float(real[:, o].sum()),
                )
            )
    return found
