"""What the kernel computes on rows and columns, written plainly: logits to codes, timestamps, bits.

The other half of `edge_runtime.kernel.reference`, to the same end: every processor and instruction
set must repeat these bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_runtime.kernel.reference import decode_linear

__all__ = ["categorical", "decode_timestamp", "exponential_of", "pack_bits", "unpack_bits"]

F32 = NDArray[np.float32]


def exponential_of(x: F32) -> F32:
    """Return exp(x) for x <= 0 (Cephes' expf); 0 below -87, so that nothing is subnormal."""
    magic = np.float32(12582912.0)  # 1.5 * 2^23: adding it rounds to an integer, half to even
    inside = np.where(x < np.float32(-87.0), np.float32(-87.0), x)
    n = (inside * np.float32(1.44269504088896341) + magic) - magic
    r = inside - n * np.float32(0.693359375)
    r = r - n * np.float32(-2.12194440e-4)
    y = np.full_like(r, np.float32(1.9875691500e-4))
    for coefficient in (
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    ):
        y = y * r + np.float32(coefficient)
    y = (y * (r * r) + r) + np.float32(1.0)
    power = ((n.astype(np.int32) + 127) << 23).astype(np.int32).view(np.float32)
    weight: F32 = np.where(x < np.float32(-87.0), np.float32(0.0), y * power)
    return weight


def categorical(
    logits: F32, u: F32, widths: Sequence[int], temperature: float = 1.0
) -> NDArray[np.int32]:
    """Return what `kernel.categorical` returns, for arguments that it accepts."""
    codes = np.empty(u.shape, np.int32)
    sharpness = np.float32(1.0) / np.float32(temperature)
    start = 0
    for column, width in enumerate(widths):
        block = logits[:, start : start + width]
        start += width
        with np.errstate(over="ignore"):
            weights = exponential_of((block - block.max(axis=1, keepdims=True)) * sharpness)
        total, running = np.zeros(len(u), np.float32), []
        for k in range(width):
            total = total + weights[:, k]
            running.append(total)
        threshold = u[:, column] * total
        count = sum((c <= threshold).astype(np.int32) for c in running)
        last = width - 1 - np.argmax(weights[:, ::-1] > 0, axis=1)
        forced = u[:, column] >= 1
        drawn = np.minimum(count, last)
        codes[:, column] = np.where(forced, u[:, column].astype(np.int32) - 1, drawn)
    return codes


def decode_timestamp(
    codes: NDArray[np.int32],
    u: F32,
    knots: NDArray[np.float64],
    *,
    origin: int,
    step: int,
    missing: int,
) -> NDArray[np.int64]:
    """Return what `kernel.decode_timestamp` writes, for arguments that it accepts."""
    ranks = decode_linear(codes, u, knots, np.int64)
    return np.where(codes == len(knots), np.int64(missing), origin + step * ranks)


def pack_bits(codes: NDArray[np.int32], width: int) -> NDArray[np.uint8]:
    """Return what `kernel.pack_bits` returns, for arguments that it accepts."""
    bits = (codes[:, None] >> np.arange(width)) & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1), bitorder="little")


def unpack_bits(packed: NDArray[np.uint8], n: int, width: int) -> NDArray[np.int32]:
    """Return what `kernel.unpack_bits` returns, for arguments that it accepts."""
    bits = np.unpackbits(packed, bitorder="little")[: n * width].reshape(n, width)
    codes: NDArray[np.int32] = (bits.astype(np.int32) << np.arange(width)).sum(axis=1)
    return codes.astype(np.int32)
