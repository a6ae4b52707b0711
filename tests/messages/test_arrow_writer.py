"""What batches are written as, read by Arrow's own library and by another."""

from __future__ import annotations

import io

import nanoarrow
import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest

from edge_runtime.messages.arrow_stream import ArrowStream, Codes
from edge_runtime.messages.arrow_writer import arrow_stream


def columns(names: list[str], rows: int) -> dict[str, Codes]:
    rng = np.random.default_rng(rows)
    types = [np.uint8, np.uint16]
    return {
        name: rng.integers(0, np.iinfo(types[i % 2]).max + 1, rows).astype(types[i % 2])
        for i, name in enumerate(names)
    }


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 4096])
@pytest.mark.parametrize("names", [["a"], ["é", "", "c"], [f"column {i}" for i in range(100)]])
def test_arrow_reads_what_was_written(names: list[str], rows: int) -> None:
    written = columns(names, rows)
    for size in range(9):  # strings of every length modulo the alignment
        metadata = {b"edge_runtime": b"x" * size, b"empty": b""}
        raw = b"".join(arrow_stream(written, metadata=metadata))
        table = pa.ipc.open_stream(raw).read_all()
        table.validate(full=True)
        assert table.column_names == names
        assert table.schema.metadata == metadata
        for name, codes in written.items():
            assert table[name].null_count == 0
            assert table[name].type == pa.from_numpy_dtype(codes.dtype)
            np.testing.assert_array_equal(table[name].to_numpy(), codes)


def test_another_library_and_our_own_reader_agree() -> None:
    written = columns(["a", "b", "c"], 1000)
    raw = b"".join(arrow_stream(written, metadata={b"key": b"value"}))
    array = nanoarrow.ArrayStream.from_readable(io.BytesIO(raw)).read_all()
    ours = ArrowStream(raw, columns=3)
    assert ours.metadata("key", most=5) == b"value"
    for index, codes in enumerate(written.values()):
        assert array.child(index).to_pylist() == codes.tolist()
        np.testing.assert_array_equal(ours.columns(rows=1000)[index], codes)


def test_a_piece_ends_where_a_column_does() -> None:
    # Compression has a table of its own for each piece.
    written = columns(["a", "b"], 9)
    pieces = arrow_stream(written, metadata={})
    assert [len(piece) for piece in pieces[1:]] == [16, 24, 8]
