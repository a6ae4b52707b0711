"""Messages that are in order, to be changed where a test wants them wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edge_runtime.messages import (
    Header,
    PrivacyStatement,
    decode_ack,
    decode_batch,
    decode_header,
    decode_plan,
    decode_state,
    decode_status,
    decode_summary,
    encode_batch,
    encode_summary,
    peek_batch,
    peek_summary,
)

#: of JSON messages first, then of batches and summaries
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
