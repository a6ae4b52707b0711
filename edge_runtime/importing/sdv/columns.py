"""A column of SDV's as one of ours: declaration, bins, and where the graph cuts its values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import ModelImportError
from edge_runtime.importing.sdv.description import F64, Head, Output, Unit
from edge_runtime.schema import Column
from edge_runtime.schema.binning import bins_from_rows, bins_from_values
from edge_runtime.schema.numeric import NumericBins

__all__ = ["Coding", "code_output"]


#: bins of a numeric column. Within a bin a value no longer knows about other columns; with 64 that
#: costs no figure of the bench more than another seed of SDV does (docs/import-sdv.md).
_BINS = 64
_KNOTS = 8
#: digits kept of a continuous column's range, so that the codec's JSON stays short
_DIGITS = 6
#: most digits behind the point that a schema declares; more is continuous
_MOST_DECIMALS = 9
#: units that are coarser than a schema's second
_COARSE: frozenset[Unit] = frozenset({"Y", "M", "D", "h", "m"})


@dataclass(frozen=True, kw_only=True)
class Coding:
    """How a head becomes codes.

    Attributes
    ----------
    column : Column
    bins : NumericBins or None
        Of a numeric column.
    cuts : F64 or None
        Of a continuous head, increasing: interval k ends where ``value >= cuts[k]``. None for a
        discrete one.
    table : tuple of int
        Code of each category, or of each interval.
    """

    column: Column
    bins: NumericBins | None
    cuts: F64 | None
    table: tuple[int, ...]

    @property
    def missing(self) -> int:
        """The code for missing values, where the column has one."""
        return len(self.column.labels) if self.bins is None else self.bins.bins


def code_output(output: Output, head: Head, values: F64 | None) -> Coding:
    """Make the coding of one column.

    Parameters
    ----------
    output : Output
    head : Head
        Its head.
    values : F64, optional
        [n], values that the network itself drew, for a continuous head.

    Raises
    ------
    ModelImportError
        The column says two things at once.
    SchemaError
        Our schema cannot declare it: say, whole numbers beyond 2^53.
    """
    if output.values is not None:
        return _listed(output, head)
    if values is None or head.categories:
        raise ModelImportError(f"column {output.name!r} lists no values for its categories")
    return (
        _moments(output, head, values)
        if output.kind == "timestamp"
        else _numbers(output, head, values)
    )


def _nullable(output: Output) -> bool:
    return output.missing > 0 or output.gone is not None or None in (output.values or ())


def _listed(output: Output, head: Head) -> Coding:
    values = output.values or []
    due = head.categories or len(output.ends or ()) + 1
    if len(values) != due or bool(head.categories) == (output.ends is not None):
        raise ModelImportError(f"column {output.name!r} lists {len(values)} values, not {due}")
    present = list(dict.fromkeys(value for value in values if value is not None))
    bins = None
    if output.kind == "boolean":
        present = [False, True]
        column = Column(name=output.name, kind="boolean", nullable=_nullable(output))
    elif output.kind == "category":
        column = Column(
            name=output.name,
            kind="category",
            values=tuple(map(str, present)),
            nullable=_nullable(output),
        )
    else:
        present = sorted(present, key=float)
        points = np.array(present, np.float64)
        column = Column(
            name=output.name,
            kind=output.kind,
            low=points[0].item(),
            high=points[-1].item(),
            nullable=_nullable(output),
        )
        bins = NumericBins(column, cuts=(points[:-1] + points[1:]) / 2, points=points[:, None])
    code = {value: number for number, value in enumerate(present)}
    return Coding(
        column=column,
        bins=bins,
        cuts=None if output.ends is None else np.array(output.ends, np.float64),
        table=tuple(len(present) if value is None else code[value] for value in values),
    )


def _reach(head: Head, output: Output) -> F64:
    """Smallest and largest value that the head can have once it is clipped, [2]."""
    means, reach = np.array(head.means), 4 * np.array(head.stds)
    ends = np.array([(means - reach).min(), (means + reach).max()])
    return _clipped(ends, output)


def _clipped(values: F64, output: Output) -> F64:
    low = -np.inf if output.low is None else output.low
    high = np.inf if output.high is None else output.high
    return np.clip(values, low, high)


def _numbers(output: Output, head: Head, values: F64) -> Coding:
    ends = _reach(head, output)
    exact = output.decimals is not None and output.decimals <= _MOST_DECIMALS
    width = float(ends[1] - ends[0])
    if exact:
        digits = output.decimals or 0
    else:
        digits = _DIGITS - (math.floor(math.log10(width)) if width > 0 else 0)
    if exact:
        ends = np.round(ends, digits)
    column = Column(
        name=output.name,
        kind=output.kind,
        low=ends[0].item(),
        high=ends[1].item(),
        decimals=digits if exact and output.kind == "number" else None,
        nullable=_nullable(output),
    )
    seen = np.clip(np.round(_clipped(values, output), digits), *column.bounds)
    bins = bins_from_rows(column, seen, max_bins=_BINS, knots=_KNOTS)
    cuts = bins.cuts
    if exact:
        # A value is rounded before it is cut: the least number of these digits that is not below
        # the cut takes all from half a step below itself.
        step = 10.0**-digits
        cuts = (np.ceil(cuts / step - 1e-6) - 0.5) * step
    return _binned(column, bins, cuts)


def _moments(output: Output, head: Head, values: F64) -> Coding:
    unit = output.unit or "us"
    low, high = _cut_down(_reach(head, output), unit).tolist()
    column = Column(
        name=output.name,
        kind="timestamp",
        low=low,
        high=high,
        decimals=6 if unit == "us" else None,
        nullable=_nullable(output),
    )
    seen = _cut_down(_clipped(values, output), unit).astype(np.float64)
    if unit in _COARSE:
        # Days and the like are listed: a schema's finest step would put them at any second.
        distinct, counts = np.unique(seen, return_counts=True)
        bins = bins_from_values(
            column, distinct, counts.astype(np.float64), rows=len(seen), max_bins=_BINS
        )
    else:
        bins = bins_from_rows(column, seen, max_bins=_BINS, knots=_KNOTS)
    # The first moment of the unit that is not below the cut, in nanoseconds.
    cuts = np.ceil(bins.cuts).astype("i8").view("M8[us]")
    first = cuts.astype(f"M8[{unit}]")
    first = first + (first.astype("M8[us]") < cuts)
    return _binned(column, bins, first.astype("M8[us]").astype("i8") * 1e3)


def _cut_down(nanoseconds: F64, unit: Unit) -> NDArray[np.int64]:
    """Microseconds of moments cut down to a unit, as strftime and strptime leave them."""
    moments = np.rint(nanoseconds).astype("i8").view("M8[ns]")
    return moments.astype(f"M8[{unit}]").astype("M8[us]").astype("i8")


def _binned(column: Column, bins: NumericBins, cuts: F64) -> Coding:
    return Coding(column=column, bins=bins, cuts=cuts, table=tuple(range(bins.bins)))
