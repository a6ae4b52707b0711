"""A strict reader of the Arrow streams that a batch may be.

The bytes come from outside, and general readers trust them too much: nanoarrow 0.9 crashes on
some damaged streams, and any of them would decompress a buffer of a few kilobytes to gigabytes.
So what comes in is read here, in plain Python, in the one form that a batch needs: a schema of
uint8 and uint16 columns, one record batch with plain buffers, the end. What goes out is written
by nanoarrow.

The layout is that of `Message.fbs` and `Schema.fbs` of Apache Arrow: each message is FFFFFFFF, the
length of its metadata (int32), the metadata (FlatBuffers), and a body.
"""

from __future__ import annotations

import struct
from typing import TypeAlias

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
        message, _, self._position = self._message(0, _SCHEMA)
        self._schema = message.table(_MESSAGE_HEADER)
        if self._schema.scalar(_SCHEMA_ENDIANNESS, "<h") != 0:
            raise ShapeError("batch: an Arrow stream with big-endian numbers")
        fields = self._schema.tables(_SCHEMA_FIELDS, most=columns)
        self.names = [_text(field, _FIELD_NAME) for field in fields]
        self._dtypes = [_dtype(field, name) for field, name in zip(fields, self.names, strict=True)]

    def metadata(self, key: str, *, most: int) -> bytes | None:
        """Return a value of the schema's metadata of at most `most` bytes, None without it."""
        for entry in self._schema.tables(_SCHEMA_METADATA, most=_MOST_METADATA):
            if entry.text(_KEY, most=_MOST_NAME_BYTES) == key.encode():
                return entry.text(_VALUE, most=most)
        return None

    def columns(self, *, rows: int) -> list[Codes]:
        """Return the columns of the one record batch, views of at most `rows` codes each.

        Raises
        ------
        SizeError, ShapeError, MessageError
            Too many rows; nulls, compressed buffers or a second record batch; anything else.
        """
        message, body, after = self._message(self._position, _RECORD_BATCH)
        if self._raw[after:] != struct.pack("<II", _CONTINUATION, 0):
            raise ShapeError("batch: an Arrow stream of more than one record batch, or cut off")
        batch = message.table(_MESSAGE_HEADER)
        if batch.has(_BATCH_COMPRESSION):
            raise ShapeError("batch: Arrow buffers must not be compressed one by one")
        found = batch.scalar(_BATCH_LENGTH, "<q")
        if found > rows:
            raise SizeError(f"batch: {found} rows, at most {rows} are accepted")
        width = len(self.names)
        nodes = batch.int64_pairs(_BATCH_NODES, most=width)
        buffers = batch.int64_pairs(_BATCH_BUFFERS, most=2 * width)
        if found < 0 or len(nodes) != width or len(buffers) != 2 * width:
            raise ShapeError(f"batch: an Arrow record batch that does not have {width} columns")
        if any(node != (found, 0) for node in nodes):
            raise ShapeError("batch: a column has nulls, where missing is a code, or is too short")
        return self._columns(found, buffers[1::2], body)  # buffers[0::2] are validity bitmaps

    def _columns(
        self, rows: int, buffers: list[tuple[int, int]], body: tuple[int, int]
    ) -> list[Codes]:
        start, size = body
        columns: list[Codes] = []
        for dtype, (offset, length) in zip(self._dtypes, buffers, strict=True):
            if not (0 <= offset <= size and rows * dtype.itemsize <= length <= size - offset):
                raise MessageError("batch: an Arrow buffer that is not within its body")
            columns.append(np.frombuffer(self._raw, dtype, rows, start + offset))
        # Buffers that overlap could make a small message a huge table.
        if sum(column.nbytes for column in columns) > size:
            raise MessageError("batch: Arrow buffers that overlap")
        return columns

    def _message(self, position: int, wanted: int) -> tuple[Table, tuple[int, int], int]:
        """Return a message's metadata, start and size of its body, and what comes after."""
        raw = self._raw
        start = position + 8
        if start > len(raw):
            raise MessageError("batch: the Arrow stream ends early")
        mark, length = struct.unpack_from("<Ii", raw, position)
        if mark != _CONTINUATION or length <= 0 or start + length > len(raw):
            raise MessageError(f"batch: no Arrow message at byte {position}")
        table = Table(raw[start : start + length])
        if table.scalar(_MESSAGE_HEADER_TYPE, "<B") != wanted:
            raise ShapeError(
                "batch: an Arrow stream must be a schema and one record batch, nothing else"
            )
        body, size = start + length, table.scalar(_MESSAGE_BODY_LENGTH, "<q")
        if not 0 <= size <= len(raw) - body:
            raise MessageError(f"batch: an Arrow body of {size} bytes does not fit")
        return table, (body, size), body + size


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
