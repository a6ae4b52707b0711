"""The code of a value that somebody asks rows for, such as ``late=true``."""

from __future__ import annotations

import numpy as np

from edge_runtime.errors import DataError, RangeError
from edge_runtime.schema.census import label_codes
from edge_runtime.schema.columns import Column
from edge_runtime.schema.numeric import NumericBins
from edge_runtime.schema.schema import Schema
from edge_runtime.schema.table import Table
from edge_runtime.schema.values import Place, a_kind, typed_column

__all__ = ["code_of_value"]

#: what errors call the place of such a value
_CONDITION = "the condition"
#: values of a category column that an error lists
_LISTED = 20


def code_of_value(column: Column, value: object, bins: NumericBins | None) -> int:
    """Return a value's code; see `Codec.code_of`.

    Parameters
    ----------
    column : Column
        The column it is asked of.
    value : object
        As it would stand in a table; None means missing.
    bins : NumericBins or None
        Of a numeric column; None for any other.

    Raises
    ------
    DataError, RangeError
        The value does not fit the column, or lies outside its bounds.
    """
    if column.other and value == column.labels[-1]:
        return len(column.labels) - 1
    try:
        values, missing = typed_column(column, [value], place=Place(_CONDITION, 1))
        if bins is None:
            single = Schema(name="condition", columns=(column,))
            table = Table(schema=single, columns={column.name: values}, file=_CONDITION)
            return int(label_codes(column, table)[0][0])
    except DataError as error:
        raise _not_to_be_had(column, error.value) from error
    codes, clamped = bins.encode(values.astype(np.float64), missing)
    if clamped:
        raise RangeError(
            f"{value!r} lies outside the bounds {column.low} .. {column.high} of column "
            f"{column.name!r}"
        )
    return int(codes[0])


def _not_to_be_had(column: Column, value: object) -> DataError:
    """Return the error of a value that somebody asks for and no row can have."""
    problem, hint = f"not {a_kind(column)}", "ask for a value of the column's kind"
    if value is None:
        problem, hint = "is never missing", "ask for a value"
    elif column.kind == "category":
        problem = "is not among the column's values"
        hint = f"they are {', '.join(column.values[:_LISTED])}"
        hint += ", ..." if len(column.values) > _LISTED else ""
    return DataError(problem, file=_CONDITION, column=column.name, value=value, hint=hint)
