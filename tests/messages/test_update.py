"""Weight updates on the wire: what is lost, what is bounded, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import zstandard

from edge_runtime.errors import MessageError, RangeError, ShapeError, SizeError
from edge_runtime.generator import Layout, Weights
from edge_runtime.messages import (
    Header,
    Limits,
    PrivacyStatement,
    clip_update,
    decode_summary,
    decode_update,
    encode_header,
    encode_update,
    new_id,
    peek_summary,
    update_norm,
)

LAYOUT = Layout(cardinalities=(2, 5, 3), hidden=8)


def header(kind: str = "update", **extra: Any) -> Header:
    return Header(
        fleet="f", device="d", id=new_id(), sequence=0, kind=kind, schema_digest="a" * 64,  # type: ignore[arg-type]
        bundle_digest="b" * 64,
        privacy=PrivacyStatement(mechanism="dp-sgd", epsilon=2.0, delta=1e-5),
        extra={"clip_norm": 100.0, **extra},
    )  # fmt: skip


def some_delta(scale: float = 0.1) -> Weights:
    flat = np.random.default_rng(0).normal(0, scale, LAYOUT.parameters).astype(np.float32)
    return LAYOUT.unflatten(flat)


def test_an_update_survives_up_to_half_a_step() -> None:
    delta = some_delta()
    before = header()
    data = encode_update(before, delta, layout=LAYOUT)
    after, decoded = decode_update(data, layout=LAYOUT)
    assert after == before == peek_summary(data)
    for name, old, new in zip(Weights._fields, delta, decoded, strict=True):
        assert new.dtype == np.float32
        assert np.abs(new - old).max() <= 0.51 * np.abs(old).max() / 127, name
    # One byte a parameter and the header, against four.
    assert len(data) < LAYOUT.parameters + 900


def test_an_update_is_never_longer_than_its_bound() -> None:
    delta = some_delta(scale=3.0)
    assert update_norm(delta) > 20
    _, decoded = decode_update(
        encode_update(header(clip_norm=2.0), delta, layout=LAYOUT), layout=LAYOUT
    )
    assert 1.95 < update_norm(decoded) <= 2.0 * (1 + 1e-6)
    # Its direction stays.
    flat, clipped = LAYOUT.flatten(delta), LAYOUT.flatten(decoded)
    assert flat @ clipped > 0.999 * np.linalg.norm(flat) * np.linalg.norm(clipped)
    short = clip_update(delta, 1e9)
    assert all(a is b for a, b in zip(short, delta, strict=True))
    nothing = Weights(*(np.zeros_like(t) for t in delta))
    _, decoded = decode_update(encode_update(header(), nothing, layout=LAYOUT), layout=LAYOUT)
    assert update_norm(decoded) == 0.0


def tensors(**changes: Any) -> dict[str, np.ndarray]:
    made: dict[str, Any] = {
        name: np.zeros(t.shape, np.int8)
        for name, t in zip(Weights._fields, some_delta(), strict=True)
    }
    made["scales"] = np.full(6, 0.5, np.float32)
    made.update(changes)
    return {name: value for name, value in made.items() if value is not None}


def file(body: dict[str, np.ndarray], head: Header) -> bytes:
    metadata = {"edge_runtime": encode_header(head).decode()}
    return zstandard.compress(safetensors.numpy.save(body, metadata=metadata))


def masked() -> np.ndarray:
    w1 = np.zeros(LAYOUT.masks[0].shape, np.int8)
    w1[LAYOUT.masks[0] == 0] = 1
    return w1


@pytest.mark.parametrize(
    ("error", "words", "changes"),
    [
        (ShapeError, "tensors", {"w2": None}),
        (ShapeError, "tensors", {"x": np.zeros(1, np.int8)}),
        (ShapeError, "scales", {"scales": np.zeros(5, np.float32)}),
        (ShapeError, "scales", {"scales": np.zeros(6, np.int8)}),
        (ShapeError, "w1", {"w1": np.zeros((10, 9), np.int8)}),
        (ShapeError, "b3", {"b3": np.zeros(10, np.float32)}),
        (RangeError, "finite", {"scales": np.full(6, np.nan, np.float32)}),
        (RangeError, "finite", {"scales": np.full(6, -1.0, np.float32)}),
        (RangeError, "finite", {"b1": np.full(8, 127, np.int8),
                                "scales": np.full(6, 3e38, np.float32)}),
        (RangeError, "masks", {"w1": masked()}),
    ],
)  # fmt: skip
def test_other_tensors_are_refused(
    error: type[MessageError], words: str, changes: dict[str, Any]
) -> None:
    with np.errstate(over="ignore"), pytest.raises(error, match=words):
        decode_update(file(tensors(**changes), header()), layout=LAYOUT)


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, "1"])
def test_the_bound_must_be_stated(clip_norm: float | str) -> None:
    with pytest.raises(RangeError, match="clip_norm"):
        decode_update(file(tensors(), header(clip_norm=clip_norm)), layout=LAYOUT)
    with pytest.raises(RangeError, match="clip_norm"):
        encode_update(header(clip_norm=clip_norm), some_delta(), layout=LAYOUT)


def test_updates_and_counts_are_not_taken_for_each_other() -> None:
    update = encode_update(header(), some_delta(), layout=LAYOUT)
    with pytest.raises(ShapeError, match="kind 'update'"):
        decode_summary(update)
    with pytest.raises(ShapeError, match="kind 'anchor'"):
        decode_update(file(tensors(), header("anchor")), layout=LAYOUT)


def test_what_no_reader_would_take_is_not_sent() -> None:
    bad = some_delta()._replace(b1=np.full(8, math.inf, np.float32))
    with pytest.raises(RangeError, match="finite"):
        encode_update(header(), bad, layout=LAYOUT)
    with pytest.raises(ShapeError, match="w1"):
        encode_update(header(), some_delta(), layout=Layout(cardinalities=(3, 5, 3), hidden=8))
    with pytest.raises(SizeError):
        encode_update(header(), some_delta(), layout=LAYOUT, limits=Limits(message_bytes=100))


def damaged(data: bytes) -> Iterator[bytes]:
    raw = bytearray(zstandard.decompress(data))
    rng = np.random.default_rng(1)
    for _ in range(600):
        copy = raw.copy()
        for place in rng.integers(0, len(raw), 3):
            copy[place] = rng.integers(256)
        yield zstandard.compress(bytes(copy))
    yield from (data[:n] for n in range(0, len(data), 7))


def test_damage_raises_message_errors_only() -> None:
    for data in damaged(encode_update(header(), some_delta(), layout=LAYOUT)):
        try:
            decode_update(data, layout=LAYOUT)
        except MessageError:
            continue
