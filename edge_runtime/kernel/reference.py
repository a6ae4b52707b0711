"""What the kernel computes, written plainly: the definition of every bit of the C code's output.

Slow by design and free of C. The known-answer vectors in tests/kernel/kat are written from here by
tools/make_kernel_vectors.py, and every processor and instruction set must repeat them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ReferenceNoise",
    "base_table",
    "chacha_block",
    "count_codes",
    "count_pairs",
    "decode_linear",
    "exponential",
    "normal",
    "uniform",
]

_MASK = 0xFFFFFFFF
_BLOCKS = 16  # blocks side by side in a group
_GROUP = 256  # words in a group
# upper byte of the nonce: what the words are for
_NORMAL_USE, _EXPONENTIAL_USE = 1 << 56, 2 << 56

#: the wide sampler: z = (x1 + FIRST x2) + SECOND (x3 + FIRST x4)
_FIRST, _SECOND, _SIGMA_INT = 32, 1024, 1 << 21
_TABLE_BITS = 256
#: the table ends where a single probability falls below 2^-128
_SMALLEST_BITS = 128

_LAPLACE_LIMIT = 256
_FACTOR_LIMIT = 65535


def chacha_block(key: bytes, counter: int, nonce: int, rounds: int) -> list[int]:
    """Return the 16 words of one ChaCha block (Bernstein 2008; RFC 8439 with rounds = 20).

    Parameters
    ----------
    key : bytes
        32 bytes.
    counter, nonce : int
        64 bits each: words 12, 13 and 14, 15 of the state.
    rounds : int
        8 for public streams, 20 for private noise.
    """
    words = [int.from_bytes(key[4 * i : 4 * i + 4], "little") for i in range(8)]
    start = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *words]
    start += [counter & _MASK, counter >> 32, nonce & _MASK, nonce >> 32]
    s = list(start)
    for _ in range(rounds // 2):
        for i in range(4):
            _quarter(s, i, 4 + i, 8 + i, 12 + i)
        for i in range(4):
            _quarter(s, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return [(a + b) & _MASK for a, b in zip(s, start, strict=True)]


def _quarter(s: list[int], a: int, b: int, c: int, d: int) -> None:
    for x, y, z, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        s[x] = (s[x] + s[y]) & _MASK
        mixed = s[z] ^ s[x]
        s[z] = (mixed << turn | mixed >> (32 - turn)) & _MASK


def _group(key: bytes, nonce: int, group: int, rounds: int) -> NDArray[np.uint32]:
    """Return the 256 words of a group in the order word * 16 + block."""
    blocks = [chacha_block(key, group * _BLOCKS + i, nonce, rounds) for i in range(_BLOCKS)]
    return np.array(blocks, np.uint32).T.reshape(_GROUP)


def uniform(key: bytes, stream: int, offset: int, n: int) -> NDArray[np.float32]:
    """Return elements offset .. offset + n - 1 of a uniform stream (`kernel.fill_uniform`)."""
    parts = [
        (_group(key, stream, g, 8) >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
        for g in _groups(offset, n)
    ]
    return _cut(parts, offset, n)


def normal(key: bytes, stream: int, offset: int, n: int) -> NDArray[np.float32]:
    """Return elements offset .. offset + n - 1 of a normal stream (`kernel.fill_normal`)."""
    parts = []
    for g in _groups(offset, n):
        words = _group(key, stream | _NORMAL_USE, g, 8)
        parts.append(np.concatenate(_normal_pairs(words[: _GROUP // 2], words[_GROUP // 2 :])))
    return _cut(parts, offset, n)


def exponential(key: bytes, stream: int, offset: int, n: int) -> NDArray[np.float32]:
    """Return elements offset .. offset + n - 1 of an exponential stream."""
    groups = (_group(key, stream | _EXPONENTIAL_USE, g, 8) for g in _groups(offset, n))
    return _cut([_minus_log_uniform(words) for words in groups], offset, n)


def _groups(offset: int, n: int) -> range:
    return range(offset // _GROUP, (offset + n + _GROUP - 1) // _GROUP) if n else range(0)


def _cut(parts: list[NDArray[np.float32]], offset: int, n: int) -> NDArray[np.float32]:
    whole = np.concatenate(parts) if parts else np.empty(0, np.float32)
    return whole[offset % _GROUP :][:n]


def _horner(z: NDArray[np.float32], first: float, *rest: float) -> NDArray[np.float32]:
    p = np.full_like(z, first)
    for coefficient in rest:
        p = p * z + np.float32(coefficient)
    return p


def _minus_log_uniform(x: NDArray[np.uint32]) -> NDArray[np.float32]:
    half, scale = np.float32(0.5), np.float32(2.0**-31)
    u = ((x >> np.uint32(1)).astype(np.float32) + half) * scale
    one_minus_u = ((~x >> np.uint32(1)).astype(np.float32) + half) * scale
    bits = u.view(np.int32)
    exponent = (bits - np.int32(0x3F3504F3)) >> np.int32(23)
    mantissa = (bits - (exponent << np.int32(23))).view(np.float32) - np.float32(1.0)
    f = np.where(exponent == 0, -one_minus_u, mantissa)
    e = exponent.astype(np.float32)
    square = f * f
    p = _horner(
        f,
        7.0376836292e-2,
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    )
    y = (p * f) * square
    y = y + e * np.float32(-2.12194440e-4)
    y = y - half * square
    result: NDArray[np.float32] = -((f + y) + e * np.float32(0.693359375))
    return result


def _normal_pairs(
    x0: NDArray[np.uint32], x1: NDArray[np.uint32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    half = np.float32(0.5)
    radius = np.sqrt(np.float32(2.0) * _minus_log_uniform(x0))
    position = (x1 & np.uint32(0x3FFFFFFF)).astype(np.int32) - np.int32(0x20000000)
    angle = (position.astype(np.float32) + half) * np.float32(1.46291807926715968e-9)
    z = angle * angle
    sine = _horner(z, -1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
    sine = (sine * z) * angle + angle
    cosine = _horner(z, 2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
    halved: NDArray[np.float32] = z * half
    cosine = ((cosine * z) * z - halved) + np.ones_like(z)
    quadrant = x1 >> np.uint32(30)
    x = np.choose(quadrant, [cosine, -sine, -cosine, sine])
    y = np.choose(quadrant, [sine, cosine, -sine, -cosine])
    return radius * x, radius * y


def decode_linear(
    codes: NDArray[np.int32],
    u: NDArray[np.float32],
    knots: NDArray[np.float64],
    dtype: type[np.float32] | type[np.float64] | type[np.int64],
    decimals: int | None = None,
) -> NDArray[Any]:
    """Return what `kernel.decode_linear` writes, for arguments that it accepts."""
    bins, per_bin = knots.shape
    missing = codes == bins
    code = np.where(missing, 0, codes)
    x = u.astype(np.float64) * (per_bin - 1)
    q = x.astype(np.int64)
    low, high = knots[code, q], knots[code, np.minimum(q + 1, per_bin - 1)]
    value = np.clip(low + (x - q) * (high - low), low, high)
    first, last = knots[code, 0], knots[code, -1]
    if dtype is np.int64:
        value = np.rint(value)
        least, most = np.ceil(first), np.floor(last)
        value = np.where(least <= most, np.clip(value, least, most), value)
        return np.where(missing, 0, value.astype(np.int64))
    if decimals is not None:
        scale = 10.0 ** abs(decimals)
        with np.errstate(over="ignore"):
            rounded = np.rint(value * scale) / scale
            if decimals < 0:
                rounded = np.rint(value / scale) * scale
        value = np.clip(np.where(np.isfinite(rounded), rounded, value), first, last)
    return np.where(missing, np.nan, value).astype(dtype)


def count_codes(codes: NDArray[np.int32], cardinality: int) -> NDArray[np.int64]:
    """Return what `kernel.count_codes` returns."""
    return np.bincount(codes, minlength=cardinality).astype(np.int64)


def count_pairs(a: NDArray[np.int32], b: NDArray[np.int32], ka: int, kb: int) -> NDArray[np.int64]:
    """Return what `kernel.count_pairs` returns."""
    joint = a.astype(np.int64) * kb + b
    return np.bincount(joint, minlength=ka * kb).astype(np.int64).reshape(ka, kb)


@cache
def base_table() -> tuple[int, tuple[int, ...]]:
    """Return reach and cumulative entries of the table sampler, in integers only.

    Entry i is floor(2^256 P(X <= i - reach)) for the discrete Gaussian with
    sigma0^2 = 2^42 / ((1 + 32^2) (1 + 1024^2)), cut where P(x) < 2^-128. The weights come from
    w(x + 1) = w(x) r^(2 x + 1), r = exp(-1 / (2 sigma0^2)), in 700-bit fixed point: another way
    than that of tools/make_base_table.py, which wrote the table of the C code.
    """
    one = 1 << 700
    exponent = one * (1 + _FIRST**2) * (1 + _SECOND**2) // (2 * _SIGMA_INT**2)
    r, term, k = one, one, 1
    while term:  # exp(-x) = sum of (-x)^k / k!
        term = term * exponent // (k << 700)
        r += -term if k % 2 else term
        k += 1
    step, square = r, r * r >> 700
    weights = [one]
    while weights[-1] > one >> 400:
        weights.append(weights[-1] * step >> 700)
        step = step * square >> 700
    total = 2 * sum(weights) - weights[0]
    reach = max(x for x, w in enumerate(weights) if w << _SMALLEST_BITS >= total)
    kept = 2 * sum(weights[: reach + 1]) - weights[0]
    entries, running = [], 0
    for x in range(-reach, reach + 1):
        running += weights[abs(x)]
        entries.append((running << _TABLE_BITS) // kept)
    entries[-1] = (1 << _TABLE_BITS) - 1
    return reach, tuple(entries)


class ReferenceNoise:
    """The private stream and its samplers, drawing the same words in the same order as the kernel.

    Parameters
    ----------
    seed : bytes
        32 bytes.
    """

    def __init__(self, seed: bytes) -> None:
        self._words = self._stream(seed)

    @staticmethod
    def _stream(key: bytes) -> Iterator[int]:
        while True:
            words = _group(key, 0, 0, 20)
            key = b"".join(int(w).to_bytes(4, "little") for w in words[:8])
            yield from (int(w) for w in words[8:])

    def word(self) -> int:
        """Return the next 32 bits."""
        return next(self._words)

    def word64(self) -> int:
        """Return the next 64 bits, upper word first."""
        return self.word() << 32 | self.word()

    def below(self, bound: int) -> int:
        """Return a uniform integer in 0 .. bound - 1."""
        bits = (bound - 1).bit_length()
        while True:
            x = (self.word64() if bits > 32 else self.word()) & ((1 << bits) - 1)
            if x < bound:
                return x

    def bernoulli(self, p: float) -> int:
        """Return 1 with probability floor(p 2^64) / 2^64."""
        if p == 1.0:
            return 1
        threshold = int(p * 2**64)
        word = self.word()
        if word != threshold >> 32:
            return int(word < threshold >> 32)
        return int(self.word() < threshold & _MASK)

    def rational(self, a: int, b: int) -> int:
        """Return 1 with probability a / b: the digits of a / b against random ones."""
        while True:
            word = self.word()
            digits = min((a << 32) // b, _MASK)
            if word != digits:
                return int(word < digits)
            a = (a << 32) - digits * b

    def exp_wide(self, a: int, b: int) -> int:
        """Return 1 with probability exp(-a / b), 0 <= a <= b."""
        k = 1
        while k < _FACTOR_LIMIT and self.rational(a, b * k):
            k += 1
        return k % 2

    def exp_small(self, a: int, b: int) -> int:
        """Return 1 with probability exp(-a / b), 0 <= a <= b < 2^24."""
        k = 1
        while k < _FACTOR_LIMIT and self.below(b * k) < a:
            k += 1
        return k % 2

    def laplace(self, t: int, s: int = 1) -> tuple[int, int]:
        """Return size and sign bit of a discrete Laplace variable of scale t / s."""
        while True:
            u = self.below(t)
            if not self.exp_small(u, t):
                continue
            v = 0
            while v < _LAPLACE_LIMIT and self.exp_small(1, 1):
                v += 1
            negative = self.word() & 1
            size = (u + t * v) // s
            if v < _LAPLACE_LIMIT and not (negative and size == 0):
                return size, negative

    def discrete_laplace(self, numerator: int, denominator: int) -> int:
        """Return an exact discrete Laplace, scale = numerator / denominator in lowest terms."""
        size, negative = self.laplace(numerator, denominator)
        return -size if negative else size

    def discrete_gaussian(self, numerator: int, denominator: int) -> int:
        """Return an exact discrete Gaussian, sigma = numerator / denominator in lowest terms."""
        t = numerator // denominator + 1
        while True:
            size, negative = self.laplace(t)
            top = (size * t * denominator**2 - numerator**2) ** 2
            bottom = 2 * numerator**2 * t**2 * denominator**2
            accepted = 1
            while accepted and top > bottom:
                top -= bottom
                accepted = self.exp_small(1, 1)
            if accepted and self.exp_wide(top, bottom):
                return -size if negative else size

    def base(self) -> int:
        """Return one draw of the table sampler."""
        reach, entries = base_table()
        lower_bits = _TABLE_BITS - 32
        draw = self.word()
        index = next(i for i, entry in enumerate(entries) if entry >> lower_bits >= draw)
        if entries[index] >> lower_bits == draw:
            for _ in range(lower_bits // 32):
                draw = draw << 32 | self.word()
            last = len(entries) - 1
            while index < last and entries[index] >> lower_bits == draw >> lower_bits:
                if draw < entries[index]:
                    break
                index += 1
        return index - reach

    def wide(self) -> int:
        """Return a discrete Gaussian of standard deviation `kernel.TRAINING_SIGMA_INT`."""
        x1, x2, x3, x4 = (self.base() for _ in range(4))
        return (x1 + _FIRST * x2) + _SECOND * (x3 + _FIRST * x4)

    def training(
        self, grad: NDArray[np.float32], mask: NDArray[np.uint8], clip: float, multiplier: float
    ) -> NDArray[np.float32]:
        """Return what `PrivacyNoise.add_training_noise` makes of a gradient."""
        grid = multiplier * clip / _SIGMA_INT
        per_grid = 1.0 / grid
        out = np.zeros_like(grad)
        for i in np.flatnonzero(mask):
            index = int(np.rint(np.float64(grad[i]) * per_grid))
            out[i] = np.float32(np.float64(index + self.wide()) * grid)
        return out
