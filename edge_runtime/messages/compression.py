"""Bounded Zstandard: nothing is decompressed before its announced size has been checked."""

from __future__ import annotations

from collections.abc import Iterable

import zstandard

from edge_runtime.errors import MessageError, SizeError
from edge_runtime.messages.limits import Limits

__all__ = ["compress", "decompress"]

# The smallest result for batches of 1,000 and of 4,096 rows, below those of levels 9, 12, 19 and 22
# (measured on flights and on independent columns); above it zstd also asks for windows
# that small devices do not have.
_LEVEL = 16


def compress(parts: Iterable[bytes | memoryview], *, limits: Limits) -> bytes:
    """Compress `parts` into one standard frame, each part in blocks of its own.

    A Zstandard block has one table of symbol probabilities. Columns of codes have very different
    ones, so a block boundary between columns is worth more than its three bytes.

    Raises
    ------
    SizeError
        A reader with these limits would refuse it.
    """
    pieces = [bytes(part) for part in parts]
    size = sum(map(len, pieces))
    if size > limits.raw_bytes:
        raise SizeError(f"message: {size} bytes, at most {limits.raw_bytes} are accepted")
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compressobj(size=size)
    out = []
    for piece in pieces:
        out.append(compressor.compress(piece))
        out.append(compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
    out.append(compressor.flush())
    data = b"".join(out)
    if len(data) > limits.message_bytes:
        raise SizeError(f"message: {len(data)} bytes, at most {limits.message_bytes} are accepted")
    return data


def decompress(data: bytes, *, limits: Limits) -> bytes:
    """Decompress one frame that announces its size.

    Raises
    ------
    SizeError
        More than `limits.message_bytes` before or `limits.raw_bytes` after decompression.
    MessageError
        Not exactly one intact Zstandard frame with its content size.
    """
    if len(data) > limits.message_bytes:
        raise SizeError(f"message: {len(data)} bytes, at most {limits.message_bytes} are accepted")
    try:
        size = zstandard.get_frame_parameters(data).content_size
    except zstandard.ZstdError as error:
        raise MessageError(f"message: not a Zstandard frame: {error}") from error
    if size == zstandard.CONTENTSIZE_UNKNOWN:
        raise MessageError("message: the Zstandard frame does not state its content size")
    if size > limits.raw_bytes:
        raise SizeError(
            f"message: decompresses to {size} bytes, at most {limits.raw_bytes} are accepted"
        )
    try:
        # One call into a buffer of the announced size: a frame that lies about it fails.
        raw = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise MessageError(f"message: damaged Zstandard frame: {error}") from error
    if len(raw) != size:
        raise MessageError(f"message: {len(raw)} bytes where the frame announced {size}")
    return raw
