"""The codec: rows of a table to small integers and back."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import CodecError, RangeError, ShapeError
from edge_runtime.schema import codec_file
from edge_runtime.schema.binning import bins_from_cells, bins_from_rows
from edge_runtime.schema.census import Census, clean_census, label_codes
from edge_runtime.schema.coded import Coded
from edge_runtime.schema.condition import code_of_value
from edge_runtime.schema.grid import grid_of
from edge_runtime.schema.numeric import NumericBins
from edge_runtime.schema.schema import Schema
from edge_runtime.schema.table import Table

__all__ = ["Codec", "Encoded", "decode_streams"]

#: streams of one key are spread so far apart that the columns of a table fit in between
_COLUMNS_PER_STREAM = 1 << 16


def decode_streams(stream: int) -> int:
    """Return the kernel's stream of the first column, see `Codec.decode`; the others follow."""
    return (stream + 1) * _COLUMNS_PER_STREAM


class Encoded(NamedTuple):
    """Rows as codes, and what had to be bent to make them fit.

    Attributes
    ----------
    codes : int32 ndarray
        [rows, columns], C-contiguous.
    clamped : dict of str to int
        Per numeric column, values that lay outside the declared bounds.
    unknown : dict of str to int
        Per category column, values that were not among the declared ones and became `other`.
    """

    codes: NDArray[np.int32]
    clamped: dict[str, int]
    unknown: dict[str, int]


class Codec:
    """Values to codes and back, for every column of a schema.

    A column's codes are its bins or categories in order, then `other`, then missing.
    Make one with `fit`, `from_census` or `from_json`.

    Parameters
    ----------
    schema : Schema
        The table.
    bins : dict of str to NumericBins
        One for each numeric column.

    Raises
    ------
    CodecError
        A numeric column has no bins.
    """

    def __init__(self, *, schema: Schema, bins: dict[str, NumericBins]) -> None:
        numeric = {column.name for column in schema.columns if column.numeric}
        if set(bins) != numeric:
            raise CodecError(f"bins for {sorted(bins)}, numeric columns are {sorted(numeric)}")
        self.schema = schema
        self.bins = bins
        #: codes per column
        self.cardinalities: tuple[int, ...] = tuple(
            bins[column.name].cardinality
            if column.numeric
            else len(column.labels) + column.nullable
            for column in schema.columns
        )
        #: SHA-256 of the canonical JSON, hexadecimal
        self.digest: str = hashlib.sha256(self.to_json()).hexdigest()

    @classmethod
    def fit(cls, table: Table, schema: Schema, *, max_bins: int = 32, knots: int = 8) -> Codec:
        """Make a codec from raw rows, for a single machine: its bins are NOT private.

        Parameters
        ----------
        table : Table
            The rows.
        schema : Schema
            Their declaration.
        max_bins : int
            Most bins of a numeric column that is not coded value by value; fewer when rows are
            few (one per 20).
        knots : int
            Quantiles per bin of a column with many distinct values.

        Returns
        -------
        Codec
        """
        bins = {}
        for column in schema.columns:
            if column.numeric:
                present = table.columns[column.name][~table.missing[column.name]]
                bins[column.name] = bins_from_rows(
                    column, present.astype(np.float64), max_bins=max_bins, knots=knots
                )
        return cls(schema=schema, bins=bins)

    @classmethod
    def from_census(
        cls, schema: Schema, census: Census, *, max_bins: int = 32, knots: int = 8
    ) -> Codec:
        """Make a codec from noisy histograms; it depends on them alone and costs no more privacy.

        Parameters
        ----------
        schema : Schema
            The public declaration. All declared categories keep their codes.
        census : Census
            One device's or a fleet's merged.
        max_bins, knots : int
            As in `fit`.

        Returns
        -------
        Codec

        Raises
        ------
        CodecError
            The census is of another schema.
        """
        bins = {}
        for column, cells in zip(schema.columns, clean_census(schema, census), strict=True):
            if column.numeric:
                mass = cells[: grid_of(column).cells]
                bins[column.name] = bins_from_cells(
                    column, mass, rows=float(mass.sum()), max_bins=max_bins, knots=knots
                )
        return cls(schema=schema, bins=bins)

    def code_counts(self, census: Census) -> list[NDArray[np.float64]]:
        """How many rows have each code, by a census.

        Parameters
        ----------
        census : Census
            Noisy or exact.

        Returns
        -------
        list of float64 ndarray
            One per column, [codes], none negative; sums as in `clean_census`.

        Raises
        ------
        CodecError
            The census is of another schema.
        """
        counts = []
        cleaned = clean_census(self.schema, census)
        for column, cells, codes in zip(
            self.schema.columns, cleaned, self.cardinalities, strict=True
        ):
            if not column.numeric:
                counts.append(cells)
                continue
            grid = grid_of(column)
            edges = grid.edges()
            centres = (edges[:-1] + edges[1:]) / 2
            index, _ = self.bins[column.name].encode(centres, np.zeros(len(centres), np.bool_))
            found = np.zeros(codes)
            np.add.at(found, index, cells[: grid.cells])
            if column.nullable:
                found[-1] = cells[-1]
            counts.append(found)
        return counts

    def encode(self, table: Table) -> Encoded:
        """Codes of rows.

        Parameters
        ----------
        table : Table
            Typed by this codec's schema.

        Returns
        -------
        Encoded

        Raises
        ------
        DataError
            An unlisted category in a column without `other`.
        CodecError
            The table is of another schema.
        """
        if table.schema != self.schema:
            raise CodecError(
                f"a table of schema {table.schema.name!r} ({table.schema.digest[:12]}) does not "
                f"fit a codec of {self.schema.name!r} ({self.schema.digest[:12]})"
            )
        codes = np.empty((table.rows, len(self.cardinalities)), np.int32)
        clamped: dict[str, int] = {}
        unknown: dict[str, int] = {}
        for index, column in enumerate(self.schema.columns):
            if column.numeric:
                codes[:, index], clamped[column.name] = self.bins[column.name].encode(
                    table.columns[column.name].astype(np.float64), table.missing[column.name]
                )
            else:
                codes[:, index], unlisted = label_codes(column, table)
                if column.kind == "category":
                    unknown[column.name] = unlisted
        return Encoded(codes, clamped, unknown)

    def decode(
        self, codes: NDArray[np.int32], *, key: bytes, stream: int = 0, offset: int = 0
    ) -> Table:
        """Values drawn inside the bins of codes.

        Parameters
        ----------
        codes : int32 ndarray
            [rows, columns]
        key : bytes
            32 bytes; with `stream` it addresses the public uniform numbers. Uses the kernel's
            streams ``(stream + 1) * 65536 + column``, so small stream numbers stay free for
            sampling with the same key.
        stream : int
            Up to 2^39.
        offset : int
            Number of the first row in the stream: rows decoded in parts equal rows decoded at once.

        Returns
        -------
        Table

        Raises
        ------
        ShapeError
            Codes of another shape or dtype.
        RangeError
            A code beyond its column's.
        """
        self._check_codes(codes)
        columns: dict[str, NDArray[Any] | Coded] = {}
        missing: dict[str, NDArray[np.bool_]] = {}
        for index, column in enumerate(self.schema.columns):
            own = codes[:, index]
            # code K of a column that cannot be missing does not exist, so nothing equals it
            last = self.cardinalities[index] - column.nullable
            missing[column.name] = own == last
            if column.numeric:
                columns[column.name] = self.bins[column.name].decode(
                    own,
                    key=key,
                    stream=decode_streams(stream) + index,
                    offset=offset,
                )
            elif column.kind == "boolean":
                columns[column.name] = np.array([0, 1, -1], np.int8)[own]
            else:
                columns[column.name] = Coded(np.ascontiguousarray(own), tuple(column.labels))
        return Table(schema=self.schema, columns=columns, missing=missing, file="<decoded>")

    def _check_codes(self, codes: NDArray[np.int32]) -> None:
        if codes.dtype != np.int32 or codes.ndim != 2 or codes.shape[1] != len(self.cardinalities):
            raise ShapeError(
                f"codes are {codes.dtype} {codes.shape}, expected int32 "
                f"[rows, {len(self.cardinalities)}]"
            )
        if not len(codes):
            return
        beyond = (codes.max(axis=0) >= np.array(self.cardinalities)) | (codes.min(axis=0) < 0)
        if beyond.any():
            index = int(np.argmax(beyond))
            raise RangeError(
                f"column {self.schema.names[index]!r} has codes {codes[:, index].min()} .. "
                f"{codes[:, index].max()}, allowed are 0 .. {self.cardinalities[index] - 1}"
            )

    def label(self, column_index: int, code: int) -> str:
        """Say what a code stands for, for people.

        Parameters
        ----------
        column_index : int
            The column's position.
        code : int
            0 .. cardinality - 1.

        Returns
        -------
        str
            ``"JFK"``, ``"true"``, ``"17"``, ``"[10, 15)"`` or ``"missing"``.

        Raises
        ------
        RangeError
            There is no such code.
        """
        column = self.schema.columns[column_index]
        codes = self.cardinalities[column_index]
        if not 0 <= code < codes:
            raise RangeError(f"column {column.name!r} has codes 0 .. {codes - 1}, not {code}")
        if column.nullable and code == codes - 1:
            return "missing"
        return self.bins[column.name].label(code) if column.numeric else column.labels[code]

    def code_of(self, column_index: int, value: object) -> int:
        """Return the code of one value, for conditions such as ``{"late": True}``.

        Parameters
        ----------
        column_index : int
            The column's position.
        value : object
            As it would stand in a table; None means missing.

        Returns
        -------
        int

        Raises
        ------
        DataError
            The value does not fit the column.
        RangeError
            A numeric value outside the bounds: a condition is not silently bent.
        """
        column = self.schema.columns[column_index]
        return code_of_value(column, value, self.bins.get(column.name))

    def to_json(self) -> bytes:
        """Canonical JSON with the schema inside.

        Returns
        -------
        bytes
            UTF-8; equal codecs give equal bytes.
        """
        return codec_file.encode_document(self.schema, self.bins)

    @classmethod
    def from_json(cls, data: bytes | str) -> Codec:
        """Read a codec; anything that is not exactly one is refused.

        Parameters
        ----------
        data : bytes or str
            JSON as `to_json` writes it.

        Returns
        -------
        Codec

        Raises
        ------
        CodecError
            The JSON is not a valid codec of this version.
        """
        schema, bins = codec_file.decode_document(data)
        return cls(schema=schema, bins=bins)
