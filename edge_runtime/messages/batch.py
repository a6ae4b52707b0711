"""A batch: synthetic rows as integer codes, with their lineage and privacy statement.

On the wire it is `zstd(Arrow IPC stream)`: one uint8 or uint16 column per table column, and the
header as JSON in the schema metadata under `edge_runtime`. Any Arrow library reads it. The mark
beside the header says to whoever opens the rows elsewhere that they are synthetic.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import MessageError, RangeError, ShapeError, SizeError
from edge_runtime.messages.arrow_stream import ArrowStream, Codes
from edge_runtime.messages.arrow_writer import arrow_stream
from edge_runtime.messages.compression import compress, decompress
from edge_runtime.messages.header import Header, decode_header, encode_header
from edge_runtime.messages.limits import DEFAULT_LIMITS, Limits
from edge_runtime.schema import marked_metadata

__all__ = [
    "METADATA_KEY",
    "OpenBatch",
    "checked_codes",
    "decode_batch",
    "encode_batch",
    "open_batch",
    "peek_batch",
]

#: key of the header in the metadata of an Arrow schema or a safetensors file
METADATA_KEY = "edge_runtime"

_UINT8_CODES, _UINT16_CODES = 1 << 8, 1 << 16


def encode_batch(
    header: Header,
    codes: npt.NDArray[np.int32],
    *,
    cardinalities: Sequence[int],
    names: Sequence[str],
    limits: Limits = DEFAULT_LIMITS,
) -> bytes:
    """Encode rows of codes.

    Parameters
    ----------
    header : Header
        Of kind `batch`.
    codes : ndarray of int32, shape [rows, D]
        Column `d` within 0 .. cardinalities[d] - 1.
    cardinalities : sequence of int
        Number of codes per column, at most 65,536.
    names : sequence of str
        Column names of the schema, in order.
    limits : Limits
        What the reader will accept; nothing larger is made.

    Raises
    ------
    ShapeError, RangeError, SizeError
        The codes do not fit the columns; a code is out of range; more than a reader accepts.
    """
    if header.kind != "batch":
        raise ShapeError(f"batch: header of kind {header.kind!r}")
    _check_columns(names, cardinalities)
    if codes.ndim != 2 or codes.shape[1] != len(names):
        raise ShapeError(f"batch: codes of shape {codes.shape} for {len(names)} columns")
    _check_size(codes.shape[0], codes.shape[1], limits)
    _check_range(codes.T, cardinalities, names)

    columns: dict[str, Codes] = {
        name: np.ascontiguousarray(codes[:, d], dtype=np.uint8 if k <= _UINT8_CODES else np.uint16)
        for d, (name, k) in enumerate(zip(names, cardinalities, strict=True))
    }
    metadata = {METADATA_KEY.encode(): encode_header(header), **_mark(header)}
    return compress(arrow_stream(columns, metadata=metadata), limits=limits)


def decode_batch(
    data: bytes,
    *,
    cardinalities: Sequence[int],
    names: Sequence[str],
    limits: Limits = DEFAULT_LIMITS,
) -> tuple[Header, npt.NDArray[np.int32]]:
    """Decode and check a batch.

    Parameters
    ----------
    data : bytes
        The payload.
    cardinalities, names : sequence
        Of the codec that the header names; see `peek_batch`.
    limits : Limits
        Sizes accepted.

    Returns
    -------
    header : Header
        Of kind `batch`.
    codes : ndarray of int32, shape [rows, D], C-contiguous
        Every code checked against its column.

    Raises
    ------
    SizeError, VersionError, ShapeError, RangeError, MessageError
        Too large; of another version; other columns, or nulls; a code out of range; damaged.
    """
    opened = open_batch(data, limits=limits)
    codes = checked_codes(opened.columns(), opened.names, cardinalities=cardinalities, names=names)
    return opened.header, codes


class OpenBatch:
    """A batch whose header is read and checked and whose rows are not looked at; see `open_batch`.

    Attributes
    ----------
    header : Header
        Of kind `batch`.
    """

    def __init__(self, header: Header, stream: ArrowStream, limits: Limits) -> None:
        self.header = header
        self._stream, self._limits = stream, limits

    @property
    def names(self) -> list[str]:
        """Of the columns, as the batch has them."""
        return self._stream.names

    def columns(self) -> Codes:
        """Return the codes as they are in the batch: uint8 or uint16 [D, rows], not checked.

        Raises
        ------
        SizeError, ShapeError, MessageError
            Too many rows; anything but one record batch without nulls; damaged.
        """
        return self._stream.columns(rows=self._limits.rows)


def checked_codes(
    columns: Codes,
    found: Sequence[str],
    *,
    cardinalities: Sequence[int],
    names: Sequence[str],
) -> npt.NDArray[np.int32]:
    """Return the rows of an open batch, checked.

    Parameters
    ----------
    columns, found
        What `OpenBatch` has: codes [D, rows], and their columns' names.
    cardinalities, names : sequence
        Of the codec that the header names.

    Returns
    -------
    ndarray of int32, shape [rows, D], C-contiguous

    Raises
    ------
    ShapeError, RangeError
        Other columns; a code out of range.
    """
    _check_columns(names, cardinalities)
    if tuple(found) != tuple(names):
        raise ShapeError(f"batch: columns {list(found)} where {list(names)} belong")
    # All columns at once; which one it was is looked for when there is something to say.
    if columns.size and (columns.max(axis=1) >= cardinalities).any():
        _check_range(columns, cardinalities, names)
    return np.ascontiguousarray(columns.T, dtype=np.int32)


def open_batch(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> OpenBatch:
    """Decompress a batch and read its header, to find the codec that its rows need.

    Raises
    ------
    SizeError, VersionError, ShapeError, RangeError, MessageError
        As `decode_batch`, except that names and codes are not looked at.
    """
    stream = ArrowStream(decompress(data, limits=limits), columns=limits.columns)
    metadata = stream.metadata(METADATA_KEY, most=limits.header_bytes)
    if metadata is None:
        raise MessageError(f"batch: no {METADATA_KEY!r} in the schema metadata")
    header = decode_header(metadata, limits=limits)
    if header.kind != "batch":
        raise ShapeError(f"batch: header of kind {header.kind!r}")
    return OpenBatch(header, stream, limits)


def peek_batch(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Header:
    """Return the checked header of a batch, to find the codec that `decode_batch` needs.

    Raises
    ------
    SizeError, VersionError, ShapeError, RangeError, MessageError
        As `decode_batch`, except that names and codes are not looked at.
    """
    return open_batch(data, limits=limits).header


def _mark(header: Header) -> dict[bytes, bytes]:
    # What the header says in full; short, as it goes over the wire with every batch.
    facts = {"fleet": header.fleet, "depth": header.depth}
    return {key.encode(): value.encode() for key, value in marked_metadata(facts).items()}


def _check_columns(names: Sequence[str], cardinalities: Sequence[int]) -> None:
    if not names or len(names) != len(cardinalities) or len(set(names)) != len(names):
        raise ShapeError(
            f"batch: {len(names)} column names for {len(cardinalities)} cardinalities; "
            "at least one column, and every name once"
        )
    for name, k in zip(names, cardinalities, strict=True):
        if not 1 <= k <= _UINT16_CODES:
            raise RangeError(f"batch: column {name!r} has {k} codes; 1 to {_UINT16_CODES} fit")


def _check_size(rows: int, columns: int, limits: Limits) -> None:
    if rows > limits.rows or columns > limits.columns:
        raise SizeError(
            f"batch: {rows} rows and {columns} columns, at most {limits.rows} and "
            f"{limits.columns} are accepted"
        )


def _check_range(
    columns: npt.NDArray[np.integer],
    cardinalities: Sequence[int],
    names: Sequence[str],
) -> None:
    for column, k, name in zip(columns, cardinalities, names, strict=True):
        if not len(column):
            continue
        low, high = column.min(), column.max()
        if low < 0 or high >= k:
            raise RangeError(f"batch: column {name!r} has codes {low} to {high}, not 0 to {k - 1}")
