"""Write the known-answer vectors tests/kernel/kat/*.txt from the reference.

    python tools/make_kernel_vectors.py [directory]

chacha.txt beside them is not written here: it holds published vectors. One vector is a line of
words; floats stand as the hexadecimal digits of their bits, so that nothing depends on parsing.
native/test/vectors.c and tests/kernel read them; both must repeat every bit.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_runtime.kernel import network_reference, reference, reference_rows

OUTPUT = Path(__file__).parents[1] / "tests" / "kernel" / "kat"
HEADER = "# Written by tools/make_kernel_vectors.py; do not edit.\n"
KEYS = (bytes(32), bytes(range(32)), bytes(range(255, 223, -1)))


def bits(values: NDArray[np.float32] | NDArray[np.float64] | float) -> str:
    """Return the bits of floats (float32 arrays, float64 arrays or one double) in hexadecimal."""
    array = np.atleast_1d(np.asarray(values))
    unsigned = array.view(np.uint32 if array.dtype == np.float32 else np.uint64)
    return " ".join(f"{int(x):0{2 * array.itemsize}x}" for x in unsigned)


def numbers(values: Iterable[int]) -> str:
    """Return integers separated by blanks."""
    return " ".join(str(int(x)) for x in values)


def streams() -> str:
    """Vectors `use key stream offset n bits...`: starts, ends, group borders, large indices."""
    lines = ["# use key stream offset n, then n float32 bits"]
    for key in KEYS:
        for stream, offset, n in ((0, 0, 20), (5, 250, 12), (2**56 - 1, 2**36 * 256 - 3, 6)):
            for use in ("uniform", "normal", "exponential"):
                values = bits(getattr(reference, use)(key, stream, offset, n))
                lines.append(f"{use} {key.hex()} {stream} {offset} {n} {values}")
    return "\n".join(lines) + "\n"


def noise() -> str:
    """Vectors of the private stream; each starts from its seed."""
    lines = [
        "# uniform seed n values | base, wide: the same | bernoulli seed p n values |",
        "# gaussian, laplace: seed numerator denominator n values |",
        "# training seed clip_norm noise_multiplier n gradient mask result",
    ]
    for seed in KEYS:
        start = seed.hex()
        source = reference.ReferenceNoise(seed)
        lines.append(f"uniform {start} 140 {numbers(source.word64() for _ in range(140))}")
        for p in (0.0, 2.0**-64, 0.013, 0.5, 1.0 - 2.0**-53, 1.0):
            source = reference.ReferenceNoise(seed)
            values = numbers(source.bernoulli(p) for _ in range(60))
            lines.append(f"bernoulli {start} {bits(p)} 60 {values}")
        for n, d in ((1, 2**20), (3, 10), (7, 3), (10, 1), (2**44 - 1, 2**20), (2**24, 1)):
            source = reference.ReferenceNoise(seed)
            values = numbers(source.discrete_gaussian(n, d) for _ in range(40))
            lines.append(f"gaussian {start} {n} {d} 40 {values}")
            source = reference.ReferenceNoise(seed)
            values = numbers(source.discrete_laplace(n, d) for _ in range(40))
            lines.append(f"laplace {start} {n} {d} 40 {values}")
        for use in ("base", "wide"):
            draw = getattr(reference.ReferenceNoise(seed), use)
            lines.append(f"{use} {start} 100 {numbers(draw() for _ in range(100))}")
        source = reference.ReferenceNoise(seed)
        grad = reference.normal(seed, 9, 0, 50)
        grad[:4] = (0.0, -0.0, 2.0**20, -1e-30)
        mask = (reference.uniform(seed, 9, 0, 50) < 0.7).astype(np.uint8)
        result = source.training(grad, mask, 0.75, 1.1)
        lines.append(
            f"training {start} {bits(0.75)} {bits(1.1)} 50 {bits(grad)} {numbers(mask)} "
            f"{bits(result)}"
        )
    return "\n".join(lines) + "\n"


def columns() -> str:
    """Vectors of decoding and counting."""
    lines = [
        "# f64|f32|i64 decimals(127: none) bins knots_per_bin knots n codes u values |",
        "# grid origin step missing decimals, then as i64 | pairs ka kb n a b counts |",
        "# bits width n codes bytes",
    ]
    key = KEYS[1]
    for stream, (bins, per_bin, spread) in enumerate(((1, 1, 3.0), (4, 2, 9.0), (6, 8, 1e4))):
        steps = np.abs(reference.normal(key, stream, 0, bins * per_bin)).astype(np.float64)
        knots = (np.cumsum(steps).reshape(bins, per_bin) - 3.0) * spread
        u = reference.uniform(key, stream, 0, 40)
        u[:2] = (0.0, np.float32(1.0 - 2.0**-24))
        codes = (reference.uniform(key, stream + 50, 0, 40) * (bins + 1)).astype(np.int32)
        for name, dtype, decimals in (
            ("f64", np.float64, None),
            ("f64", np.float64, 2),
            ("f64", np.float64, -1),
            ("f32", np.float32, None),
            ("i64", np.int64, None),
        ):
            values = reference.decode_linear(codes, u, knots, dtype, decimals)
            shown = numbers(values) if dtype is np.int64 else bits(values)
            lines.append(
                f"{name} {127 if decimals is None else decimals} {bins} {per_bin} "
                f"{bits(knots.reshape(-1))} 40 {numbers(codes)} {bits(u)} {shown}"
            )
        grid = {"origin": 1_600_000_000_000_000 * stream, "step": 10**stream, "missing": -(2**63)}
        values = reference_rows.decode_timestamp(codes, u, knots, **grid)
        lines.append(
            f"grid {numbers(grid.values())} 127 {bins} {per_bin} {bits(knots.reshape(-1))} 40 "
            f"{numbers(codes)} {bits(u)} {numbers(values)}"
        )
        ka, kb = bins + 1, 3
        b = (reference.uniform(key, stream + 90, 0, 40) * kb).astype(np.int32)
        counts = reference.count_pairs(codes, b, ka, kb)
        lines.append(f"pairs {ka} {kb} 40 {numbers(codes)} {numbers(b)} {numbers(counts.flat)}")
    for width in (1, 3, 8, 13, 25):
        codes = (reference.uniform(key, 200 + width, 0, 41) * 2**width).astype(np.int32)
        packed = reference_rows.pack_bits(codes, width).tobytes().hex()
        lines.append(f"bits {width} 41 {numbers(codes)} {packed}")
    return "\n".join(lines) + "\n"


def categorical() -> str:
    """Vectors of codes from logits: ties, ruled-out categories, both ends of u, forced codes."""
    lines = ["# temperature rows columns widths logits u codes"]
    key = KEYS[1]
    for stream, (rows, widths, temperature) in enumerate(
        ((20, (5, 1, 2, 18), 1.0), (17, (3, 40), 0.25), (5, (16, 7), 8.0), (3, (300, 4), 1.0))
    ):
        total, columns = sum(widths), len(widths)
        logits = (reference.normal(key, 300 + stream, 0, rows * total) * 5).reshape(rows, total)
        u = reference.uniform(key, 300 + stream, 0, rows * columns).reshape(rows, columns)
        u[0], u[1] = np.float32(1.0 - 2.0**-24), 0.0
        u[2] = widths  # forces the last code of each column
        logits[0, 1 : widths[0]] = -np.inf
        logits[1, : widths[0] - 1] = -np.inf
        logits[2] = np.float32(-3.4028235e38)
        if rows > 3:
            logits[3] = 0.0
            logits[4] = np.float32(1e30) * np.sign(logits[4])
        codes = reference_rows.categorical(logits, u, widths, temperature)
        lines.append(
            f"{bits(np.float32([temperature]))} {rows} {columns} {numbers(widths)} "
            f"{bits(logits.reshape(-1))} {bits(u.reshape(-1))} {numbers(codes.flat)}"
        )
    return "\n".join(lines) + "\n"


def generator() -> str:
    """Vectors of the generator: sizes around every padding, tensors and noise by key."""
    lines = ["# key hidden columns cardinalities rows, FNV-1a of all codes, codes of the last row"]
    for index, (hidden, sizes, rows) in enumerate(
        (
            (1, [1], 3),
            (1, [5, 2], 65),
            (5, [7], 70),
            (24, [2, 3, 17, 1, 4], 200),
            (33, [9, 5, 40, 2, 8, 6], 64),
            (64, [3, 18] * 7, 130),
            (128, [18] * 14, 256),
            (20, [2] * 40, 100),
            (60, [2, 3] * 150, 66),  # more columns than 16-bit sums stand
            (300, [30, 300, 5], 80),
        )
    ):
        key = bytes((index + i) % 256 for i in range(32))
        tensors = network_reference.vector_tensors(sizes, hidden, key)
        columns = len(sizes)
        noise = reference.uniform(key, 0, 0, rows * columns).reshape(rows, columns)
        noise[::3, 0] = sizes[0]  # a third of the rows is forced to the first column's last code
        codes = network_reference.codes(tensors, sizes, hidden, noise)
        digest = 0xCBF29CE484222325
        for code in codes.flat:
            digest = ((digest ^ int(code)) * 0x100000001B3) % 2**64
        lines.append(
            f"{key.hex()} {hidden} {columns} {numbers(sizes)} {rows} {digest:016x} "
            f"{numbers(codes[-1])}"
        )
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    """Write the files into the directory given, or to their place in the source tree."""
    directory = Path(arguments[0]) if arguments else OUTPUT
    for make in (streams, noise, columns, categorical, generator):
        name, text = make.__name__, make()
        (directory / f"{name}.txt").write_text(HEADER + text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
