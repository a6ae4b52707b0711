"""Two kinds of columns are all that evaluation needs: numbers, and codes with labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import EvaluationError, MissingExtraError
from edge_runtime.schema import Schema, Table, marked_of, read_table, refuse_synthetic
from edge_runtime.schema.sources import source_name

if TYPE_CHECKING:
    import pandas

__all__ = ["Frame"]

F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]

_NUMERIC = frozenset({"number", "integer", "timestamp"})


@dataclass(frozen=True)
class Frame:
    """A table as plain arrays.

    Parameters
    ----------
    schema : Schema
    numbers : dict of str to float64 [rows]
        Number, integer and timestamp columns; NaN where missing.
    codes : dict of str to int32 [rows]
        Category and boolean columns; -1 where missing.
    labels : dict of str to tuple of str
        What the codes mean, in code order.
    """

    schema: Schema
    numbers: dict[str, F64]
    codes: dict[str, I32]
    labels: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, source: Any, schema: Schema, *, synthetic: bool = False) -> Frame:
        """Read anything `read_table` reads, or take a `Table` or `Frame` as it is.

        Raises
        ------
        DataError
            A value does not fit the schema, or rows marked as synthetic came without `synthetic`.
        """
        if isinstance(source, Frame):
            return source
        if not synthetic:
            mark = (
                source.synthetic
                if isinstance(source, Table)
                else marked_of(getattr(source, "attrs", None))
            )
            refuse_synthetic(mark, file=source_name(source))
        fast = _from_pandas(source, schema)
        if fast is not None:
            return fast
        table = (
            source if isinstance(source, Table) else read_table(source, schema, synthetic=synthetic)
        )
        numbers: dict[str, F64] = {}
        codes: dict[str, I32] = {}
        labels: dict[str, tuple[str, ...]] = {}
        for column in schema.columns:
            if column.name not in table.columns:
                raise EvaluationError(
                    f"column {column.name!r} of schema {schema.name!r} is not in the table; "
                    f"it has: {', '.join(table.columns)}"
                )
            values, missing = table.columns[column.name], table.missing[column.name]
            if column.kind in _NUMERIC:
                number = values.astype(np.float64)
                number[missing] = np.nan
                numbers[column.name] = number
            elif column.kind == "boolean":
                codes[column.name] = np.where(missing, -1, values).astype(np.int32)
                labels[column.name] = ("false", "true")
            else:
                # A value outside the declared ones counts as `other`, as it does on a device.
                labels[column.name] = (*column.values, "other") if column.other else column.values
                codes[column.name] = _codes(values, missing, labels[column.name], column.name)
        return cls(schema=schema, numbers=numbers, codes=codes, labels=labels)

    @property
    def rows(self) -> int:
        """Number of rows."""
        columns: list[npt.NDArray[Any]] = [*self.numbers.values(), *self.codes.values()]
        return len(columns[0])

    def take(self, rows: npt.NDArray[Any]) -> Frame:
        """Return the rows with these indices (or where this mask is set)."""
        return Frame(
            schema=self.schema,
            numbers={name: values[rows] for name, values in self.numbers.items()},
            codes={name: values[rows] for name, values in self.codes.items()},
            labels=self.labels,
        )

    def sample(self, rows: int, *, seed: int) -> Frame:
        """Return at most `rows` rows, drawn without replacement, in their order."""
        if self.rows <= rows:
            return self
        drawn = np.random.default_rng(seed).choice(self.rows, rows, replace=False)
        return self.take(np.sort(drawn))

    def missing(self, name: str) -> npt.NDArray[np.bool_]:
        """Return where this column has no value."""
        if name in self.numbers:
            return np.isnan(self.numbers[name])
        return np.asarray(self.codes[name] < 0)

    def to_pandas(self) -> pandas.DataFrame:
        """Return a DataFrame of floats and integer codes (code -1 is missing)."""
        frame: pandas.DataFrame = _pandas().DataFrame(
            {
                c.name: self.numbers[c.name] if c.name in self.numbers else self.codes[c.name]
                for c in self.schema.columns
            }
        )
        return frame


def _from_pandas(source: Any, schema: Schema) -> Frame | None:
    """Convert a clean DataFrame (or Parquet file) column by column, without a Python loop.

    None when anything needs the careful reader, which names row, column and value.
    """
    if isinstance(source, (str, Path)) and str(source).endswith(".parquet"):
        pd = _pandas()
        try:
            source = pd.read_parquet(source)
        except (OSError, ValueError):
            return None
    if type(source).__module__.partition(".")[0] != "pandas":
        return None
    pd = _pandas()
    numbers: dict[str, F64] = {}
    codes: dict[str, I32] = {}
    labels: dict[str, tuple[str, ...]] = {}
    for column in schema.columns:
        if column.name not in source or column.kind == "timestamp":
            return None
        series = source[column.name]
        if column.kind in _NUMERIC:
            if not pd.api.types.is_numeric_dtype(series) or pd.api.types.is_bool_dtype(series):
                return None
            numbers[column.name] = series.to_numpy(dtype=np.float64, na_value=np.nan)
            continue
        names = ("false", "true") if column.kind == "boolean" else column.values
        other = column.kind == "category" and column.other
        values = series.map(_BOOLEAN_NAMES) if column.kind == "boolean" else series
        found = pd.Categorical(values, categories=list(names)).codes.astype(np.int32)
        strange = (found < 0) & series.notna().to_numpy()
        if strange.any() and not other:
            return None
        found[strange] = len(names)
        codes[column.name] = found
        labels[column.name] = (*names, "other") if other else tuple(names)
    return Frame(schema=schema, numbers=numbers, codes=codes, labels=labels)


_BOOLEAN_NAMES = {True: "true", False: "false", "true": "true", "false": "false"}


def _pandas() -> Any:
    try:
        import pandas as pd  # noqa: PLC0415 - belongs to the aggregator extra
    except ImportError as error:
        raise MissingExtraError("pandas", "aggregator") from error
    return pd


def _codes(
    values: npt.NDArray[Any], missing: npt.NDArray[np.bool_], labels: tuple[str, ...], name: str
) -> I32:
    lookup = {label: code for code, label in enumerate(labels)}
    unknown = lookup.get("other", -2) if labels and labels[-1] == "other" else -2
    codes = np.fromiter((lookup.get(v, unknown) for v in values), np.int32, len(values))
    codes[missing] = -1
    if (codes == -2).any():
        strange = values[np.flatnonzero(codes == -2)[0]]
        raise EvaluationError(
            f"column {name!r}: category {strange!r} is not declared and the column has no "
            "'other'; add it to the schema's values or set other = true"
        )
    return codes
