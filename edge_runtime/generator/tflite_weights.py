"""The sampler as a .tflite file, and the places of its weights in it.

A device swaps weights by writing bytes at recorded places; neither a flatbuffer library nor the
schema is needed for that. The table of places is a JSON file, see docs/bundle.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.errors import BundleError, EngineError
from edge_runtime.generator.layout import Layout
from edge_runtime.generator.quantize import TENSORS

__all__ = ["Place", "TfliteGraph", "places_to_json"]

_FORMAT = "edge-runtime-tflite-places"
_VERSION = 1
#: What a sampler of a single column reads; its hidden units feed nothing.
_FIRST_COLUMN = ("b3", "scale3")


class Place(NamedTuple):
    """Where a part of a tensor stands in the file.

    Vectors are tensors of one row. Int8 tensors are int8 in the file, all others float32 (biases
    are integers below 2**24, which float32 holds exactly).

    Attributes
    ----------
    tensor : str
        A name of `edge_runtime.generator.quantize.TENSORS`.
    row, row_end, column, column_end : int
        The part: rows and columns of that tensor.
    transposed : bool
        Whether the file holds the part's columns one after the other.
    offset : int
        First byte.
    """

    tensor: str
    row: int
    row_end: int
    column: int
    column_end: int
    transposed: bool
    offset: int

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of the values in the file, little-endian."""
        return np.dtype("<i1" if TENSORS[self.tensor][0] is np.int8 else "<f4")

    @property
    def end(self) -> int:
        """First byte after it."""
        size = (self.row_end - self.row) * (self.column_end - self.column)
        return self.offset + size * self.dtype.itemsize


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: str
    version: int
    bytes: int
    rest_sha256: str
    places: list[Place]


def places_to_json(graph: bytes, places: Sequence[Place]) -> bytes:
    """Write the table of places of a file."""
    table = {
        "format": _FORMAT,
        "version": _VERSION,
        "bytes": len(graph),
        "rest_sha256": _rest_digest(graph, places),
        "places": [list(place) for place in places],
    }
    return json.dumps(table, separators=(",", ":")).encode()


def _rest_digest(graph: bytes, places: Sequence[Place]) -> str:
    """SHA-256 of the file with zeros in all places."""
    rest = bytearray(graph)
    for place in places:
        rest[place.offset : place.end] = bytes(place.end - place.offset)
    return hashlib.sha256(rest).hexdigest()


@dataclass(frozen=True, kw_only=True)
class TfliteGraph:
    """A .tflite sampler with its table of places.

    Attributes
    ----------
    graph : bytes
        The .tflite file.
    table : bytes
        The table, JSON.
    """

    graph: bytes = field(repr=False)
    table: bytes = field(repr=False)

    @cached_property
    def _places(self) -> list[Place]:
        try:
            table = msgspec.json.decode(self.table, type=_Table)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise BundleError(f"the table of places is not valid: {error}") from error
        if (table.format, table.version) != (_FORMAT, _VERSION):
            raise BundleError(
                f"the table of places is {table.format!r} version {table.version}; this release "
                f"reads {_FORMAT!r} version {_VERSION}"
            )
        if table.bytes != len(self.graph):
            raise BundleError(
                f"the .tflite file has {len(self.graph)} bytes, its table of places says "
                f"{table.bytes}"
            )
        end = 0
        for place in sorted(table.places, key=lambda place: place.offset):
            if place.tensor not in TENSORS:
                raise BundleError(f"the table of places names an unknown tensor {place.tensor!r}")
            real = 0 <= place.row < place.row_end and 0 <= place.column < place.column_end
            if not real or place.offset < end or place.end > table.bytes:
                raise BundleError(f"the place of {place.tensor} at {place.offset} is impossible")
            end = place.end
        if _rest_digest(self.graph, table.places) != table.rest_sha256:
            raise BundleError("the .tflite file is damaged: it is not the one of its table")
        return table.places

    def check(self, layout: Layout) -> None:
        """Refuse a table that does not hold every weight of a layout once.

        Raises
        ------
        BundleError
            Naming the tensor.
        """
        size = {"V": layout.width, "H": layout.hidden}
        seen = {
            name: np.zeros([size[d] for d in dims], np.uint8)[None if len(dims) == 1 else ...]
            for name, (_, dims) in TENSORS.items()
        }
        for place in self._places:
            part = seen[place.tensor][place.row : place.row_end, place.column : place.column_end]
            if part.size * place.dtype.itemsize != place.end - place.offset:
                raise BundleError(f"the place of {place.tensor} at {place.offset} is not in it")
            if part.any():
                raise BundleError(f"{place.tensor} has two places for one weight")
            part[...] = 1
        masks = dict(zip(("w1", "w2", "w3"), layout.masks, strict=True))
        needed = _FIRST_COLUMN if layout.columns == 1 else TENSORS
        for name in needed:
            if (seen[name] < masks.get(name, 1)).any():
                raise BundleError(f"the .tflite file has no place for a part of {name}")

    def with_tensors(self, tensors: Mapping[str, npt.NDArray[np.generic]]) -> TfliteGraph:
        """Return the file with other weights written into their places.

        Parameters
        ----------
        tensors : mapping of str to ndarray
            As in `edge_runtime.generator.quantize.TENSORS`, of the layout that `check` was given.
        """
        graph = bytearray(self.graph)
        for place in self._places:
            graph[place.offset : place.end] = _values(tensors, place).tobytes()
        return TfliteGraph(graph=bytes(graph), table=self.table)

    def holds(self, tensors: Mapping[str, npt.NDArray[np.generic]]) -> bool:
        """Whether the weights in the file are these."""
        return all(
            self.graph[place.offset : place.end] == _values(tensors, place).tobytes()
            for place in self._places
        )


def _values(
    tensors: Mapping[str, npt.NDArray[np.generic]], place: Place
) -> npt.NDArray[np.generic]:
    tensor = np.atleast_2d(tensors[place.tensor])
    part = tensor[place.row : place.row_end, place.column : place.column_end]
    if part.shape != (place.row_end - place.row, place.column_end - place.column):
        raise EngineError(f"{place.tensor} is smaller than the .tflite file needs")
    return np.ascontiguousarray(part.T if place.transposed else part).astype(place.dtype)
