"""From texts and Python objects to one typed array per column, or a `DataError` that says where.

Each kind has a fast path over whole chunks and a path over single values. The second runs only
when the first fails, and exists to name the row and the value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import DataError
from edge_runtime.schema.columns import Column, parse_timestamp

__all__ = ["MISSING_TOKENS", "Place", "TypedColumn", "a_kind", "typed_column"]

#: texts that mean a missing value, unless the column declares them as one of its categories
MISSING_TOKENS: tuple[str, ...] = ("", "NA", "N/A", "nan", "NaN", "null", "NULL", "None")

_BOOLEANS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1", "1.0"), 1),
    **dict.fromkeys(("false", "f", "no", "n", "0", "0.0"), 0),
}

_LARGEST_EXACT = 2.0**53

Array = NDArray[Any]
Mask = NDArray[np.bool_]


class Place(NamedTuple):
    """Where a chunk of values came from, for error messages.

    Attributes
    ----------
    file : str
        The file, or a word for the frame.
    row : int
        Number of the chunk's first data row, counted from 1.
    """

    file: str
    row: int


class TypedColumn(NamedTuple):
    """A column's values with the mask of the missing ones.

    Attributes
    ----------
    values : ndarray
        [rows], dtype by kind: number float64 (NaN missing), integer and timestamp int64
        (0 missing), boolean int8 (-1 missing), category object (None missing).
    missing : bool ndarray
        [rows]
    """

    values: Array
    missing: Mask


def a_kind(column: Column) -> str:
    """Return a column's kind with its article, for error messages."""
    return f"{'an' if column.kind[0] in 'aeiou' else 'a'} {column.kind}"


def typed_column(
    column: Column,
    raw: Sequence[object] | Array,
    *,
    place: Place,
    missing_tokens: tuple[str, ...] = MISSING_TOKENS,
) -> TypedColumn:
    """Turn raw values into the array that a column's kind calls for.

    Parameters
    ----------
    column : Column
        The declaration. Bounds and categories are not checked here: encoding clamps and counts.
    raw : sequence
        Texts, Python objects, or a NumPy array.
    place : Place
        For error messages.
    missing_tokens : tuple of str
        Texts that mean missing.

    Returns
    -------
    TypedColumn

    Raises
    ------
    DataError
        A value of a wrong type, or a missing value in a column that is not nullable.
    """
    tokens = frozenset(missing_tokens) - frozenset(column.values)
    typed = _fast(column, raw, tokens)
    if typed is None:
        typed = _one_by_one(column, raw, tokens, place)
    if not column.nullable and typed.missing.any():
        row = int(np.argmax(typed.missing))
        raise DataError(
            "a value is missing",
            file=place.file,
            row=place.row + row,
            column=column.name,
            hint="set nullable in the schema if values may be missing",
        )
    return typed


def _fast(
    column: Column, raw: Sequence[object] | Array, tokens: frozenset[str]
) -> TypedColumn | None:
    """Return the typed column when every value is of one expected form, else None."""
    if isinstance(raw, np.ndarray) and raw.dtype.kind != "O":
        return _from_array(column, raw)
    if column.kind == "category":
        return _texts(column, raw, tokens)
    if column.kind in ("number", "integer"):
        return _numbers(column, raw, tokens)
    return None


def _from_array(column: Column, raw: Array) -> TypedColumn | None:
    kind = raw.dtype.kind
    if column.kind == "timestamp" and kind == "M":
        missing = np.isnat(raw)
        moments = raw.astype("datetime64[us]").astype(np.int64)
        return TypedColumn(np.where(missing, 0, moments), missing)
    if column.kind == "boolean" and kind == "b":
        return TypedColumn(raw.astype(np.int8), np.zeros(len(raw), np.bool_))
    if column.kind in ("number", "integer") and kind in "iuf":
        values = raw.astype(np.float64)
        return _checked_numbers(column, values, np.isnan(values))
    return None


def _texts(
    column: Column, raw: Sequence[object] | Array, tokens: frozenset[str]
) -> TypedColumn | None:
    if not all(type(value) is str or value is None for value in raw):
        return None
    # A reader makes a new text for each field; sharing the declared ones keeps memory bounded.
    shared: dict[object, object] = {value: value for value in column.values}
    shared.update(dict.fromkeys(tokens))
    values = np.empty(len(raw), object)
    values[:] = [shared.get(value, value) for value in raw]
    missing = np.fromiter((value is None for value in values), np.bool_, len(raw))
    return TypedColumn(values, missing)


def _numbers(
    column: Column, raw: Sequence[object] | Array, tokens: frozenset[str]
) -> TypedColumn | None:
    # NumPy reads "1_000" as Python source does; in a file it is a typing error.
    if not all(type(value) is str and "_" not in value for value in raw):
        return None
    missing = np.fromiter((value in tokens for value in raw), np.bool_, len(raw))
    if missing.any():
        raw = ["nan" if gone else value for gone, value in zip(missing.tolist(), raw, strict=True)]
    try:
        values = np.array(raw, dtype=np.float64)
    except ValueError:
        return None
    if (np.isnan(values) != missing).any():
        return None
    return _checked_numbers(column, values, missing)


def _checked_numbers(
    column: Column, values: NDArray[np.float64], missing: Mask
) -> TypedColumn | None:
    present = np.where(missing, 0.0, values)
    if not np.isfinite(present).all():
        return None
    if column.kind == "number":
        return TypedColumn(values, missing)
    if (np.rint(present) != present).any() or (np.abs(present) > _LARGEST_EXACT).any():
        return None
    return TypedColumn(present.astype(np.int64), missing)


def _one_by_one(
    column: Column, raw: Sequence[object] | Array, tokens: frozenset[str], place: Place
) -> TypedColumn:
    convert = _CONVERTERS[column.kind]
    empty, dtype = _EMPTY[column.kind]
    values = np.full(len(raw), empty, dtype)
    missing = np.zeros(len(raw), np.bool_)
    for row, value in enumerate(raw):
        if _is_missing(value, tokens):
            missing[row] = True
            continue
        try:
            values[row] = convert(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"not {a_kind(column)}",
                file=place.file,
                row=place.row + row,
                column=column.name,
                value=value.item() if isinstance(value, np.generic) else value,
                hint="correct the value, or the column's kind in the schema",
            ) from error
    return TypedColumn(values, missing)


def _is_missing(value: object, tokens: frozenset[str]) -> bool:
    if value is None:
        return True
    if isinstance(value, str):
        return value in tokens
    if isinstance(value, np.datetime64):
        return bool(np.isnat(value))
    # NaN, pandas.NaT and pandas.NA are the values that differ from themselves; NA refuses to say.
    try:
        return bool(value != value)  # noqa: PLR0124
    except TypeError:
        return True


def _number(value: object) -> float:
    if isinstance(value, bool | np.bool_):
        raise TypeError("a boolean")
    if isinstance(value, str) and "_" in value:
        raise ValueError("not a number")
    number = float(value)  # type: ignore[arg-type]
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number


def _integer(value: object) -> int:
    number = _number(value)
    if not number.is_integer() or abs(number) > _LARGEST_EXACT:
        raise ValueError("not whole, or beyond 2^53")
    return int(number)


def _boolean(value: object) -> int:
    if isinstance(value, bool | np.bool_):
        return int(value)
    if isinstance(value, int | float | np.integer | np.floating) and value in (0, 1):
        return int(value)
    if isinstance(value, str) and value.strip().lower() in _BOOLEANS:
        return _BOOLEANS[value.strip().lower()]
    raise ValueError("not a boolean")


def _timestamp(value: object) -> int:
    if isinstance(value, str):
        return parse_timestamp(value.strip())
    if isinstance(value, np.datetime64):
        return int(value.astype("datetime64[us]").astype(np.int64))
    if isinstance(value, datetime):
        moment = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
        return parse_timestamp(moment.isoformat())
    if isinstance(value, date):
        return parse_timestamp(value.isoformat())
    raise TypeError("not a moment")


def _category(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float | np.floating) and float(value).is_integer():
        # A frame turns whole numbers with gaps into floats; their names stay whole.
        return str(int(value))
    if isinstance(value, int | float | np.integer | np.floating):
        return str(value)
    raise TypeError("not a text or a number")


_CONVERTERS: dict[str, Callable[[object], object]] = {
    "number": _number,
    "integer": _integer,
    "boolean": _boolean,
    "timestamp": _timestamp,
    "category": _category,
}

_EMPTY: dict[str, tuple[object, Any]] = {
    "number": (np.nan, np.float64),
    "integer": (0, np.int64),
    "boolean": (-1, np.int8),
    "timestamp": (0, np.int64),
    "category": (None, object),
}
