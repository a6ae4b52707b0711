"""Public randomness that does not depend on how the work is split: ChaCha8 by index."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import KernelError
from edge_runtime.kernel._call import check, key_bytes, lib, output, pointer

__all__ = ["STREAM_LIMIT", "fill_normal", "fill_uniform"]

#: streams are 0..STREAM_LIMIT - 1; the kernel keeps the upper byte of the nonce for itself
STREAM_LIMIT = 1 << 56
_INDEX_LIMIT = 1 << 60


def fill_uniform(out: NDArray[np.float32], *, key: bytes, stream: int, offset: int = 0) -> None:
    """Fill with uniform numbers in [0, 1), multiples of 2^-24.

    Element `i` of `out` is element `offset + i` of the stream, whatever `out` is a part of.

    Parameters
    ----------
    out : float32 [n]
        Contiguous.
    key : bytes
        32 bytes. Whoever has the key can repeat the numbers: they are public, never privacy noise.
    stream : int
        0 to 2^56 - 1; streams of one key are independent, also of `fill_normal`'s.
    offset : int
        Index of the first element, 0 to 2^60.

    Raises
    ------
    KernelError
        On another dtype, layout, key length or range.
    """
    _checked(out, key, stream, offset, "fill_uniform")
    check(
        lib.er_fill_uniform(pointer(out), out.size, bytes(key), len(key), stream, offset),
        "fill_uniform",
    )


def fill_normal(out: NDArray[np.float32], *, key: bytes, stream: int, offset: int = 0) -> None:
    """Fill with standard normal numbers (Box and Muller), at most 6.7 in size.

    Parameters and errors are those of `fill_uniform`. These are floating-point normals for public
    noise; releases of private data use `PrivacyNoise`.
    """
    _checked(out, key, stream, offset, "fill_normal")
    check(
        lib.er_fill_normal(pointer(out), out.size, bytes(key), len(key), stream, offset),
        "fill_normal",
    )


def _checked(out: NDArray[np.float32], key: bytes, stream: int, offset: int, function: str) -> None:
    output(out, function, np.float32)
    key_bytes(key, function)
    if not 0 <= stream < STREAM_LIMIT:
        raise KernelError(f"{function}: stream {stream} is outside 0..2^56 - 1")
    if not 0 <= offset <= _INDEX_LIMIT:
        raise KernelError(f"{function}: offset {offset} is outside 0..2^60")
