"""A strict reader of the Arrow streams that a batch may be.

The bytes come from outside, and general readers trust them too much: nanoarrow 0.9 crashes on
some damaged streams, and any of them would decompress a buffer of a few kilobytes to gigabytes.
So what comes in is read here, in plain Python, in the one form that a batch needs: a schema of
uint8 and uint16 columns, one record batch with plain buffers, the end. What goes out is written
by `arrow_writer`.

A fleet's batches differ in their header and codes, hardly in anything else: what the rest says is
remembered, because reading it takes longer than everything else about a batch.

The layout is that of `Message.fbs` and `Schema.fbs` of Apache Arrow: each message is FFFFFFFF, the
length of its metadata (int32), the metadata (FlatBuffers), and a body.
"""

from __future__ import annotations

import functools
import struct
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import MessageError, ShapeError, SizeError
from edge_runtime.messages.flatbuffers import Table

__all__ = ["ArrowStream", "Codes"]

Codes: TypeAlias = npt.NDArray[np.unsignedinteger]

_CONTINUATION = 0xFFFFFFFF
# MessageHeader and Type, and the fields of the tables by position.
_SCHEMA, _RECORD_BATCH, _INT = 1, 3, 2
_MESSAGE_HEADER_TYPE, _MESSAGE_HEADER, _MESSAGE_BODY_LENGTH = 1, 2, 3
_SCHEMA_ENDIANNESS, _SCHEMA_FIELDS, _SCHEMA_METADATA = 0, 1, 2
_FIELD_NAME, _FIELD_TYPE_TYPE, _FIELD_TYPE, _FIELD_DICTIONARY, _FIELD_CHILDREN = 0, 2, 3, 4, 5
_INT_BITS, _INT_SIGNED = 0, 1
_KEY, _VALUE = 0, 1
_BATCH_LENGTH, _BATCH_NODES, _BATCH_BUFFERS, _BATCH_COMPRESSION = 0, 1, 2, 3

_MOST_METADATA = 64
_MOST_NAME_BYTES = 1024


class ArrowStream:
    """An Arrow IPC stream of integer code columns.

    Parameters
    ----------
    raw : bytes
        The whole stream, decompressed.
    columns : int
        Most columns accepted.

    Attributes
    ----------
    names : list of str
        Of the columns.

    Raises
    ------
    SizeError, ShapeError, MessageError
        Too many columns; a column that is not uint8 or uint16; anything else.
    """

    def __init__(self, raw: bytes, *, columns: int) -> None:
        self._raw = raw
        self._metadata, body = _message(raw, 0)
        self._schema = _schema_of(self._metadata, columns=columns)
        self.names = list(self._schema.names)
        self._position = _end(raw, body, self._schema.body_bytes)

    def metadata(self, key: str, *, most: int) -> bytes | None:
        """Return a value of the schema's metadata of at most `most` bytes, None without it."""
        span = self._schema.values.get(key.encode())
        if span is None:
            return None
        value = self._metadata[span]
        if len(value) > most:
            raise SizeError(f"batch: {key!r} has {len(value)} bytes where {most} may be")
        return value

    def columns(self, *, rows: int) -> Codes:
        """Return the columns of the one record batch, uint8 or uint16 [D, at most `rows`].

        Raises
        ------
        SizeError, ShapeError, MessageError
            Too many rows; no columns, nulls, compressed buffers or a second record batch; anything
            else.
        """
        if not self.names:
            raise ShapeError("batch: no columns")
        metadata, body = _message(self._raw, self._position)
        short = len(metadata) <= _MOST_REMEMBERED_BYTES
        read = _record_batch if short else _record_batch.__wrapped__
        found, buffers, size = read(metadata, len(self.names))
        after = _end(self._raw, body, size)
        if self._raw[after:] != struct.pack("<II", _CONTINUATION, 0):
            raise ShapeError("batch: an Arrow stream of more than one record batch, or cut off")
        if found > rows:
            raise SizeError(f"batch: {found} rows, at most {rows} are accepted")
        return self._columns(found, buffers, (body, size))

    def _columns(
        self, rows: int, buffers: tuple[tuple[int, int], ...], body: tuple[int, int]
    ) -> Codes:
        start, size = body
        dtypes, total = self._schema.dtypes, 0
        for dtype, (offset, length) in zip(dtypes, buffers, strict=True):
            if not (0 <= offset <= size and rows * dtype.itemsize <= length <= size - offset):
                raise MessageError("batch: an Arrow buffer that is not within its body")
            total += rows * dtype.itemsize
        # Buffers that overlap could make a small message a huge table.
        if total > size:
            raise MessageError("batch: Arrow buffers that overlap")
        offsets = [offset for offset, _ in buffers]
        first, width = offsets[0], dtypes[0].itemsize
        step = offsets[1] - first if len(offsets) > 1 else rows * width
        evenly = all(offset == first + d * step for d, offset in enumerate(offsets))
        if evenly and step >= 0 and dtypes.count(dtypes[0]) == len(dtypes):
            # Nearly every batch: nothing has to be copied.
            shape, strides = (len(offsets), rows), (step, width)
            return np.ndarray(shape, dtypes[0], self._raw, start + first, strides)
        return np.stack(
            [
                np.frombuffer(self._raw, dtype, rows, start + offset)
                for dtype, offset in zip(dtypes, offsets, strict=True)
            ]
        )


class _Schema(NamedTuple):
    """What the metadata of a schema message says.

    `before` and `after` are its bytes around the longest value of the schema's metadata, the
    header; `values` says where each value is.
    """

    before: bytes
    after: bytes
    names: tuple[str, ...]
    dtypes: tuple[np.dtype[np.unsignedinteger], ...]
    values: dict[bytes, slice]
    body_bytes: int


#: by length; where the bytes around the header are the same, so is all that they say
_SCHEMAS: dict[int, _Schema] = {}
#: of each kind; longer ones are read again each time, so that nobody fills memory with them
_REMEMBERED = 256
_MOST_REMEMBERED_BYTES = 1 << 16


def _schema_of(metadata: bytes, *, columns: int) -> _Schema:
    known = _SCHEMAS.get(len(metadata))
    if (
        known is None
        or not metadata.startswith(known.before)
        or not metadata.endswith(known.after)
        or len(known.names) > columns
    ):
        known = _read_schema(metadata, columns=columns)
        if len(metadata) <= _MOST_REMEMBERED_BYTES:
            if len(_SCHEMAS) >= _REMEMBERED:
                _SCHEMAS.clear()
            _SCHEMAS[len(metadata)] = known
    return known


def _read_schema(metadata: bytes, *, columns: int) -> _Schema:
    message = _table(metadata, _SCHEMA)
    schema = message.table(_MESSAGE_HEADER)
    if schema.scalar(_SCHEMA_ENDIANNESS, "<h") != 0:
        raise ShapeError("batch: an Arrow stream with big-endian numbers")
    fields = schema.tables(_SCHEMA_FIELDS, most=columns)
    names = tuple(_text(field, _FIELD_NAME) for field in fields)
    values: dict[bytes, slice] = {}
    for entry in schema.tables(_SCHEMA_METADATA, most=_MOST_METADATA):
        key = entry.text(_KEY, most=_MOST_NAME_BYTES)
        values.setdefault(key, entry.span(_VALUE, most=len(metadata)))
    end = len(metadata)
    header = max(values.values(), key=lambda s: s.stop - s.start, default=slice(end, end))
    return _Schema(
        before=metadata[: header.start],
        after=metadata[header.stop :],
        names=names,
        dtypes=tuple(_dtype(field, name) for field, name in zip(fields, names, strict=True)),
        values=values,
        body_bytes=message.scalar(_MESSAGE_BODY_LENGTH, "<q"),
    )


@functools.lru_cache(maxsize=_REMEMBERED)
def _record_batch(metadata: bytes, width: int) -> tuple[int, tuple[tuple[int, int], ...], int]:
    """Return rows, where each column's codes are (offset, length), and the size of the body."""
    message = _table(metadata, _RECORD_BATCH)
    batch = message.table(_MESSAGE_HEADER)
    if batch.has(_BATCH_COMPRESSION):
        raise ShapeError("batch: Arrow buffers must not be compressed one by one")
    rows = batch.scalar(_BATCH_LENGTH, "<q")
    nodes = batch.int64_pairs(_BATCH_NODES, most=width)
    buffers = batch.int64_pairs(_BATCH_BUFFERS, most=2 * width)
    if rows < 0 or len(nodes) != width or len(buffers) != 2 * width:
        raise ShapeError(f"batch: an Arrow record batch that does not have {width} columns")
    if any(node != (rows, 0) for node in nodes):
        raise ShapeError("batch: a column has nulls, where missing is a code, or is too short")
    # buffers[0::2] are validity bitmaps
    return rows, tuple(buffers[1::2]), message.scalar(_MESSAGE_BODY_LENGTH, "<q")


def _message(raw: bytes, position: int) -> tuple[bytes, int]:
    """Return the metadata of the message that begins at a position, and where its body does."""
    start = position + 8
    if start > len(raw):
        raise MessageError("batch: the Arrow stream ends early")
    mark, length = struct.unpack_from("<Ii", raw, position)
    if mark != _CONTINUATION or length <= 0 or start + length > len(raw):
        raise MessageError(f"batch: no Arrow message at byte {position}")
    return raw[start : start + length], start + length


def _end(raw: bytes, body: int, size: int) -> int:
    if not 0 <= size <= len(raw) - body:
        raise MessageError(f"batch: an Arrow body of {size} bytes does not fit")
    return body + size


def _table(metadata: bytes, wanted: int) -> Table:
    table = Table(metadata)
    if table.scalar(_MESSAGE_HEADER_TYPE, "<B") != wanted:
        raise ShapeError(
            "batch: an Arrow stream must be a schema and one record batch, nothing else"
        )
    return table


def _text(table: Table, field: int) -> str:
    try:
        return table.text(field, most=_MOST_NAME_BYTES).decode()
    except UnicodeDecodeError as error:
        raise MessageError("batch: a column name that is not UTF-8") from error


def _dtype(field: Table, name: str) -> np.dtype[np.unsignedinteger]:
    if field.scalar(_FIELD_TYPE_TYPE, "<B") == _INT and not field.has(_FIELD_DICTIONARY):
        kind = field.table(_FIELD_TYPE)
        bits, signed = kind.scalar(_INT_BITS, "<i"), kind.scalar(_INT_SIGNED, "<B")
        if bits in (8, 16) and not signed and not field.tables(_FIELD_CHILDREN, most=0):
            return np.dtype(np.uint8) if bits == 8 else np.dtype("<u2")
    raise ShapeError(f"batch: column {name!r} is neither uint8 nor uint16")
