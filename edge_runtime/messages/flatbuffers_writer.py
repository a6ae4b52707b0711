"""Just enough FlatBuffers to write the metadata of an Arrow stream; `flatbuffers` reads it.

Written from the root on: what a field refers to follows its table, since offsets point forward.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

__all__ = ["Pairs", "Scalar", "TableFields", "encode"]


class Scalar(NamedTuple):
    """A number that stands in its table, with its layout in `struct`'s letters."""

    layout: str
    value: int


class Pairs(NamedTuple):
    """A vector of structs of two int64."""

    values: Sequence[tuple[int, int]]


#: a table, its fields by their number: numbers, strings, tables, vectors of tables or of structs
TableFields: TypeAlias = Mapping[int, "Scalar | bytes | Pairs | TableFields | list[TableFields]"]

_Referred: TypeAlias = bytes | Pairs | TableFields | list[TableFields]


def encode(root: TableFields) -> bytes:
    """Encode a message; its size is a multiple of 8 bytes."""
    out = bytearray(4)
    _refer(out, 0, root)
    _align(out, 8)
    return bytes(out)


def _refer(out: bytearray, field: int, value: _Referred) -> None:
    """Append a value, and let the four bytes at `field` lead to it."""
    if isinstance(value, Mapping):
        start = _table(out, value)
    elif isinstance(value, bytes):
        start = _length(out, len(value))
        out += value + b"\0"
    elif isinstance(value, Pairs):
        # The structs are aligned to 8 bytes, and the length before them is of 4.
        _align(out, 4)
        out += bytes(4 * (len(out) % 8 == 0))
        start = _length(out, len(value.values))
        for pair in value.values:
            out += struct.pack("<qq", *pair)
    else:
        start = _length(out, len(value))
        out += bytes(4 * len(value))
        for index, table in enumerate(value):
            _refer(out, start + 4 + 4 * index, table)
    struct.pack_into("<I", out, field, start - field)


def _table(out: bytearray, fields: TableFields) -> int:
    """Append a table with its vtable before it and what it refers to after it."""
    places: dict[int, int] = {}
    size = 4
    for number, value in fields.items():
        width = struct.calcsize(value.layout) if isinstance(value, Scalar) else 4
        size += -size % width
        places[number] = size
        size += width
    count = 1 + max(fields, default=-1)
    _align(out, 8)
    out += bytes((4 + 2 * count) % 8 and 8 - (4 + 2 * count) % 8)
    vtable = len(out)
    entries = [places.get(number, 0) for number in range(count)]
    out += struct.pack(f"<HH{count}H", 4 + 2 * count, size, *entries)
    start = len(out)
    out += struct.pack("<i", start - vtable) + bytes(size - 4)
    for number, value in fields.items():
        place = start + places[number]
        if isinstance(value, Scalar):
            struct.pack_into(value.layout, out, place, value.value)
        else:
            _refer(out, place, value)
    return start


def _length(out: bytearray, length: int) -> int:
    _align(out, 4)
    out += struct.pack("<I", length)
    return len(out) - 4


def _align(out: bytearray, size: int) -> None:
    out += bytes(-len(out) % size)
