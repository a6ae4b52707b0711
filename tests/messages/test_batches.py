"""Batches: what other software may send, bombs, and their size on the wire."""

from __future__ import annotations

import io
import resource
import struct
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
import zstandard

from edge_runtime.errors import (
    DataError,
    MessageError,
    RangeError,
    ShapeError,
    SizeError,
)
from edge_runtime.messages import (
    Limits,
    decode_batch,
    encode_batch,
    encode_header,
    new_id,
    peek_batch,
)
from edge_runtime.schema import Column, Schema, marked_of, read_table
from tests.messages import objects as make
from tests.messages.samples import DECODERS, header, some_batch, some_summary


def arrow(
    table: pa.Table, *, kind: str = "batch", options: pa.ipc.IpcWriteOptions | None = None, **h: Any
) -> bytes:
    """A batch as other software would write it."""
    metadata = {"edge_runtime": encode_header(header(kind, **h))}
    table = table.replace_schema_metadata(metadata)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return zstandard.compress(sink.getvalue())


AB: dict[str, Any] = {"cardinalities": [3, 300], "names": ["a", "b"]}
GOOD = pa.table({"a": pa.array([0, 2], pa.uint8()), "b": pa.array([0, 299], pa.uint16())})


def test_batches_of_other_software_are_read() -> None:
    head, codes = decode_batch(arrow(GOOD), **AB)
    assert head == header()
    assert codes.tolist() == [[0, 0], [2, 299]]


@pytest.mark.parametrize(
    ("error", "table"),
    [
        (ShapeError, GOOD.select(["a"])),
        (ShapeError, GOOD.select(["b", "a"])),
        (ShapeError, GOOD.rename_columns(["a", "c"])),
        (ShapeError, GOOD.append_column("c", GOOD["a"])),
        (ShapeError, GOOD.set_column(0, "a", pa.array([0, 1], pa.int32()))),
        (ShapeError, GOOD.set_column(0, "a", pa.array(["x", "y"]))),
        (ShapeError, GOOD.set_column(0, "a", pa.array(["x", "y"]).dictionary_encode())),
        (ShapeError, GOOD.set_column(0, "a", pa.array([0, None], pa.uint8()))),
        (RangeError, GOOD.set_column(0, "a", pa.array([0, 3], pa.uint8()))),
        (RangeError, GOOD.set_column(1, "b", pa.array([300, 0], pa.uint16()))),
        (ShapeError, pa.concat_tables([GOOD, GOOD])),
    ],
)
def test_batches_that_do_not_fit_the_codec_are_refused(
    error: type[MessageError], table: pa.Table
) -> None:
    with pytest.raises(error):
        decode_batch(arrow(table), **AB)


def test_a_batch_is_marked_as_synthetic() -> None:
    codes = np.array([[0, 1]], dtype=np.int32)
    data = encode_batch(header(depth=3), codes, **AB)
    stream = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    table = pa.ipc.open_stream(stream).read_all()
    assert marked_of(table.schema.metadata) == {"fleet": "f", "depth": 3}
    schema = Schema(name="t", columns=(Column(name="a", kind="integer", low=0, high=9),))
    with pytest.raises(DataError, match="synthetic rows where real ones belong"):
        read_table(table, schema)


def test_a_batch_needs_a_header_of_its_kind() -> None:
    for data in (arrow(GOOD, kind="census"), some_summary()):
        with pytest.raises(MessageError):
            decode_batch(data, **AB)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, GOOD.schema) as writer:
        writer.write_table(GOOD)
    with pytest.raises(MessageError, match="no 'edge_runtime'"):
        decode_batch(zstandard.compress(sink.getvalue()), **AB)


def test_the_encoder_refuses_what_the_decoder_would() -> None:
    codes = np.array([[0, 1]], dtype=np.int32)
    for error, arguments in [
        (ShapeError, (header("census"), codes, [3, 300], ["a", "b"])),
        (ShapeError, (header(), codes, [3], ["a"])),
        (ShapeError, (header(), codes[0], [3, 300], ["a", "b"])),
        (ShapeError, (header(), codes, [3, 300], ["a", "a"])),
        (ShapeError, (header(), codes, [3, 300], ["a"])),
        (ShapeError, (header(), codes[:, :0], [], [])),
        (RangeError, (header(), codes, [3, 65_537], ["a", "b"])),
        (RangeError, (header(), codes, [3, 1], ["a", "b"])),
        (RangeError, (header(), -codes, [3, 300], ["a", "b"])),
    ]:
        with pytest.raises(error):
            encode_batch(arguments[0], arguments[1], cardinalities=arguments[2], names=arguments[3])
    many = np.zeros((11, 2), dtype=np.int32)
    for limits in (Limits(rows=10), Limits(columns=1), Limits(raw_bytes=100),
                   Limits(message_bytes=100)):  # fmt: skip
        with pytest.raises(SizeError):
            encode_batch(header(), many, **AB, limits=limits)


def test_batches_are_limited_in_every_size() -> None:
    data = some_batch()
    raw = len(zstandard.decompress(data))
    fits = Limits(message_bytes=len(data), raw_bytes=raw, rows=3, columns=2)
    decode_batch(data, **AB, limits=fits)
    for smaller in ({"message_bytes": len(data) - 1}, {"raw_bytes": raw - 1}, {"rows": 2},
                    {"columns": 1}, {"header_bytes": 100}):  # fmt: skip
        with pytest.raises(SizeError):
            decode_batch(data, **AB, limits=msgspec.structs.replace(fits, **smaller))


def test_a_batch_without_columns_is_refused() -> None:
    empty = arrow(GOOD.select([]))
    assert peek_batch(empty) == header()
    with pytest.raises(ShapeError, match="no columns"):
        decode_batch(empty, **AB)


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_a_zstandard_bomb_is_refused_before_it_takes_memory() -> None:
    compressor = zstandard.ZstdCompressor(level=1).compressobj(size=1 << 30)
    megabyte = bytes(1 << 20)
    bomb = b"".join([compressor.compress(megabyte) for _ in range(1 << 10)] + [compressor.flush()])
    assert len(bomb) < 200_000
    before = peak_memory()
    for decode in DECODERS[5:]:
        with pytest.raises(SizeError, match=str(1 << 30)):
            decode(bomb)
    assert peak_memory() - before < 16 << 20


def test_a_frame_that_hides_or_forges_its_size_is_refused() -> None:
    raw = bytes(1 << 20)
    hidden = zstandard.ZstdCompressor(write_content_size=False).compress(raw)
    with pytest.raises(MessageError, match="does not state"):
        peek_batch(hidden)
    honest = zstandard.ZstdCompressor().compress(raw)
    at = honest.index(struct.pack("<I", 1 << 20))
    for forged_size in (1 << 10, 1 << 21):
        forged = honest[:at] + struct.pack("<I", forged_size) + honest[at + 4 :]
        with pytest.raises(MessageError, match="damaged"):
            peek_batch(forged)
    with pytest.raises(MessageError, match="damaged"):
        peek_batch(honest + b"more")
    with pytest.raises(MessageError):
        peek_batch(zstandard.compress(b""))


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_a_bomb_inside_the_arrow_stream_is_refused(codec: str) -> None:
    """Arrow can compress each buffer: small before and after the outer frame, then huge."""
    table = pa.table({"a": pa.array(np.zeros(1 << 26, np.uint8)),
                      "b": pa.array(np.zeros(1 << 26, np.uint16))})  # fmt: skip
    data = arrow(table, options=pa.ipc.IpcWriteOptions(compression=codec))
    assert len(zstandard.decompress(data)) < Limits().raw_bytes
    before = peak_memory()
    with pytest.raises(ShapeError, match="compressed"):
        decode_batch(data, **AB)
    assert peak_memory() - before < 16 << 20


def test_forged_row_counts_are_refused() -> None:
    raw = zstandard.decompress(some_batch())
    count = struct.pack("<q", 3)
    places = [i for i in range(len(raw)) if raw.startswith(count, i)]
    assert places
    for forged in (2**62, 2**31, -1, 4, 64):
        damaged = raw
        for place in places:
            damaged = damaged[:place] + struct.pack("<q", forged) + damaged[place + 8 :]
        with pytest.raises(MessageError):
            decode_batch(zstandard.compress(damaged), **AB)


@pytest.mark.parametrize(("rows", "most"), [(4096, 1.25), (1000, 1.5)])
def test_a_batch_stays_close_to_the_entropy_bound(rows: int, most: float) -> None:
    rng = np.random.default_rng(0)
    cardinalities = [2, 12, 31, 24, 3, 31, 18, 32, 33, 33, 32, 2, 18, 18, 40]
    codes = np.stack(
        [rng.choice(k, rows, p=rng.dirichlet(np.full(k, 0.7))) for k in cardinalities], axis=1
    ).astype(np.int32)
    names = [f"column_{d}" for d in range(len(cardinalities))]
    key = rng.bytes(32).hex()
    data = encode_batch(
        header(id=new_id(), codec_digest=key, bundle_digest=key[::-1], seed=rng.bytes(32).hex()),
        codes,
        cardinalities=cardinalities,
        names=names,
    )
    assert len(data) / rows < most * make.entropy_bytes(codes)
