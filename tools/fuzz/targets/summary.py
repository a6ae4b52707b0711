"""Summaries and weight updates: a Zstandard frame around a safetensors file."""

from __future__ import annotations

import struct

import numpy as np
import zstandard

from edge_runtime.errors import MessageError
from edge_runtime.generator import Weights
from edge_runtime.messages import (
    decode_summary,
    decode_update,
    encode_summary,
    encode_update,
    peek_summary,
)
from tools.fuzz.contract import Decoder
from tools.fuzz.handing_over import hand_over_message
from tools.fuzz.mutations import mutate_json_head
from tools.fuzz.samples import LAYOUT, header

__all__ = ["DECODERS", "seeds"]

_SIZES = [3, 2]
_FRAME = zstandard.ZstdCompressor(level=1)


def _frame(data: bytes) -> None:
    """Decode what arrives, as the inbox does: first the header, then the rest."""
    hand_over_message("summary", data)
    head = peek_summary(data)
    if head.kind == "update":
        _, delta = decode_update(data, layout=LAYOUT)
        tensors = delta._asdict()
    else:
        _, tensors = decode_summary(data)
        decode_summary(data, sizes=_SIZES)
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise AssertionError("numbers that are not finite were let through")


def _tensors(data: bytes) -> None:
    """Decode a file given as its JSON, a zero byte, and its body: the length always fits."""
    head, _, body = data.partition(b"\0")
    head += b" " * (-len(head) % 8)
    _frame(_FRAME.compress(struct.pack("<Q", len(head)) + head + body))


DECODERS = (
    Decoder("frame", _frame, (MessageError,)),
    Decoder("stream", lambda data: _frame(_FRAME.compress(data)), (MessageError,)),
    Decoder("tensors", _tensors, (MessageError,), mutate_json_head),
)


def seeds() -> dict[str, list[bytes]]:
    """Make valid inputs."""
    rng = np.random.default_rng(0)

    def counts(*shape: int) -> np.ndarray:
        return rng.integers(-9, 99, shape)

    delta = Weights(*(np.zeros(t, np.float32) for t in ((5, 4), (4,), (4, 4), (4,), (4, 5), (5,))))
    frames = [
        encode_summary(header("census"), {"census.0": counts(3), "census.1": counts(2)}),
        encode_summary(header("anchor"), {"table.0": counts(3), "table.0.1": counts(3, 2)}),
        encode_summary(header("moments", shift=3), {"moments": counts(2, 3), "rows": counts(2)}),
        encode_summary(header("score", clip_nats=9.0), {"score": counts(2)}),
        encode_update(header("update", clip_norm=1.0), delta, layout=LAYOUT),
    ]
    streams = [zstandard.decompress(frame) for frame in frames]
    lengths = [struct.unpack_from("<Q", stream)[0] for stream in streams]
    return {
        "frame": frames,
        "stream": streams,
        "tensors": [
            stream[8 : 8 + n].rstrip() + b"\0" + stream[8 + n :]
            for stream, n in zip(streams, lengths, strict=True)
        ],
    }
