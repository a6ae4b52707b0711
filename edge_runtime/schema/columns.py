"""One column of a table, as the public declaration that every part of a fleet agrees on.

Nothing in a `Column` may come from private rows without being paid for: bounds and categories are
what is known before looking (a sensor's range, a list of airports), because they travel in clear.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

from edge_runtime.errors import SchemaError

__all__ = [
    "NUMERIC_KINDS",
    "Column",
    "Kind",
    "format_timestamp",
    "parse_timestamp",
    "repeats",
]

Kind = Literal["number", "integer", "category", "boolean", "timestamp"]

#: kinds that live on a number line and therefore have bounds
NUMERIC_KINDS = frozenset({"number", "integer", "timestamp"})

#: float64 holds every integer up to here, and bins are float64
_EXACT_INTEGER = 2**53

#: with the step of a window behind it, 1,024 bytes in any script: what readers of batches accept
_MOST_NAME_CHARS = 255
#: Control characters and surrogates, and what turns the direction of writing: Arrow's names end at
#: a NUL, and the rest makes a name look like another one.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def repeats(names: Iterable[str]) -> list[str]:
    """Return what is listed more than once, sorted; in time that does not grow with the square."""
    return sorted(name for name, times in Counter(names).items() if times > 1)


def parse_timestamp(text: str) -> int:
    """Return the microseconds since 1970-01-01 UTC of an ISO 8601 date or time; no zone means UTC.

    Parameters
    ----------
    text : str
        For example ``2013-01-01``, ``2013-01-01T10:00:00Z``, ``2013-01-01 10:00:00+02:00``.

    Returns
    -------
    int
        Microseconds, exact.

    Raises
    ------
    ValueError
        The text is not ISO 8601.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // _MICROSECOND


def format_timestamp(microseconds: int) -> str:
    """Return ISO 8601 text in UTC of microseconds since 1970-01-01.

    Parameters
    ----------
    microseconds : int
        Microseconds since the epoch.

    Returns
    -------
    str
        For example ``2013-01-01T10:00:00Z``; `parse_timestamp` reads it back exactly.
    """
    moment = _EPOCH + int(microseconds) * _MICROSECOND
    return moment.isoformat().replace("+00:00", "Z")


class Column(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The public declaration of one column.

    Parameters
    ----------
    name : str
        The column's name in the source.
    kind : {"number", "integer", "category", "boolean", "timestamp"}
        What its values are.
    low, high : float, optional
        Public inclusive bounds of numeric kinds; values outside are clamped and counted.
        Timestamps: microseconds since 1970-01-01 UTC here, ISO 8601 text in the schema file.
    unit : str
        For people, for example ``"minutes"``.
    decimals : int, optional
        Digits behind the point of a number (0 to 9); of the second, for a timestamp (0 to 6,
        0 when not given). None leaves a number continuous.
    values : tuple of str
        The categories, in code order.
    other : bool
        Values that are not among `values` become the category ``other``.
    nullable : bool
        Values may be missing.
    condition : bool
        Rows may be asked for by this column's value; condition columns come first.

    Raises
    ------
    SchemaError
        The declaration contradicts itself.
    """

    name: str
    kind: Kind
    low: float | None = None
    high: float | None = None
    unit: str = ""
    decimals: int | None = None
    values: tuple[str, ...] = ()
    other: bool = False
    nullable: bool = False
    condition: bool = False

    def __post_init__(self) -> None:
        if not self.name or self.name != self.name.strip():
            raise SchemaError(f"column name {self.name!r} is empty or has spaces around it")
        if len(self.name) > _MOST_NAME_CHARS:
            raise SchemaError(
                f"column name {self.name[:40]!r}... has {len(self.name)} characters; at most "
                f"{_MOST_NAME_CHARS} fit into a batch"
            )
        if _UNSAFE.search(self.name):
            raise SchemaError(
                f"column name {self.name!r} has a control character or one that turns the "
                "direction of writing; rename the column"
            )
        for bound in ("low", "high"):
            value = getattr(self, bound)
            if isinstance(value, int):  # 0 and 0.0 are one declaration with one digest
                msgspec.structs.force_setattr(self, bound, float(value))
        if self.kind in NUMERIC_KINDS:
            self._check_numeric()
        else:
            self._check_labels()

    def _check_numeric(self) -> None:
        place = f"column {self.name!r} ({self.kind})"
        if self.values or self.other:
            raise SchemaError(f"{place}: only a category has values or other")
        if self.low is None or self.high is None:
            raise SchemaError(
                f"{place} needs low and high: public bounds, known without looking at the rows"
            )
        if not (math.isfinite(self.low) and math.isfinite(self.high)) or self.low > self.high:
            raise SchemaError(f"{place}: bounds {self.low} .. {self.high} are not a finite range")
        most = {"number": 9, "integer": 0, "timestamp": 6}[self.kind]
        if self.decimals is not None and not 0 <= self.decimals <= most:
            raise SchemaError(f"{place}: decimals is {self.decimals}, allowed are 0 to {most}")
        if self.kind != "number":
            if not (self.low.is_integer() and self.high.is_integer()):
                raise SchemaError(f"{place}: bounds {self.low} .. {self.high} are not whole")
            if max(abs(self.low), abs(self.high)) > _EXACT_INTEGER:
                raise SchemaError(f"{place}: bounds beyond 2^53 are not exact; scale the column")

    def _check_labels(self) -> None:
        place = f"column {self.name!r} ({self.kind})"
        if self.low is not None or self.high is not None or self.decimals is not None:
            raise SchemaError(f"{place}: low, high and decimals are for numeric kinds only")
        if self.kind == "boolean" and (self.values or self.other):
            raise SchemaError(f"{place}: a boolean has no values of its own; use a category")
        if self.kind == "category":
            if not self.values and not self.other:
                raise SchemaError(f"{place} needs values: the public list of its categories")
            if len(set(self.values)) != len(self.values):
                raise SchemaError(f"{place}: values {repeats(self.values)} are listed twice")
            if self.other and OTHER in self.values:
                raise SchemaError(f"{place}: {OTHER!r} is a value and other is set; drop one")
            if "" in self.values:
                raise SchemaError(f"{place}: an empty text means missing; set nullable instead")

    @property
    def numeric(self) -> bool:
        """Whether the column lives on a number line (number, integer, timestamp)."""
        return self.kind in NUMERIC_KINDS

    @property
    def bounds(self) -> tuple[float, float]:
        """Low and high of a numeric column.

        Raises
        ------
        SchemaError
            The column is a category or a boolean.
        """
        if self.low is None or self.high is None:
            raise SchemaError(f"column {self.name!r} ({self.kind}) has no bounds")
        return self.low, self.high

    @property
    def resolution(self) -> float | None:
        """Distance of neighbouring values of a numeric column; None when it is continuous."""
        if self.kind == "integer":
            return 1.0
        if self.kind == "timestamp":
            return float(10 ** (6 - (self.decimals or 0)))
        if self.kind == "number" and self.decimals is not None:
            return 10.0**-self.decimals
        return None

    @property
    def labels(self) -> tuple[str, ...]:
        """Texts of a category's or boolean's codes, `other` last, without missing."""
        if self.kind == "boolean":
            return ("false", "true")
        return self.values + ((OTHER,) if self.other else ())


#: how the category for unlisted values is called in decoded tables
OTHER = "other"
