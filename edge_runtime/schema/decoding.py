"""Decoding as the kernel does it block by block, straight into the arrays of a table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.kernel import Output
from edge_runtime.schema.codec import Codec, decode_streams
from edge_runtime.schema.coded import Coded
from edge_runtime.schema.table import Table

__all__ = ["BlockDecoder"]

_BOOLEANS = np.array([0, 1, -1], np.int8)


class BlockDecoder:
    """Arrays for the values of a codec's columns, and the table that they make.

    What the kernel writes by `outputs` equals what `Codec.decode` returns, bit for bit.

    Parameters
    ----------
    codec : Codec
    """

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    @property
    def possible(self) -> bool:
        """Whether the kernel can decode every column."""
        return all(bins.decodes_in_blocks for bins in self._codec.bins.values())

    @staticmethod
    def stream(stream: int) -> int:
        """Kernel stream of the first column, for a `stream` of `Codec.decode`."""
        return decode_streams(stream)

    def outputs(self, rows: int) -> list[Output]:
        """Fresh arrays for so many rows, one output per column."""
        made = []
        for column in self._codec.schema.columns:
            missing = np.empty(rows, np.bool_) if column.nullable else None
            if column.numeric:
                made.append(self._codec.bins[column.name].output(rows, missing))
            elif column.kind == "boolean":
                out = np.empty(rows, np.int8)
                made.append(Output(kind="bytes", table=_BOOLEANS, out=out, missing=missing))
            else:
                codes = np.empty(rows, np.int32)
                made.append(Output(kind="codes", out=codes, missing=missing))
        return made

    def table(self, outputs: list[Output]) -> Table:
        """Make a table of outputs that the kernel has filled."""
        schema = self._codec.schema
        columns: dict[str, NDArray[Any] | Coded] = {}
        missing: dict[str, NDArray[np.bool_]] = {}
        for column, output in zip(schema.columns, outputs, strict=True):
            assert output.out is not None, "outputs() makes all arrays"
            if output.missing is not None:
                missing[column.name] = output.missing
            if column.numeric:
                bins = self._codec.bins[column.name]
                columns[column.name] = bins.finished(output.out, output.missing)
            elif column.kind == "boolean":
                columns[column.name] = output.out
            else:
                columns[column.name] = Coded(output.out, tuple(column.labels))
        return Table(schema=schema, columns=columns, missing=missing, file="<decoded>")
