"""Batches: a Zstandard frame around an Arrow stream."""

from __future__ import annotations

import numpy as np
import zstandard

from edge_runtime.errors import MessageError
from edge_runtime.messages import decode_batch, encode_batch, peek_batch
from tools.fuzz.contract import Decoder
from tools.fuzz.handing_over import hand_over_message
from tools.fuzz.samples import header

__all__ = ["DECODERS", "seeds"]

_NAMES, _SIZES = ["a", "b"], [3, 300]
# Level 1 and no checksum: what is inside a frame is of interest here, and that there are many.
_FRAME = zstandard.ZstdCompressor(level=1)


def _frame(data: bytes) -> None:
    """Decode what arrives: the frame itself is changed."""
    hand_over_message("batch", data)
    peek_batch(data)
    head, codes = decode_batch(data, cardinalities=_SIZES, names=_NAMES)
    if head.kind != "batch" or ((codes < 0) | (codes >= _SIZES)).any():
        raise AssertionError("codes out of range were let through")


def _inside(data: bytes) -> None:
    """Decode what is inside an intact frame."""
    _frame(_FRAME.compress(data))


DECODERS = (
    Decoder("frame", _frame, (MessageError,)),
    Decoder("stream", _inside, (MessageError,)),
)


def seeds() -> dict[str, list[bytes]]:
    """Make valid inputs."""
    made = []
    for rows in (0, 3):
        codes = np.array([[0, 299], [2, 0], [1, 256]], np.int32)[:rows]
        made.append(encode_batch(header("batch"), codes, cardinalities=_SIZES, names=_NAMES))
    return {"frame": made, "stream": [zstandard.decompress(data) for data in made]}
