"""numpy's own uniform numbers, without the 2 MB of a device's memory that `numpy.random` takes.

`Uniforms(seed).draw(rows, columns)` is what `np.random.default_rng(seed).random((rows, columns),
dtype=np.float32)` gives, bit for bit: PCG64 (XSL-RR 128/64; O'Neill 2014, HMC-CS-2014-0905, section
6.3.3), its state from numpy's `SeedSequence`. For the few thousand public numbers that weights are
calibrated and checked with; rows are sampled by the kernel's generator.
"""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import RangeError

__all__ = ["Uniforms"]

_M32, _M64, _M128 = (1 << 32) - 1, (1 << 64) - 1, (1 << 128) - 1
#: of the generator, pcg64.h
_MULTIPLIER = (2549297995355413924 << 64) | 4865540595714422341
#: of the seeding, numpy/random/bit_generator.pyx
_POOL, _SHIFT = 4, 16
_INIT_A, _MULT_A, _INIT_B, _MULT_B = 0x43B0D7E5, 0x931E8875, 0x8B51F9DD, 0x58F38DED
_MIX_L, _MIX_R = 0xCA01F9DD, 0x4973F715


class Uniforms:
    """A stream of public uniform numbers.

    Parameters
    ----------
    seed : int
        0 .. 2^128 - 1.

    Raises
    ------
    RangeError
        For any other seed.
    """

    def __init__(self, seed: int) -> None:
        if not 0 <= seed <= _M128:
            raise RangeError(f"the seed of public noise is {seed}; 0 to 2^128 - 1 are possible")
        high, low, high_step, low_step = _seed_words(seed)
        self._step = ((high_step << 64 | low_step) << 1 | 1) & _M128
        self._state = (self._step + (high << 64 | low)) & _M128
        self._next()
        self._rest: npt.NDArray[np.uint32] = np.empty(0, np.uint32)

    def draw(self, rows: int, columns: int) -> npt.NDArray[np.float32]:
        """Draw the next numbers, float32 [rows, columns] in [0, 1)."""
        lacking = rows * columns - len(self._rest)
        words = array("Q", (self._next() for _ in range(-(-lacking // 2))))
        # Each word is two numbers, its lower half first; a half that is left waits.
        halves = np.array(words, dtype="<u8").view("<u4")
        numbers = np.concatenate([self._rest, halves])
        drawn, self._rest = np.split(numbers, [rows * columns])
        scaled: npt.NDArray[np.float32] = (drawn >> np.uint32(8)).astype(np.float32)
        scaled *= np.float32(2.0**-24)
        return scaled.reshape(rows, columns)

    def _next(self) -> int:
        state = self._state = (self._state * _MULTIPLIER + self._step) & _M128
        word, turn = (state >> 64 ^ state) & _M64, state >> 122
        return (word >> turn | word << 64 - turn) & _M64


def _seed_words(seed: int) -> tuple[int, int, int, int]:
    """Return the four words of 64 bits that a `SeedSequence` generates."""
    constant = _INIT_A

    def hashed(value: int) -> int:
        nonlocal constant
        value ^= constant
        constant = constant * _MULT_A & _M32
        value = value * constant & _M32
        return value ^ value >> _SHIFT

    pool = [hashed(seed >> 32 * index & _M32) for index in range(_POOL)]
    for source in range(_POOL):
        for target in range(_POOL):
            if source != target:
                mixed = (_MIX_L * pool[target] - _MIX_R * hashed(pool[source])) & _M32
                pool[target] = mixed ^ mixed >> _SHIFT
    constant = _INIT_B
    halves = []
    for index in range(8):
        value = pool[index % _POOL] ^ constant
        constant = constant * _MULT_B & _M32
        value = value * constant & _M32
        halves.append(value ^ value >> _SHIFT)
    low, high = halves[::2], halves[1::2]
    first, second, third, fourth = (b << 32 | a for a, b in zip(low, high, strict=True))
    return first, second, third, fourth
