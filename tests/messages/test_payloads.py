"""Round trips of every message, and what strict decoding refuses."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.errors import (
    MessageError,
    RangeError,
    SizeError,
    VersionError,
)
from edge_runtime.messages import (
    Ack,
    AnchorRequest,
    DeviceState,
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
from tests.messages import objects as make
from tests.messages.samples import DECODERS, header, some_batch, some_summary

quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
JSON: list[tuple[Any, Callable[..., bytes], Callable[..., Any]]] = [
    (make.headers(), encode_header, decode_header),
    (make.plans(), encode_plan, decode_plan),
    (make.states, encode_state, decode_state),
    (make.statuses, encode_status, decode_status),
    (make.acks, encode_ack, decode_ack),
]


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
        {"extra": {"a": 2**63}}, {"extra": {"a": -(2**63) - 1}},
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
    for clip_norm in (0.09, 2e6, float("nan")):
        with pytest.raises(RangeError, match=f"clip_norm {clip_norm:g}".replace("+", ".")):
            TrainRequest(steps=1, expected_batch=1, clip_norm=clip_norm, learning_rate=0.1)
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
