"""Everything that can be found in some bytes: what they hold once they are unpacked and decoded."""

from __future__ import annotations

import gzip
import io
import json
import math
import sqlite3
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
import zstandard

from edge_runtime.messages.seal import decode_sealed, is_sealed


class Leaf(NamedTuple):
    """A piece of what was opened: bytes as they are, or a number by its value."""

    place: str
    value: bytes | float


def open_file(path: Path, place: str) -> Iterator[Leaf]:
    """Everything in a file; the tables of a database are read through SQLite, log included."""
    if path.read_bytes()[:15] == b"SQLite format 3":
        yield from _database(path, place)
    yield from opened(path.read_bytes(), place)


def opened(data: bytes, place: str) -> Iterator[Leaf]:
    """The bytes, and what they hold when they are of a kind that is known here."""
    yield Leaf(place, data)
    if is_sealed(data):
        yield from opened(decode_sealed(data).body, f"{place}:sealed")
    elif data[:4] == b"\x28\xb5\x2f\xfd":
        yield from opened(
            zstandard.ZstdDecompressor().decompressobj().decompress(data), f"{place}:zstd"
        )
    elif data[:2] == b"\x1f\x8b":
        yield from opened(gzip.decompress(data), f"{place}:gzip")
    elif data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield from opened(archive.read(name), f"{place}:{name}")
    elif data[:4] == b"PAR1":
        yield from _table(pq.read_table(pa.BufferReader(data)), place)
    elif data[:4] == b"\xff\xff\xff\xff":
        yield from _table(pa.ipc.open_stream(data).read_all(), place)
    elif data[257:262] == b"ustar":
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar.getmembers():
                file = tar.extractfile(member)
                if file is not None:
                    yield from opened(file.read(), f"{place}:{member.name}")
    elif data[:1] in b"{[":
        yield from _json(data, place)
    elif data[8:9] == b"{":
        yield from _tensors(data, place)


def _json(data: bytes, place: str) -> Iterator[Leaf]:
    try:
        yield from _values(json.loads(data), place)
    except ValueError:
        return


def _values(value: Any, place: str) -> Iterator[Leaf]:
    match value:
        case dict():
            for key, inner in value.items():
                yield from _values(inner, f"{place}.{key}")
        case list() | tuple():
            for inner in value:
                yield from _values(inner, f"{place}[]")
        case bool() | None:
            pass
        case int() | float():
            yield Leaf(place, float(value))
        case str():
            # With its escapes undone; it may be JSON once more, as headers in metadata are.
            yield from opened(value.encode(errors="surrogatepass"), f"{place}:text")
        case bytes():
            yield from opened(value, place)


def _table(table: pa.Table, place: str) -> Iterator[Leaf]:
    for key, value in (table.schema.metadata or {}).items():
        # Arrow's copy of the schema: base64 of the metadata that is read here.
        if key != b"ARROW:schema":
            yield from opened(value, f"{place}:{key.decode()}")
    for name in table.column_names:
        for value in table.column(name).unique().to_pylist():
            yield from _values(value, f"{place}:{name}")


def _tensors(data: bytes, place: str) -> Iterator[Leaf]:
    try:
        tensors = safetensors.numpy.load(data)
    except safetensors.SafetensorError:
        return
    size = int.from_bytes(data[:8], "little")
    yield from _json(data[8 : 8 + size], place)
    for name, tensor in tensors.items():
        for value in np.unique(tensor):
            yield Leaf(f"{place}:{name}", float(value))


def _database(path: Path, place: str) -> Iterator[Leaf]:
    with sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True) as database:
        names = [n for (n,) in database.execute("SELECT name FROM sqlite_master WHERE sql != ''")]
        for name in names:
            try:
                rows = database.execute(f'SELECT * FROM "{name}"').fetchall()
            except sqlite3.OperationalError:
                continue  # an index has no rows of its own
            for row in rows:
                yield from _values(row, f"{place}:{name}")
    database.close()


def finite(leaves: list[Leaf]) -> int:
    """How many numbers were decoded: a search that opens nothing finds nothing."""
    return sum(isinstance(leaf.value, float) and math.isfinite(leaf.value) for leaf in leaves)
