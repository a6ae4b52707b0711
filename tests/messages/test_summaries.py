"""Summaries: which tensors, shapes and sizes are accepted."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.numpy
import zstandard

from edge_runtime.errors import (
    MessageError,
    RangeError,
    ShapeError,
    SizeError,
)
from edge_runtime.messages import (
    Limits,
    decode_summary,
    encode_header,
    encode_summary,
    peek_summary,
)
from tests.messages.samples import header, some_summary

TOO_LARGE_COUNTS = 2**49


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
