"""A batch: synthetic rows as integer codes, with their lineage and privacy statement.

On the wire it is `zstd(Arrow IPC stream)`: one uint8 or uint16 column per table column, and the
header as JSON in the schema metadata under `edge_runtime`. Any Arrow library reads it. The mark
beside the header says to whoever opens the rows elsewhere that they are synthetic.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import nanoarrow as na
import numpy as np
import numpy.typing as npt
from nanoarrow.ipc import StreamWriter

from edge_runtime.errors import MessageError, RangeError, ShapeError, SizeError
from edge_runtime.messages.arrow_stream import ArrowStream, Codes
from edge_runtime.messages.compression import compress, decompress
from edge_runtime.messages.header import Header, decode_header, encode_header
from edge_runtime.messages.limits import DEFAULT_LIMITS, Limits
from edge_runtime.schema import marked_metadata

__all__ = ["METADATA_KEY", "decode_batch", "encode_batch", "peek_batch"]

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
    _check_range(codes, cardinalities, names)

    columns: list[Codes] = [
        np.ascontiguousarray(codes[:, d], dtype=np.uint8 if k <= _UINT8_CODES else np.uint16)
        for d, k in enumerate(cardinalities)
    ]
    schema = na.c_schema(
        na.struct(
            {
                name: (na.uint8 if column.dtype == np.uint8 else na.uint16)(nullable=False)
                for name, column in zip(names, columns, strict=True)
            },
            nullable=False,
        )
    ).modify(
        metadata={
            METADATA_KEY.encode(): encode_header(header),
            **_mark(header),
        }
    )
    array = na.c_array_from_buffers(
        schema,
        length=codes.shape[0],
        buffers=[None],
        children=[na.c_array(c, schema.child(d)) for d, c in enumerate(columns)],
    )
    stream = io.BytesIO()
    with StreamWriter.from_writable(stream) as writer:
        writer.write_stream(array)
    return compress(_pieces(stream.getbuffer(), columns), limits=limits)


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
    _check_columns(names, cardinalities)
    header, stream = _open(data, limits)
    if tuple(stream.names) != tuple(names):
        raise ShapeError(f"batch: columns {stream.names} where {list(names)} belong")
    columns = stream.columns(rows=limits.rows)
    codes = np.empty((len(columns[0]), len(columns)), dtype=np.int32)
    for d, column in enumerate(columns):
        codes[:, d] = column
    _check_range(codes, cardinalities, names)
    return header, codes


def peek_batch(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Header:
    """Return the checked header of a batch, to find the codec that `decode_batch` needs.

    Raises
    ------
    SizeError, VersionError, ShapeError, RangeError, MessageError
        As `decode_batch`, except that names and codes are not looked at.
    """
    return _open(data, limits)[0]


def _mark(header: Header) -> dict[bytes, bytes]:
    # What the header says in full; short, as it goes over the wire with every batch.
    facts = {"fleet": header.fleet, "depth": header.depth}
    return {key.encode(): value.encode() for key, value in marked_metadata(facts).items()}


def _open(data: bytes, limits: Limits) -> tuple[Header, ArrowStream]:
    stream = ArrowStream(decompress(data, limits=limits), columns=limits.columns)
    metadata = stream.metadata(METADATA_KEY, most=limits.header_bytes)
    if metadata is None:
        raise MessageError(f"batch: no {METADATA_KEY!r} in the schema metadata")
    header = decode_header(metadata, limits=limits)
    if header.kind != "batch":
        raise ShapeError(f"batch: header of kind {header.kind!r}")
    return header, stream


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
    codes: npt.NDArray[np.int32], cardinalities: Sequence[int], names: Sequence[str]
) -> None:
    if not len(codes):
        return
    low, high = codes.min(axis=0), codes.max(axis=0)
    for d, k in enumerate(cardinalities):
        if low[d] < 0 or high[d] >= k:
            raise RangeError(
                f"batch: column {names[d]!r} has codes {low[d]} to {high[d]}, not 0 to {k - 1}"
            )


def _pieces(stream: memoryview, columns: Sequence[Codes]) -> list[memoryview]:
    # The body ends with the columns, each padded to 8 bytes, before the 8-byte end mark.
    sizes = [-(-column.nbytes // 8) * 8 for column in columns]
    at = len(stream) - 8 - sum(sizes)
    pieces = [stream[:at]]
    for size in sizes:
        pieces.append(stream[at : at + size])
        at += size
    return [*pieces, stream[at:]]
