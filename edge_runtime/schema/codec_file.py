"""The codec's file: JSON with the schema and each numeric column's cuts and bins."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import CodecError, SchemaError
from edge_runtime.schema.columns import Column
from edge_runtime.schema.numeric import NumericBins
from edge_runtime.schema.schema import Schema

__all__ = ["decode_document", "encode_document"]

FORMAT = "edge-runtime-codec"
VERSION = 1

#: most bins or slots that a codec from outside may ask memory for
_SIZE_LIMIT = 1 << 16
#: Points of all columns together: 64 MB. They are run-length coded: a kilobyte can ask for more.
_POINTS_LIMIT = 1 << 23


class BinsEntry(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One column's bins as JSON: points run-length coded as [value, times, value, times, ...]."""

    cuts: list[float]
    points: list[list[float]] | None = None
    knots: list[list[float]] | None = None


class CodecDocument(msgspec.Struct, forbid_unknown_fields=True):
    """The whole file."""

    format: str
    version: int
    schema: msgspec.Raw
    bins: dict[str, BinsEntry]


def bins_to_entry(bins: NumericBins) -> BinsEntry:
    """Turn bins into their JSON object."""
    if bins.points is not None:
        return BinsEntry(cuts=bins.cuts.tolist(), points=[_runs(row) for row in bins.points])
    knots = None if bins.knots is None else bins.knots.tolist()
    return BinsEntry(cuts=bins.cuts.tolist(), knots=knots)


def _runs(row: NDArray[np.float64]) -> list[float]:
    starts = np.flatnonzero(np.concatenate([[True], row[1:] != row[:-1]]))
    times = np.diff(np.append(starts, len(row)))
    return np.stack([row[starts], times], axis=1).ravel().tolist()


def bins_from_entry(column: Column, entry: BinsEntry) -> NumericBins:
    """Read bins; a `CodecError` says what does not fit."""
    cuts = np.array(entry.cuts, np.float64)
    body = entry.points if entry.knots is None else entry.knots
    if body is None or len(body) > _SIZE_LIMIT or len(cuts) + 1 != len(body):
        raise CodecError(f"column {column.name!r}: {len(cuts)} cuts do not fit its bins")
    if entry.points is not None and entry.knots is None:
        return NumericBins(column, cuts=cuts, points=_expanded(column, entry.points))
    if entry.points is not None or len({len(row) for row in body}) != 1:
        raise CodecError(f"column {column.name!r}: knots of different lengths, or points beside")
    return NumericBins(column, cuts=cuts, knots=np.array(body, np.float64))


def _expanded(column: Column, rows: list[list[float]]) -> NDArray[np.float64]:
    points = []
    slots = None
    for row in rows:
        values, times = np.array(row[0::2], np.float64), np.array(row[1::2], np.float64)
        fits = len(values) == len(times) and len(times) > 0
        if not fits or (times < 1).any() or (times != np.rint(times)).any():
            raise CodecError(f"column {column.name!r}: points are not pairs of value and times")
        total = int(times.sum()) if times.sum() <= _SIZE_LIMIT else 0
        # a power of two, so that a place among them is exact in float32
        if total != (slots or total) or total < 1 or total & (total - 1):
            raise CodecError(f"column {column.name!r}: bins with {times.sum():g} points")
        slots = total
        points.append(np.repeat(values, times.astype(np.int64)))
    return np.stack(points)


def encode_document(schema: Schema, bins: Mapping[str, NumericBins]) -> bytes:
    """Write the canonical JSON: equal codecs give equal bytes."""
    if sum(own.points.size for own in bins.values() if own.points is not None) > _POINTS_LIMIT:
        raise CodecError(f"more than {_POINTS_LIMIT} points in all bins; use fewer bins")
    document = {
        "format": FORMAT,
        "version": VERSION,
        "schema": msgspec.Raw(schema.to_json()),
        "bins": {name: bins_to_entry(own) for name, own in bins.items()},
    }
    return msgspec.json.encode(document, order="deterministic")


def decode_document(data: bytes | str) -> tuple[Schema, dict[str, NumericBins]]:
    """Read a codec's schema and the bins of its numeric columns.

    Raises
    ------
    CodecError
        The JSON is not a valid codec of this version.
    """
    try:
        document = msgspec.json.decode(data, type=CodecDocument)
        schema = Schema.from_json(bytes(document.schema))
    except (msgspec.MsgspecError, UnicodeError, RecursionError, SchemaError) as error:
        raise CodecError(f"not a codec: {error}") from error
    if document.format != FORMAT or document.version != VERSION:
        raise CodecError(
            f"codec format {document.format!r} version {document.version} is not "
            f"{FORMAT!r} version {VERSION}, which this release reads"
        )
    declared = {column.name: column for column in schema.columns if column.numeric}
    if set(document.bins) != set(declared):
        raise CodecError(
            f"bins for {sorted(document.bins)}, numeric columns are {sorted(declared)}"
        )
    # As the runs say, before memory is asked for; what they say is checked column by column.
    said = (sum(row[1::2]) for entry in document.bins.values() for row in entry.points or ())
    if not sum(said) <= _POINTS_LIMIT:
        raise CodecError(f"more than {_POINTS_LIMIT} points in all bins")
    return schema, {
        name: bins_from_entry(declared[name], entry) for name, entry in document.bins.items()
    }
