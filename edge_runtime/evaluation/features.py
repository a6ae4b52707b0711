"""From table columns to the numbers a small network reads: one-hot codes and scaled values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import EvaluationError
from edge_runtime.evaluation.frames import Frame
from edge_runtime.schema import Column, Schema

__all__ = ["Features"]

F32 = npt.NDArray[np.float32]

#: an integer with a public range up to this is a label (a month, an hour), beyond it a quantity;
#: measured on flights: 60 one-hot minutes cost .006 AUC against one scaled number
_MAX_ONE_HOT_INTEGERS = 32


@dataclass(frozen=True)
class Features:
    """How each input column becomes network inputs; made once, applied to every table alike.

    Parameters
    ----------
    columns : tuple of Column
        The input columns.
    centre, scale : dict of str to float
        Of the scaled columns: ``(value - centre) / scale``; the others are one-hot.
    """

    columns: tuple[Column, ...]
    centre: dict[str, float]
    scale: dict[str, float]

    @classmethod
    def public(
        cls, schema: Schema, inputs: Sequence[str], *, quantities: Sequence[str] = ()
    ) -> Features:
        """Scale by the schema's public bounds to -1 .. 1: nothing is learnt from any row.

        This is what devices that share no statistics can agree on, so a federated classifier
        uses it. Integers named in `quantities` are scaled however few values they have.
        """
        columns = _columns(schema, inputs)
        centre: dict[str, float] = {}
        scale: dict[str, float] = {}
        for column in columns:
            if _is_scaled(column) or column.name in quantities:
                if column.low is None or column.high is None:
                    raise EvaluationError(f"column {column.name!r} has no public bounds")
                centre[column.name] = (column.low + column.high) / 2
                scale[column.name] = max((column.high - column.low) / 2, 1e-12)
        return cls(columns, centre, scale)

    @classmethod
    def fit(cls, frame: Frame, inputs: Sequence[str]) -> Features:
        """Scale by the mean and standard deviation of the rows that will be trained on."""
        columns = _columns(frame.schema, inputs)
        centre: dict[str, float] = {}
        scale: dict[str, float] = {}
        for column in columns:
            if _is_scaled(column):
                values = frame.numbers[column.name]
                known = values[~np.isnan(values)]
                centre[column.name] = float(known.mean()) if known.size else 0.0
                spread = float(known.std()) if known.size else 0.0
                scale[column.name] = spread if spread > 0 else 1.0
        return cls(columns, centre, scale)

    @property
    def width(self) -> int:
        """Number of network inputs."""
        return sum(self._width(column) for column in self.columns)

    def transform(self, frame: Frame) -> F32:
        """Return float32 ``[rows, width]``; missing values are an input of their own."""
        out = np.zeros((frame.rows, self.width), np.float32)
        rows = np.arange(frame.rows)
        start = 0
        for column in self.columns:
            missing = frame.missing(column.name)
            width = self._width(column)
            if column.name in self.centre:
                values = frame.numbers[column.name]
                scaled = (values - self.centre[column.name]) / self.scale[column.name]
                out[:, start] = np.where(missing, 0.0, scaled)
            elif column.kind == "integer":
                low = int(column.low or 0)
                # Synthetic or clamped values never leave the public range, real ones may.
                values = np.clip(frame.numbers[column.name], low, column.high)
                code = np.where(missing, 0, np.nan_to_num(values, nan=low) - low).astype(np.int64)
                out[rows[~missing], start + code[~missing]] = 1.0
            else:
                code = frame.codes[column.name].astype(np.int64)
                out[rows[~missing], start + code[~missing]] = 1.0
            if column.nullable:
                out[:, start + width - 1] = missing
            start += width
        return out

    def _width(self, column: Column) -> int:
        if column.name in self.centre:
            width = 1
        elif column.kind == "integer":
            width = int((column.high or 0) - (column.low or 0)) + 1
        elif column.kind == "boolean":
            width = 2
        else:
            width = len(column.values) + int(column.other)
        return width + int(column.nullable)


def _columns(schema: Schema, inputs: Sequence[str]) -> tuple[Column, ...]:
    if not inputs:
        raise EvaluationError("no input columns for the classifier")
    known = {column.name: column for column in schema.columns}
    strange = [name for name in inputs if name not in known]
    if strange:
        raise EvaluationError(
            f"input columns {strange} are not in schema {schema.name!r}: {', '.join(known)}"
        )
    return tuple(known[name] for name in inputs)


def _is_scaled(column: Column) -> bool:
    if column.kind in ("number", "timestamp"):
        return True
    if column.kind != "integer":
        return False
    if column.low is None or column.high is None:
        return True
    return column.high - column.low + 1 > _MAX_ONE_HOT_INTEGERS
