"""Just enough FlatBuffers to read the metadata of an Arrow stream, every step bounded.

A table starts with a signed offset back to its vtable, which holds the table's size, its own size
and for each field the distance from the table's start, 0 for a field left at its default. Strings
and vectors are a length and then the elements; what a field refers to lies at an unsigned offset
from the field itself.
"""

from __future__ import annotations

import struct

from edge_runtime.errors import MessageError, SizeError

__all__ = ["Table"]


class Table:
    """A table inside `data`.

    Parameters
    ----------
    data : bytes
        One whole FlatBuffers message.
    pointer : int
        Position of the offset that leads to the table; 0 for the root.
    """

    def __init__(self, data: bytes, pointer: int = 0) -> None:
        self._data = data
        self._start = pointer + self._read("<I", pointer)
        self._vtable = self._start - self._read("<i", self._start)
        self._vtable_size = self._read("<H", self._vtable)

    def scalar(self, field: int, layout: str) -> int:
        """Value of an integer field, 0 when it is not there."""
        place = self._place(field)
        return 0 if place is None else self._read(layout, place)

    def has(self, field: int) -> bool:
        """Whether a field is there."""
        return self._place(field) is not None

    def table(self, field: int) -> Table:
        """Table that a field refers to."""
        place = self._place(field)
        if place is None:
            raise MessageError(f"Arrow metadata lacks field {field}")
        return Table(self._data, place)

    def text(self, field: int, *, most: int) -> bytes:
        """Bytes of a string field, empty when it is not there; at most `most`."""
        span = self.span(field, most=most)
        return self._data[span]

    def span(self, field: int, *, most: int) -> slice:
        """Where the bytes of a string field are, at most `most`; empty when it is not there."""
        start, length = self._vector(field, most)
        if start + length > len(self._data):
            raise MessageError("Arrow metadata ends inside a string")
        return slice(start, start + length)

    def tables(self, field: int, *, most: int) -> list[Table]:
        """Tables of a vector field, at most `most`."""
        start, length = self._vector(field, most)
        return [Table(self._data, start + 4 * i) for i in range(length)]

    def int64_pairs(self, field: int, *, most: int) -> list[tuple[int, int]]:
        """Structs of two int64 of a vector field, at most `most`."""
        start, length = self._vector(field, most)
        places = range(start, start + 16 * length, 16)
        return [(self._read("<q", at), self._read("<q", at + 8)) for at in places]

    def _place(self, field: int) -> int | None:
        entry = 4 + 2 * field
        if entry + 2 > self._vtable_size:
            return None
        offset = self._read("<H", self._vtable + entry)
        return self._start + offset if offset else None

    def _vector(self, field: int, most: int) -> tuple[int, int]:
        place = self._place(field)
        if place is None:
            return 0, 0
        start = place + self._read("<I", place)
        length = self._read("<I", start)
        if length > most:
            raise SizeError(f"Arrow metadata holds {length} entries or bytes where {most} may be")
        return start + 4, length

    def _read(self, layout: str, position: int) -> int:
        if position < 0:  # which unpack_from would count from the end
            raise MessageError("Arrow metadata points before its beginning")
        try:
            (value,) = struct.unpack_from(layout, self._data, position)
        except struct.error as error:
            raise MessageError("Arrow metadata points beyond its end") from error
        return int(value)
