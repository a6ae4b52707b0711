"""Public randomness that does not depend on how the work is split: ChaCha8 by index."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import KernelError
from edge_runtime.kernel._call import check, ffi, key_bytes, lib, output, pointer
from edge_runtime.kernel._threads import in_parts

__all__ = ["STREAM_LIMIT", "PreparedFill", "fill_exponential", "fill_normal", "fill_uniform"]

#: streams are 0..STREAM_LIMIT - 1; the kernel keeps the upper byte of the nonce for itself
STREAM_LIMIT = 1 << 56
_INDEX_LIMIT = 1 << 60
#: a thread that fills fewer costs more than it saves: 2^18 numbers take 100 to 300 microseconds
_LEAST_NUMBERS = 1 << 18

Kind = Literal["uniform", "normal", "exponential"]
_FILLS: dict[str, Any] = {
    "uniform": lib.er_fill_uniform,
    "normal": lib.er_fill_normal,
    "exponential": lib.er_fill_exponential,
}


def fill_uniform(
    out: NDArray[np.float32], *, key: bytes, stream: int, offset: int = 0, threads: int = 1
) -> None:
    """Fill with uniform numbers in [0, 1), multiples of 2^-24.

    Element `i` of `out` is element `offset + i` of the stream, whatever `out` is a part of.

    Parameters
    ----------
    out : float32 [n]
        Contiguous.
    key : bytes
        32 bytes. Whoever has the key can repeat the numbers: they are public, never privacy noise.
    stream : int
        0 to 2^56 - 1; streams of one key are independent, also of those of the other fills.
    offset : int
        Index of the first element, 0 to 2^60.
    threads : int
        Most threads, 1 to 256; the numbers do not depend on it. Small fills take one.

    Raises
    ------
    KernelError
        On another dtype, layout, key length or range.
    """
    _fill("uniform", out, key=key, stream=stream, offset=offset, threads=threads)


def fill_normal(
    out: NDArray[np.float32], *, key: bytes, stream: int, offset: int = 0, threads: int = 1
) -> None:
    """Fill with standard normal numbers (Box and Muller), at most 6.7 in size.

    Parameters and errors are those of `fill_uniform`. These are floating-point normals for public
    noise; releases of private data use `PrivacyNoise`.
    """
    _fill("normal", out, key=key, stream=stream, offset=offset, threads=threads)


def fill_exponential(
    out: NDArray[np.float32], *, key: bytes, stream: int, offset: int = 0, threads: int = 1
) -> None:
    """Fill with exponential numbers of mean 1: -log of a uniform of 31 bits, at most 22.2.

    Parameters and errors are those of `fill_uniform`. These are floating-point numbers for public
    noise; releases of private data use `PrivacyNoise`.
    """
    _fill("exponential", out, key=key, stream=stream, offset=offset, threads=threads)


class PreparedFill:
    """A buffer, key and stream checked once, for fills that take well under a microsecond to call.

    Parameters
    ----------
    kind : {"uniform", "normal", "exponential"}
        What to fill with: as `fill_uniform`, `fill_normal` or `fill_exponential`.
    out : float32 [n]
        Contiguous; kept, and filled anew by each call.
    key, stream
        As for `fill_uniform`.

    Examples
    --------
    >>> import numpy as np
    >>> from edge_runtime import kernel
    >>> noise = np.empty(4, np.float32)
    >>> fill = kernel.PreparedFill("uniform", noise, key=bytes(32), stream=0)
    >>> fill(8)  # elements 8 .. 11 of the stream
    """

    def __init__(self, kind: Kind, out: NDArray[np.float32], *, key: bytes, stream: int) -> None:
        if kind not in _FILLS:
            raise KernelError(f"PreparedFill: {kind!r} is none of {', '.join(_FILLS)}")
        _checked(out, key, stream, 0, "PreparedFill")
        self.out = out
        self._function = _FILLS[kind]
        self._start = (pointer(out), out.size, ffi.new("uint8_t[]", bytes(key)), len(key), stream)

    def __call__(self, offset: int) -> None:
        """Fill with elements offset .. offset + n - 1 of the stream; offset is 0 to 2^60."""
        try:
            code = self._function(*self._start, offset)
        except (OverflowError, TypeError):
            code = lib.ER_SIZE
        if code:
            raise KernelError(f"PreparedFill: offset {offset} is outside 0..2^60")


def _fill(
    kind: Kind, out: NDArray[np.float32], *, key: bytes, stream: int, offset: int, threads: int
) -> None:
    function = f"fill_{kind}"
    _checked(out, key, stream, offset, function)
    fill, start, secret = _FILLS[kind], pointer(out), bytes(key)

    def work(first: int, end: int) -> int:
        code: int = fill(start + first, end - first, secret, len(secret), stream, offset + first)
        return code

    code = in_parts(work, out.size, threads=threads, least=_LEAST_NUMBERS, function=function)
    check(code, function)


def _checked(out: NDArray[np.float32], key: bytes, stream: int, offset: int, function: str) -> None:
    output(out, function, np.float32)
    key_bytes(key, function)
    if not 0 <= stream < STREAM_LIMIT:
        raise KernelError(f"{function}: stream {stream} is outside 0..2^56 - 1")
    if not 0 <= offset <= _INDEX_LIMIT:
        raise KernelError(f"{function}: offset {offset} is outside 0..2^60")
