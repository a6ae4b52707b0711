"""Drafting a schema from rows, and saying what a person must decide about it.

A draft reads bounds and categories from the rows, which is exactly what a public schema must not
do: each such place is named in a note, for a person to replace by what is known without looking.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import DataError, SchemaError
from edge_runtime.schema.columns import Column, format_timestamp, parse_timestamp
from edge_runtime.schema.schema import Schema
from edge_runtime.schema.sources import Raw, Source, raw_chunks, source_name
from edge_runtime.schema.values import MISSING_TOKENS
from edge_runtime.schema.watermark import refuse_synthetic

__all__ = ["infer_schema"]

#: categories listed in a draft; the rest becomes `other`
_LISTED_VALUES = 128

#: distinct values remembered per column before it counts as free text
_REMEMBERED = 10_000

#: digits behind the point up to which a number is taken to be rounded, not continuous
_DECIMALS = 6

_DAY = 86_400_000_000


def infer_schema(
    source: Source,
    *,
    name: str | None = None,
    conditions: Iterable[str] = (),
    synthetic: bool = False,
) -> tuple[Schema, tuple[str, ...]]:
    """Draft a schema from a table.

    Parameters
    ----------
    source : path, open text file, frame or mapping
        As for `read_table`.
    name : str, optional
        The schema's name; by default the file's, or ``"table"``.
    conditions : iterable of str
        Names of condition columns; they move to the front.
    synthetic : bool
        Whether rows marked as synthetic are welcome, as for `read_table`.

    Returns
    -------
    schema : Schema
        The draft.
    notes : tuple of str
        What a person must decide before the schema is fit to be public.

    Raises
    ------
    DataError
        The source cannot be read, has no usable column, or is marked as synthetic and not welcome.
    SchemaError
        A condition names no column.
    """
    file = source_name(source)
    drafts: dict[str, _Draft] = {}
    for chunk in raw_chunks(source, names=None, file=file):
        if not synthetic:
            refuse_synthetic(chunk.synthetic, file=file)
        for column, raw in chunk.columns.items():
            drafts.setdefault(str(column), _Draft(str(column))).add(raw)
    wanted = tuple(conditions)
    unknown = [column for column in wanted if column not in drafts]
    if unknown:
        raise SchemaError(f"{file} has no column {unknown[0]!r}; it has {', '.join(drafts)}")
    columns: list[Column] = []
    notes: list[str] = []
    for draft in drafts.values():
        drafted, said = draft.finish(condition=draft.name in wanted)
        notes += [f"column {draft.name!r}: {note}" for note in said]
        if drafted is not None:
            columns.append(drafted)
    if not columns:
        raise DataError("has no column that a schema could be drafted from", file=file)
    lost = set(wanted) - {column.name for column in columns}
    if lost:
        raise SchemaError(
            f"column {sorted(lost)[0]!r} of {file} cannot be a condition: it is left out"
        )
    if not wanted:
        notes.append(
            "no condition columns: set condition for those whose values you want to ask for "
            "(--condition NAME); they come first"
        )
    notes.append(
        "privacy_unit is 'row': the budget protects one row; if a person or a machine has "
        "several rows, it protects each of them, not all together"
    )
    title = name or (Path(source).name.split(".")[0] if isinstance(source, str | Path) else "table")
    return Schema.ordered(name=title, columns=columns), tuple(notes)


class _Draft:
    """What has been seen of one column."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows = 0
        self.missing = 0
        self.texts: Counter[str] = Counter()  # distinct values that are not numbers or moments
        self.numbers: Counter[float] = Counter()
        self.moments: Counter[int] = Counter()
        self.number_rows = self.moment_rows = self.boolean_rows = 0
        self.low, self.high = math.inf, -math.inf
        self.decimals = 0
        self.text_overflow = False

    def add(self, raw: Raw) -> None:
        """Take in a chunk."""
        self.rows += len(raw)
        if isinstance(raw, np.ndarray) and raw.dtype.kind == "f":
            present = raw[~np.isnan(raw)]
            self.missing += len(raw) - len(present)
            distinct, counts = np.unique(present, return_counts=True)
            self._add_numbers(distinct, counts)
            return
        listed: list[Any] = raw.tolist() if isinstance(raw, np.ndarray) else list(raw)
        if isinstance(raw, np.ndarray) and raw.dtype.kind == "M":
            listed = raw.astype("datetime64[us]").tolist()
        numbers: Counter[float] = Counter()
        for value, count in Counter(listed).items():
            if value is None or value in MISSING_TOKENS or value != value:  # noqa: PLR0124 - NaN
                self.missing += count
            elif isinstance(value, bool) or str(value).lower() in ("true", "false"):
                self.boolean_rows += count
                self.texts[str(value).lower()] += count
            elif (number := _number(value)) is not None:
                numbers[number] += count
                self.texts[str(value)] += count
            elif (moment := _moment(value)) is not None:
                self.moments[moment] += count
                self.moment_rows += count
                self.texts[str(value)] += count
            else:
                self.texts[str(value)] += count
        self._add_numbers(
            np.array(list(numbers), np.float64), np.array(list(numbers.values()), np.int64)
        )
        for counter in (self.texts, self.moments):
            if len(counter) > _REMEMBERED:
                self._bound_moments()
                self.text_overflow = True
                _forget(counter)

    def _add_numbers(self, distinct: NDArray[np.float64], counts: NDArray[np.int64]) -> None:
        if not len(distinct):
            return
        self.number_rows += int(counts.sum())
        self.low = min(self.low, float(distinct.min()))
        self.high = max(self.high, float(distinct.max()))
        while self.decimals <= _DECIMALS and not np.array_equal(
            np.round(distinct, self.decimals), distinct
        ):
            self.decimals += 1
        self.numbers.update(dict(zip(distinct.tolist(), counts.tolist(), strict=True)))
        if len(self.numbers) > _REMEMBERED:
            _forget(self.numbers)

    def _bound_moments(self) -> None:
        if self.moments:
            self.low = min(self.low, float(min(self.moments)))
            self.high = max(self.high, float(max(self.moments)))

    def finish(self, *, condition: bool) -> tuple[Column | None, list[str]]:
        """Return the drafted column (None: left out) and what to decide about it."""
        present = self.rows - self.missing
        if not present:
            return None, ["has no values and is left out"]
        common: dict[str, Any] = {
            "name": self.name,
            "nullable": self.missing > 0,
            "condition": condition,
        }
        if self.boolean_rows == present:
            return Column(kind="boolean", **common), []
        if self.number_rows == present:
            column, notes = self._numeric(common)
        elif self.moment_rows == present:
            column, notes = self._timestamp(common)
        else:
            return self._category(common, present)
        if condition and column.kind != "boolean" and len(self.numbers) > _LISTED_VALUES:
            notes.append("has many values for a condition; asking for one means its whole bin")
        return column, notes

    def _numeric(self, common: dict[str, Any]) -> tuple[Column, list[str]]:
        if set(self.numbers) == {0.0, 1.0}:
            return Column(kind="boolean", **common), ["holds 0 and 1 only: drafted as a boolean"]
        whole = self.decimals == 0
        small = whole and self.high - self.low < _LISTED_VALUES
        low, high = (self.low, self.high) if small else _rounded_outward(self.low, self.high)
        notes = [
            f"bounds {low:g} .. {high:g} were read from the rows; bounds are public: replace them "
            "by what is known without looking"
        ]
        most = self.numbers.most_common(1)[0][1]
        if whole and most <= 2 and self.number_rows > _LISTED_VALUES:
            notes.append(
                "hardly any value occurs twice: leave it out if it is the number of a person or "
                "a thing"
            )
        if whole:
            return Column(kind="integer", low=low, high=high, **common), notes
        decimals = self.decimals if self.decimals <= _DECIMALS else None
        return Column(kind="number", low=low, high=high, decimals=decimals, **common), notes

    def _timestamp(self, common: dict[str, Any]) -> tuple[Column, list[str]]:
        self._bound_moments()
        low = math.floor(self.low / _DAY) * _DAY
        high = math.ceil((self.high + 1) / _DAY) * _DAY
        decimals = next((d for d in (0, 3) if all(m % 10 ** (6 - d) == 0 for m in self.moments)), 6)
        column = Column(
            kind="timestamp", low=float(low), high=float(high), decimals=decimals or None, **common
        )
        return column, [
            f"bounds {format_timestamp(low)} .. {format_timestamp(high)} were read from the rows; "
            "bounds are public: replace them by what is known without looking"
        ]

    def _category(self, common: dict[str, Any], present: int) -> tuple[Column | None, list[str]]:
        distinct = len(self.texts)
        if self.text_overflow or (distinct > _LISTED_VALUES and distinct > present / 2):
            return None, [
                "holds free text or identifiers, which no generator should repeat; left out"
            ]
        listed = sorted(text for text, _ in self.texts.most_common(_LISTED_VALUES))
        other = distinct > _LISTED_VALUES or "other" in listed
        values = tuple(text for text in listed if text != "other")
        notes = [
            f"its {len(values)} values were read from the rows; the list is public: replace it by "
            "what is known without looking"
        ]
        if distinct > _LISTED_VALUES:
            notes.append(
                f"{distinct - _LISTED_VALUES} rarer values become 'other'; list them if they matter"
            )
        elif not other:
            notes.append("an unlisted value will be refused; set other to accept it as 'other'")
        return Column(kind="category", values=values, other=other, **common), notes


def _forget(counter: Counter[Any]) -> None:
    """Keep the frequent values only, so that memory stays bounded."""
    kept = counter.most_common(_REMEMBERED // 2)
    counter.clear()
    counter.update(dict(kept))


def _number(value: object) -> float | None:
    if isinstance(value, str) and "_" in value:
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _moment(value: object) -> int | None:
    text = value if isinstance(value, str) else getattr(value, "isoformat", str)()
    try:
        return parse_timestamp(str(text))
    except ValueError:
        return None


def _rounded_outward(low: float, high: float) -> tuple[float, float]:
    """Bounds on a round tenth of the range's order of magnitude, so that they quote no row."""
    step = 10.0 ** math.floor(math.log10(max(high - low, abs(high), 1e-9))) / 10
    digits = max(0, -math.floor(math.log10(step)))
    return (
        round(math.floor(low / step) * step, digits),
        round(math.ceil(high / step) * step, digits),
    )
