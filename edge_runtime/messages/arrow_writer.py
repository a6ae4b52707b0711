"""Writes the Arrow streams that batches are, in the one form that `arrow_stream` reads.

General writers take 3 MB of a device's memory for a schema and a few buffers. The layout is that of
`Message.fbs` and `Schema.fbs` of Apache Arrow, metadata version 5.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from edge_runtime.messages.arrow_stream import Codes
from edge_runtime.messages.flatbuffers_writer import Pairs, Scalar, TableFields, encode

__all__ = ["arrow_stream"]

_CONTINUATION = 0xFFFFFFFF
# MetadataVersion, MessageHeader and Type; the numbers of fields stand beside their names below.
_V5, _SCHEMA, _RECORD_BATCH, _INT = 4, 1, 3, 2


def arrow_stream(
    columns: Mapping[str, Codes], *, metadata: Mapping[bytes, bytes]
) -> list[bytes | memoryview]:
    """Encode columns as a stream of one record batch.

    Parameters
    ----------
    columns : mapping of str to uint8 or uint16 [rows]
        By name, contiguous, of the same length.
    metadata : mapping of bytes to bytes
        Of the schema.

    Returns
    -------
    list of bytes or memoryview
        The stream in pieces: what comes before the first column, each column with what fills it
        up to 8 bytes, and the end mark. The columns are not copied where nothing is filled up.
    """
    # Field: 0 name, 2 and 3 type (Int: 0 bits, 1 signed), 5 children.
    fields: list[TableFields] = [
        {
            0: name.encode(),
            2: Scalar("<B", _INT),
            3: {0: Scalar("<i", 8 * column.itemsize), 1: Scalar("<B", 0)},
            5: [],
        }
        for name, column in columns.items()
    ]
    # Schema: 1 fields, 2 metadata (KeyValue: 0 key, 1 value); endianness is little by default.
    entries: list[TableFields] = [{0: key, 1: value} for key, value in metadata.items()]
    head = _message(_SCHEMA, {1: fields, 2: entries}, body_bytes=0)
    bodies = [_filled(column) for column in columns.values()]
    rows = len(next(iter(columns.values())))
    buffers, at = [], 0
    for column, body in zip(columns.values(), bodies, strict=True):
        buffers += [(at, 0), (at, column.nbytes)]  # validity: there are no nulls
        at += len(body)
    # RecordBatch: 0 length, 1 nodes (length and nulls of each column), 2 buffers (offset, length).
    batch: TableFields = {
        0: Scalar("<q", rows),
        1: Pairs([(rows, 0)] * len(columns)),
        2: Pairs(buffers),
    }
    head += _message(_RECORD_BATCH, batch, body_bytes=at)
    return [head, *bodies, struct.pack("<II", _CONTINUATION, 0)]


def _message(kind: int, header: TableFields, *, body_bytes: int) -> bytes:
    # Message: 0 version, 1 and 2 header, 3 length of the body.
    metadata = encode(
        {
            0: Scalar("<h", _V5),
            1: Scalar("<B", kind),
            2: header,
            3: Scalar("<q", body_bytes),
        }
    )
    return struct.pack("<II", _CONTINUATION, len(metadata)) + metadata


def _filled(column: Codes) -> bytes | memoryview:
    little: Codes = column.astype(column.dtype.newbyteorder("<"), copy=False)
    lacking = -little.nbytes % 8
    return little.data.cast("B") if not lacking else little.tobytes() + bytes(lacking)
