"""Round trips of every message, and what strict decoding refuses."""

from __future__ import annotations

import hashlib
import io
import math
import resource
import struct
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
import safetensors.numpy
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.errors import (
    DataError,
    MessageError,
    RangeError,
    ShapeError,
    SizeError,
    VersionError,
)
from edge_runtime.messages import (
    Ack,
    AnchorRequest,
    DeviceState,
    Header,
    Limits,
    Plan,
    PrivacyStatement,
    RowRequest,
    ScoreRequest,
    TrainRequest,
    UpdateRequest,
    decode_ack,
    decode_batch,
    decode_header,
    decode_plan,
    decode_state,
    decode_status,
    decode_summary,
    encode_ack,
    encode_batch,
    encode_header,
    encode_plan,
    encode_state,
    encode_status,
    encode_summary,
    new_id,
    peek_batch,
    peek_summary,
)
from edge_runtime.schema import Column, Schema, marked_of, read_table
from tests.messages import objects as make

quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
JSON: list[tuple[Any, Callable[..., bytes], Callable[..., Any]]] = [
    (make.headers(), encode_header, decode_header),
    (make.plans(), encode_plan, decode_plan),
    (make.states, encode_state, decode_state),
    (make.statuses, encode_status, decode_status),
    (make.acks, encode_ack, decode_ack),
]
DECODERS: list[Callable[[bytes], Any]] = [
    decode_header,
    decode_plan,
    decode_state,
    decode_status,
    decode_ack,
    lambda data: decode_batch(data, cardinalities=[3, 300], names=["a", "b"]),
    lambda data: decode_summary(data, sizes=[3, 2]),
    peek_batch,
    peek_summary,
]
PRIVACY = PrivacyStatement(mechanism="dp-sgd", epsilon=2.5, delta=1e-5)
TOO_LARGE_COUNTS = 2**49


def header(kind: str = "batch", **changes: Any) -> Header:
    fields: dict[str, Any] = {
        "fleet": "f", "device": "d", "id": "0" * 32, "sequence": 7, "kind": kind,
        "schema_digest": "a" * 64, "privacy": PRIVACY, "extra": {"sigma": 2.0, "clip_nats": 9.0},
    }  # fmt: skip
    return Header(**fields | changes)


def some_batch() -> bytes:
    codes = np.array([[0, 299], [2, 0], [1, 256]], dtype=np.int32)
    return encode_batch(header(), codes, cardinalities=[3, 300], names=["a", "b"])


def some_summary() -> bytes:
    tensors = {
        "table.0": np.array([1, -2, 3]),
        "table.1": np.array([4, 5]),
        "table.0.1": np.zeros((3, 2), np.int64),
    }
    return encode_summary(header("anchor"), tensors)


# --- round trips ------------------------------------------------------------------------------


@pytest.mark.parametrize(("objects", "encode", "decode"), JSON)
@quick
@given(data=st.data())
def test_json_messages_survive_the_round_trip(
    data: st.DataObject, objects: Any, encode: Callable[..., bytes], decode: Callable[..., Any]
) -> None:
    message = data.draw(objects)
    encoded = encode(message)
    assert decode(encoded) == message
    assert encode(decode(encoded)) == encoded


@quick
@given(batch=make.batches())
def test_batches_survive_the_round_trip(batch: Any) -> None:
    before, codes, cardinalities, names = batch
    data = encode_batch(before, codes, cardinalities=cardinalities, names=names)
    after, decoded = decode_batch(data, cardinalities=cardinalities, names=names)
    assert after == before == peek_batch(data)
    assert decoded.dtype == np.int32
    assert decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, codes)
    strided = np.asfortranarray(codes)
    assert encode_batch(before, strided, cardinalities=cardinalities, names=names) == data


@quick
@given(summary=make.summaries())
def test_summaries_survive_the_round_trip(summary: Any) -> None:
    before, tensors, sizes = summary
    data = encode_summary(before, tensors)
    for known in (sizes, None):
        after, decoded = decode_summary(data, sizes=known)
        assert after == before == peek_summary(data)
        assert decoded.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert decoded[name].dtype == np.int64
            assert decoded[name].flags.writeable
            np.testing.assert_array_equal(decoded[name], tensor)


# --- nothing but MessageError ------------------------------------------------------------------


def refuses_or_decodes(data: bytes) -> None:
    for decode in DECODERS:
        try:
            decode(data)
        except MessageError:
            continue


@quick
@given(data=st.binary(max_size=300))
def test_random_bytes_raise_message_errors_only(data: bytes) -> None:
    refuses_or_decodes(data)
    refuses_or_decodes(zstandard.compress(data))
    refuses_or_decodes(zstandard.compress(struct.pack("<II", 0xFFFFFFFF, len(data)) + data))
    refuses_or_decodes(zstandard.compress(struct.pack("<Q", len(data)) + data))


@pytest.mark.parametrize("make_message", [some_batch, some_summary])
def test_truncated_messages_are_refused(make_message: Callable[[], bytes]) -> None:
    data = make_message()
    raw = zstandard.decompress(data)
    for cut in [*[data[:n] for n in range(len(data))],
                *[zstandard.compress(raw[:n]) for n in range(len(raw))]]:  # fmt: skip
        for decode in DECODERS[:-2]:
            with pytest.raises(MessageError):
                decode(cut)
        refuses_or_decodes(cut)  # a header may be read from a message whose body is cut off


@pytest.mark.parametrize(("objects", "encode", "decode"), JSON)
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_truncated_json_is_refused(
    data: st.DataObject, objects: Any, encode: Callable[..., bytes], decode: Callable[..., Any]
) -> None:
    encoded = encode(data.draw(objects))
    for n in range(len(encoded)):
        with pytest.raises(MessageError):
            decode(encoded[:n])


@pytest.mark.parametrize("make_message", [some_batch, some_summary])
def test_flipped_bytes_raise_message_errors_only(make_message: Callable[[], bytes]) -> None:
    """Also below the compression, where the Arrow and safetensors readers see the damage."""
    data = bytearray(make_message())
    raw = bytearray(zstandard.decompress(bytes(data)))
    rng = np.random.default_rng(5)
    for _ in range(1500):
        damaged = bytearray(raw)
        for place in rng.integers(0, len(raw), rng.integers(1, 4)):
            damaged[place] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)])
        refuses_or_decodes(zstandard.compress(bytes(damaged)))
    for place in range(len(data)):
        damaged = data.copy()
        damaged[place] ^= 1 << rng.integers(8)
        refuses_or_decodes(bytes(damaged))


@pytest.mark.parametrize("decode", DECODERS[:5])
def test_hostile_json_is_refused(decode: Callable[[bytes], Any]) -> None:
    for data in (
        b"", b"null", b"[]", b"\xff\xfe", b"{", b'{"version": 1}', b'{"version": "1"}',
        b"[" * 200_000, b'{"version": 1, "x": ' + b"[" * 200_000, b'{"version": 1e400}',
        b'{"version": 1, "reason": "\xed\xa0\x80"}',
    ):  # fmt: skip
        with pytest.raises(MessageError):
            decode(data)


# --- versions, unknown fields, ranges -----------------------------------------------------------


@pytest.mark.parametrize(("objects", "encode", "decode"), JSON)
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_other_versions_and_unknown_or_missing_fields_are_refused(
    data: st.DataObject, objects: Any, encode: Callable[..., bytes], decode: Callable[..., Any]
) -> None:
    plain = msgspec.json.decode(encode(data.draw(objects)))
    # A later version may have fields that this one does not know: the version is what to report.
    with pytest.raises(VersionError, match="version 2"):
        decode(msgspec.json.encode(plain | {"version": 2, "new": 1}))
    with pytest.raises(RangeError, match="new"):
        decode(msgspec.json.encode(plain | {"new": 1}))
    del plain["version"]
    with pytest.raises(RangeError, match="version"):
        decode(msgspec.json.encode(plain))


@pytest.mark.parametrize(
    "changes",
    [
        {"fleet": "a.b"}, {"fleet": "A"}, {"fleet": ""}, {"fleet": "a\n"}, {"fleet": "a" * 64},
        {"device": "all"}, {"device": "-a"}, {"device": "a/b"}, {"device": "+"},
        {"id": "0" * 31}, {"id": "0" * 32 + "\n"}, {"id": "G" * 32}, {"schema_digest": ""},
        {"sequence": -1}, {"sequence": 2**63}, {"sequence": 2**70}, {"sequence": True},
        {"kind": "weights"}, {"seed": "00"}, {"parts": 0}, {"depth": 1.5},
        {"extra": {"a": None}}, {"extra": {"a": math.nan}},
        {"extra": {str(i): i for i in range(33)}}, {"extra": {"a": "\ud800"}},
        {"privacy": PrivacyStatement(mechanism="m", epsilon=math.inf, delta=0.1)},
        {"privacy": PrivacyStatement(mechanism="m", epsilon=math.nan, delta=0.1)},
        {"privacy": PrivacyStatement(mechanism="m", epsilon=-1.0, delta=0.1)},
        {"privacy": PrivacyStatement(mechanism="m", epsilon=1.0, delta=1.0)},
    ],
)  # fmt: skip
def test_headers_out_of_range_are_never_sent(changes: dict[str, Any]) -> None:
    with pytest.raises(RangeError):
        encode_header(msgspec.structs.replace(header(), **changes))


def test_parts_count_from_one() -> None:
    with pytest.raises(RangeError, match="part 3 of 2"):
        header(part=3, parts=2)


def test_plans_must_be_consistent() -> None:
    common: dict[str, Any] = {
        "fleet": "f", "id": new_id(), "round": 1, "schema_digest": "a" * 64,
        "epsilon_after": 8.0, "delta": 1e-5, "deadline_s": 60.0, "quorum": 2,
    }  # fmt: skip
    train = TrainRequest(steps=1, expected_batch=1, clip_norm=1.0, learning_rate=0.1)
    rows = RowRequest(share=1.0, minimum=0, maximum=10)
    Plan(kind="train", bundle_digest="b" * 64, train=train, rows=rows, **common)
    with pytest.raises(RangeError, match="needs bundle_digest"):
        Plan(kind="train", bundle_digest="b" * 64, train=train, **common)
    with pytest.raises(RangeError, match="'census' has no"):
        Plan(kind="census", rows=rows, **common)
    with pytest.raises(RangeError, match="ascending"):
        AnchorRequest(share=0.1, tables=((2, 2),))
    with pytest.raises(RangeError, match="ascending"):
        AnchorRequest(share=0.1, tables=((0, 3, 1),))
    with pytest.raises(RangeError, match="twice"):
        AnchorRequest(share=0.1, tables=((0, 1), (2,), (0, 1)))
    with pytest.raises(RangeError, match="minimum 5"):
        RowRequest(share=1.0, minimum=5, maximum=4)
    for wrong in ({"clamp": "wish"}, {"wish": (1.0,)}, {"clamp": "wish", "wish": (0.0, 0.0)}):
        with pytest.raises(RangeError, match="wish"):
            RowRequest(share=1.0, minimum=0, maximum=10, **wrong)
    bundle: dict[str, Any] = {"bundle_digest": "b" * 64}
    anchor = AnchorRequest(share=0.7, tables=((0,),))
    score = ScoreRequest(share=0.3, clip_nats=20.0)
    update = UpdateRequest(clip_norm=1.0)
    Plan(kind="measure", anchor=anchor, score=score, holdout=0.1, **bundle, **common)
    for parts in ({}, {"anchor": anchor, "rows": rows}, {"anchor": anchor, "update": update}):
        with pytest.raises(RangeError, match="'measure' needs"):
            Plan(kind="measure", **bundle, **parts, **common)
    with pytest.raises(RangeError, match="'measure' needs"):
        Plan(kind="measure", anchor=anchor, **common)
    Plan(kind="sample", rows=rows, **bundle, **common)
    for parts in (
        {},
        {"rows": rows, "train": train},
        {"rows": rows, "anchor": anchor},
        {"rows": rows, "update": update},
        {"rows": rows, "holdout": 0.1},
    ):
        with pytest.raises(RangeError, match="'sample' needs"):
            Plan(kind="sample", **bundle, **parts, **common)
    with pytest.raises(RangeError, match="'sample' needs"):
        Plan(kind="sample", rows=rows, **common)
    with pytest.raises(RangeError, match="held-out"):
        Plan(kind="measure", score=score, **bundle, **common)
    with pytest.raises(RangeError, match="nothing is left"):
        Plan(kind="train", train=train, rows=rows, anchor=anchor, score=score, holdout=0.1,
             **bundle, **common)  # fmt: skip
    for parts in ({"holdout": 0.1}, {"update": update}, {"anchor": anchor}):
        with pytest.raises(RangeError, match="'census' has no"):
            Plan(kind="census", **parts, **common)
    # The same checks guard what arrives.
    data = encode_plan(Plan(kind="census", **common))
    with pytest.raises(RangeError, match="needs bundle_digest"):
        decode_plan(data.replace(b'"census"', b'"train"'))


def test_a_lost_epsilon_never_becomes_none() -> None:
    """JSON writes an infinite number as null, which would read as WITHOUT PRIVACY."""
    with pytest.raises(RangeError, match="infinite"):
        encode_state(DeviceState(device="d", status="idle", epsilon_spent=math.inf))


def test_json_messages_are_limited_in_size() -> None:
    ack = Ack(id=new_id(), sequence=1, sha256=hashlib.sha256(b"").hexdigest(), status="accepted")
    data = encode_ack(ack)
    assert decode_ack(data, limits=Limits(json_bytes=len(data))) == ack
    with pytest.raises(SizeError, match=f"{len(data)} bytes"):
        decode_ack(data, limits=Limits(json_bytes=len(data) - 1))


# --- batches -------------------------------------------------------------------------------------


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


# --- bombs ---------------------------------------------------------------------------------------


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


# --- summaries -----------------------------------------------------------------------------------


def tensors_file(tensors: dict[str, np.ndarray], kind: str = "census", **changes: Any) -> bytes:
    """A summary as other software would write it."""
    metadata = {"edge_runtime": encode_header(header(kind, **changes)).decode()}
    return zstandard.compress(safetensors.numpy.save(tensors, metadata=metadata))


@pytest.mark.parametrize(
    ("error", "kind", "tensors"),
    [
        (ShapeError, "batch", {"census.0": np.zeros(3, np.int64)}),
        (ShapeError, "census", {}),
        (ShapeError, "census", {"census.0": np.zeros(3, np.int32)}),
        (ShapeError, "census", {"census.0": np.zeros(3)}),
        (ShapeError, "census", {"census.0": np.zeros((1, 3), np.int64)}),
        (ShapeError, "census", {"census.1": np.zeros(3, np.int64)}),
        (ShapeError, "census", {"census.0": np.zeros(3, np.int64), "x": np.zeros(1, np.int64)}),
        (ShapeError, "census", {"table.0": np.zeros(3, np.int64)}),
        (ShapeError, "census", {"census.0": np.zeros(0, np.int64)}),
        (RangeError, "census", {"census.0": np.array([0, TOO_LARGE_COUNTS])}),
        (RangeError, "census", {"census.0": np.array([0, -TOO_LARGE_COUNTS])}),
        (ShapeError, "anchor", {"table.0": np.zeros(3, int), "table.0.0": np.zeros((3, 3), int)}),
        (ShapeError, "anchor", {"table.0": np.zeros(3, int), "table.0.1": np.zeros((2, 3), int)}),
        (ShapeError, "anchor", {"table.0.1": np.zeros(3, int)}),
        (ShapeError, "anchor", {"table.1.0": np.zeros((3, 3), int)}),
        (ShapeError, "anchor", {"table.00": np.zeros(3, np.int64)}),
        (ShapeError, "anchor", {"table.0.1.2.3.4": np.zeros((1, 1, 1, 1, 1), np.int64)}),
        (ShapeError, "score", {"score": np.zeros(3, np.int64)}),
        (ShapeError, "score", {"score": np.zeros(2, np.int64), "x": np.zeros(2, np.int64)}),
        (ShapeError, "score", {"score": np.zeros(2, np.float32)}),
    ],
)  # fmt: skip
def test_summaries_with_other_tensors_are_refused(
    error: type[MessageError], kind: str, tensors: dict[str, np.ndarray]
) -> None:
    with pytest.raises(error):
        decode_summary(tensors_file(tensors, kind))
    with pytest.raises(error):
        encode_summary(header(kind), tensors)


def test_shapes_are_held_against_the_schema() -> None:
    data = some_summary()
    decode_summary(data, sizes=[3, 2])
    decode_summary(data, sizes=[3, 2, 1])
    for sizes in ([3], [2, 3], []):
        with pytest.raises(ShapeError):
            decode_summary(data, sizes=sizes)


@pytest.mark.parametrize("extra", [{}, {"sigma": -1.0}, {"sigma": "2"}])
def test_a_summary_must_state_its_noise(extra: dict[str, Any]) -> None:
    tensors = {"census.0": np.zeros(3, np.int64)}
    with pytest.raises(RangeError, match="sigma"):
        decode_summary(tensors_file(tensors, extra=extra))


def test_summaries_are_limited_in_every_size() -> None:
    data = some_summary()
    raw = len(zstandard.decompress(data))
    fits = Limits(message_bytes=len(data), raw_bytes=raw, tensors=3)
    decode_summary(data, limits=fits)
    for smaller in ({"message_bytes": len(data) - 1}, {"raw_bytes": raw - 1}, {"tensors": 2},
                    {"header_bytes": 100}, {"cells": 10}):  # fmt: skip
        with pytest.raises(SizeError):
            decode_summary(data, limits=msgspec.structs.replace(fits, **smaller))
    for least in ({"tensors": 0}, {"cells": 2}):
        with pytest.raises(SizeError):
            encode_summary(
                header("census"), {"census.0": np.zeros(3, np.int64)}, limits=Limits(**least)
            )


def test_a_safetensors_file_without_header_is_refused() -> None:
    plain = safetensors.numpy.save({"census.0": np.zeros(3, np.int64)})
    with pytest.raises(MessageError, match="__metadata__"):
        peek_summary(zstandard.compress(plain))


# --- size on the wire ----------------------------------------------------------------------------


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
