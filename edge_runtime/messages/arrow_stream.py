"""A look at the framing of an Arrow IPC stream before a library reads it.

A record batch may carry buffers that are themselves compressed, so a few kilobytes that passed
every size check could still ask the Arrow reader for gigabytes. This walk admits only what a
batch message needs: one schema, then one record batch with plain buffers, then the end.

The layout is that of `Message.fbs` and `Schema.fbs` of Apache Arrow: each message is FFFFFFFF, the
length of its metadata (int32), the metadata (a FlatBuffers table), and a body.
"""

from __future__ import annotations

import struct

from edge_runtime.errors import MessageError, ShapeError

__all__ = ["check_plain_stream"]

_CONTINUATION = 0xFFFFFFFF
_SCHEMA, _RECORD_BATCH = 1, 3
_KINDS = {1: "schema", 2: "dictionary batch", 3: "record batch", 4: "tensor", 5: "sparse tensor"}
# Positions of the fields in their tables.
_HEADER_TYPE, _HEADER, _BODY_LENGTH = 1, 2, 3
_COMPRESSION = 3


def check_plain_stream(raw: bytes) -> None:
    """Check that `raw` is one schema, one uncompressed record batch and the end of the stream.

    Raises
    ------
    ShapeError
        Other or more messages, or compressed buffers.
    MessageError
        The framing is damaged.
    """
    try:
        position = _check_message(raw, 0, _SCHEMA)
        position = _check_message(raw, position, _RECORD_BATCH)
        end = struct.unpack_from("<II", raw, position)
    except struct.error as error:
        raise MessageError(f"batch: the Arrow stream ends early: {error}") from error
    if end != (_CONTINUATION, 0) or position + 8 != len(raw):
        raise ShapeError("batch: an Arrow stream with more than one record batch")


def _check_message(raw: bytes, position: int, wanted: int) -> int:
    mark, length = struct.unpack_from("<Ii", raw, position)
    start = position + 8
    if mark != _CONTINUATION or length <= 0 or length % 8 or start + length > len(raw):
        raise MessageError(f"batch: no Arrow message at byte {position}")
    table = _Table(raw[start : start + length], 0)
    kind = table.scalar(_HEADER_TYPE, "<B", 0)
    if kind != wanted:
        raise ShapeError(
            f"batch: an Arrow {_KINDS.get(kind, 'message')} where a {_KINDS[wanted]} belongs"
        )
    body = table.scalar(_BODY_LENGTH, "<q", 0)
    after = int(start + length + body)
    if body < 0 or after > len(raw):
        raise MessageError(f"batch: an Arrow body of {body} bytes does not fit")
    if wanted == _RECORD_BATCH:
        place = table.place(_HEADER)
        if place is None or _Table(table.data, place).place(_COMPRESSION) is not None:
            raise ShapeError("batch: Arrow buffers must not be compressed one by one")
    return after


class _Table:
    """A FlatBuffers table: a signed offset back to its vtable, which lists where fields are."""

    def __init__(self, data: bytes, pointer: int) -> None:
        self.data = data
        self._start = pointer + self._read("<I", pointer)
        self._vtable = self._start - self._read("<i", self._start)
        self._size = self._read("<H", self._vtable)

    def place(self, field: int) -> int | None:
        """Byte position of a field, or None when it is left at its default."""
        entry = 4 + 2 * field
        if entry + 2 > self._size:
            return None
        offset = self._read("<H", self._vtable + entry)
        return self._start + offset if offset else None

    def scalar(self, field: int, layout: str, default: int) -> int:
        """Value of an integer field."""
        place = self.place(field)
        return default if place is None else self._read(layout, place)

    def _read(self, layout: str, position: int) -> int:
        # unpack_from would count a negative position from the end.
        if position < 0:
            raise MessageError("batch: damaged Arrow metadata")
        (value,) = struct.unpack_from(layout, self.data, position)
        return int(value)
