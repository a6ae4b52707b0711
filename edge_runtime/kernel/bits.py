"""Codes as bits: as many bits per code as its column needs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import KernelError
from edge_runtime.kernel._call import check, column, lib, output, pointer

__all__ = ["pack_bits", "packed_bytes", "unpack_bits"]

_WIDTH_LIMIT = 25


def packed_bytes(n: int, width: int) -> int:
    """Return how many bytes `n` codes of `width` bits take."""
    if n < 0 or not 1 <= width <= _WIDTH_LIMIT:
        raise KernelError(f"packed_bytes: {n} codes of {width} bits; a width is 1 to 25 bits")
    return (n * width + 7) // 8


def pack_bits(codes: NDArray[np.int32], width: int) -> NDArray[np.uint8]:
    """Pack codes of `width` bits each, least significant bit first.

    Parameters
    ----------
    codes : int32 [n]
        0 to 2^width - 1; may be a strided view.
    width : int
        1 to 25.

    Returns
    -------
    uint8 [ceil(n * width / 8)]
        Code i is in bits i * width and on; the last unused bits are 0.

    Raises
    ------
    KernelError
        If a code needs more bits.
    """
    data, stride, codes = column(codes, "pack_bits", np.int32)
    n = codes.shape[0]
    out = np.empty(packed_bytes(n, width), np.uint8)
    check(lib.er_pack_bits(pointer(out), out.size, data, stride, n, width), "pack_bits")
    return out


def unpack_bits(packed: NDArray[np.uint8], n: int, width: int) -> NDArray[np.int32]:
    """Return the codes that `pack_bits` packed.

    Parameters
    ----------
    packed : uint8 [ceil(n * width / 8)]
        Contiguous.
    n : int
        Number of codes.
    width : int
        Bits of each, 1 to 25.

    Returns
    -------
    int32 [n]

    Raises
    ------
    KernelError
        If the length does not fit n and width, or bits behind the last code are set.
    """
    if not isinstance(packed, np.ndarray) or packed.size != packed_bytes(n, width):
        raise KernelError(f"unpack_bits: {n} codes of {width} bits are another number of bytes")
    packed = output(
        packed.copy() if not packed.flags.writeable else packed, "unpack_bits", np.uint8
    )
    codes = np.empty(n, np.int32)
    check(
        lib.er_unpack_bits(pointer(codes), 1, n, width, pointer(packed), packed.size), "unpack_bits"
    )
    return codes
