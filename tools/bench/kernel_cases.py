"""What tools/bench/kernel.py measures: each primitive, and the same work by its peers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from edge_runtime import kernel

__all__ = ["Case", "cases"]

ROWS = 65_536
KEY = bytes(range(32))
#: 14 columns and 150 categories, as in the tables of the other benchmarks
WIDTHS = (18, 2, 11, 9, 12, 7, 15, 18, 10, 5, 6, 18, 9, 10)
CATEGORICAL_ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row of the table."""

    name: str
    ours: Callable[[], object]
    numbers: int = ROWS
    peers: dict[str, Callable[[], object]] = field(default_factory=dict)


def _streams() -> list[Case]:
    out = np.empty(ROWS, np.float32)
    numpy = np.random.Generator(np.random.SFC64(1))
    single = {"dtype": np.float32, "out": out}
    peers: dict[str, dict[str, Callable[[], object]]] = {
        "uniform": {"numpy": lambda: numpy.random(**single)},
        "normal": {"numpy": lambda: numpy.standard_normal(**single)},
        "exponential": {"numpy": lambda: numpy.standard_exponential(**single)},
    }
    try:
        import randomgen
    except ImportError:
        pass
    else:
        other = np.random.Generator(randomgen.Romu(1))  # the fastest of its bit generators here
        peers["uniform"]["randomgen"] = lambda: other.random(**single)
        peers["normal"]["randomgen"] = lambda: other.standard_normal(**single)
        peers["exponential"]["randomgen"] = lambda: other.standard_exponential(**single)
    try:
        import mkl_random
    except ImportError:
        pass
    else:  # float64 is all it has
        mkl = mkl_random.MKLRandomState(1, brng="SFMT19937")
        peers["uniform"]["mkl_random"] = lambda: mkl.random_sample(ROWS)
        peers["normal"]["mkl_random"] = lambda: mkl.standard_normal(ROWS, method="BoxMuller2")
        peers["exponential"]["mkl_random"] = lambda: mkl.standard_exponential(ROWS)
    fills = {kind: kernel.PreparedFill(kind, out, key=KEY, stream=0) for kind in peers}
    found = [
        Case(name=f"{kind} float32", ours=lambda fill=fills[kind]: fill(0), peers=peers[kind])
        for kind in peers
    ]
    few = np.empty(16, np.float32)
    prepared = kernel.PreparedFill("uniform", few, key=KEY, stream=0)
    found.append(
        Case(
            name="one call for 16 uniforms, prepared",
            ours=lambda: prepared(0),
            numbers=1,
            peers={"numpy": lambda: numpy.random(dtype=np.float32, out=few)},
        )
    )
    return found


def _categorical() -> Case:
    random = np.random.default_rng(2)
    logits = random.normal(size=(CATEGORICAL_ROWS, sum(WIDTHS))).astype(np.float32) * 2
    u = random.random((CATEGORICAL_ROWS, len(WIDTHS)), dtype=np.float32)
    out = np.empty(u.shape, np.int32)
    starts = np.cumsum([0, *WIDTHS])

    def in_numpy() -> None:
        for column, (a, b) in enumerate(pairwise(starts)):
            block = logits[:, a:b]
            weights = np.exp(block - block.max(axis=1, keepdims=True))
            running = np.cumsum(weights, axis=1, out=weights)
            threshold = u[:, column] * running[:, -1]
            out[:, column] = (running[:, :-1] <= threshold[:, None]).sum(axis=1)

    return Case(
        name=f"codes from {sum(WIDTHS)} logits, {len(WIDTHS)} columns (per row)",
        ours=lambda: kernel.categorical(logits, u, WIDTHS, out=out),
        numbers=CATEGORICAL_ROWS,
        peers={"numpy": in_numpy},
    )


def _decoding() -> list[Case]:
    random = np.random.default_rng(3)
    table = random.integers(0, 18, (ROWS, 14)).astype(np.int32)
    codes, strided = table[:, 3].copy(), table[:, 3]
    u = random.random(ROWS, dtype=np.float32)
    knots = np.sort(random.normal(size=17 * 8) * 1000).reshape(17, 8)  # code 17 is a missing value
    # numpy's quickest way: the missing bin as one more row, both knots by take, buffers ready
    flat = np.concatenate([knots.ravel(), np.full(9, np.nan)])
    x, part, low, high = (np.empty(ROWS) for _ in range(4))
    index = np.empty(ROWS, np.int64)
    f64, f32, i64 = np.empty(ROWS), np.empty(ROWS, np.float32), np.empty(ROWS, np.int64)
    present = np.empty(ROWS, bool)

    def in_numpy(codes: np.ndarray) -> np.ndarray:
        np.multiply(u, 7.0, out=x)
        np.floor(x, out=part)
        index[:] = part
        np.subtract(x, part, out=x)
        np.add(index, codes * np.int64(8), out=index)
        np.take(flat, index, out=low, mode="clip")
        np.add(index, 1, out=index)
        np.take(flat, index, out=high, mode="clip")
        np.subtract(high, low, out=part)
        np.multiply(x, part, out=x)
        np.add(x, low, out=x)
        np.minimum(x, high, out=f64)  # rounding may pass the upper knot
        return f64

    def rounded_in_numpy() -> None:
        np.round(in_numpy(codes), 2, out=f64)

    def integers_in_numpy() -> None:
        np.rint(in_numpy(codes), out=f64)
        np.not_equal(codes, 17, out=present)
        i64.fill(0)
        np.copyto(i64, f64, where=present, casting="unsafe")

    def ours(codes: np.ndarray, out: np.ndarray, decimals: int | None = None) -> Callable[[], None]:
        return lambda: kernel.decode_linear(codes, u, knots, out, decimals=decimals)

    return [
        Case(
            name="decode to float64",
            ours=ours(codes, f64),
            peers={"numpy": lambda: in_numpy(codes)},
        ),
        Case(
            name="decode to float64, a column of 14",
            ours=ours(strided, f64),
            peers={"numpy": lambda: in_numpy(strided)},
        ),
        Case(
            name="decode to float32",
            ours=ours(codes, f32),
            peers={"numpy": lambda: np.copyto(f32, in_numpy(codes))},
        ),
        Case(
            name="decode to 2 decimals",
            ours=ours(codes, f64, 2),
            peers={"numpy": rounded_in_numpy},
        ),
        Case(name="decode to int64", ours=ours(codes, i64), peers={"numpy": integers_in_numpy}),
        Case(
            name="decode to timestamps",
            ours=lambda: kernel.decode_timestamp(
                codes, u, knots, i64, origin=1_600_000_000_000_000, step=1_000_000
            ),
        ),
    ]


def _counting() -> list[Case]:
    random = np.random.default_rng(4)
    table = random.integers(0, 18, (ROWS, 14)).astype(np.int32)
    wide = random.integers(0, 200, (2, ROWS)).astype(np.int32)
    a, b = table[:, 3], table[:, 9]
    joint = np.empty(ROWS, np.int64)  # bincount takes int64 without a copy

    def pairs_in_numpy(a: np.ndarray, b: np.ndarray, kb: int, cells: int) -> None:
        np.multiply(a, kb, out=joint, dtype=np.int64)
        np.add(joint, b, out=joint)
        np.bincount(joint, minlength=cells)

    first, second = a.copy(), b.copy()
    return [
        Case(
            name="count codes, 18",
            ours=lambda: kernel.count_codes(first, 18),
            peers={"numpy": lambda: np.bincount(first, minlength=18)},
        ),
        Case(
            name="count pairs, 18 x 18",
            ours=lambda: kernel.count_pairs(first, second, 18, 18),
            peers={"numpy": lambda: pairs_in_numpy(first, second, 18, 324)},
        ),
        Case(
            name="count pairs, 18 x 18, columns of 14",
            ours=lambda: kernel.count_pairs(a, b, 18, 18),
            peers={"numpy": lambda: pairs_in_numpy(a, b, 18, 324)},
        ),
        Case(
            name="count pairs, 200 x 200",
            ours=lambda: kernel.count_pairs(wide[0], wide[1], 200, 200),
            peers={"numpy": lambda: pairs_in_numpy(wide[0], wide[1], 200, 40_000)},
        ),
    ]


def _bits() -> list[Case]:
    codes = np.random.default_rng(5).integers(0, 32, ROWS).astype(np.int32)
    packed = kernel.pack_bits(codes, 5)
    shifts = np.arange(5, dtype=np.uint8)

    def pack() -> None:
        np.packbits((codes.astype(np.uint8)[:, None] >> shifts) & 1, bitorder="little")

    def unpack() -> None:
        bits = np.unpackbits(packed, bitorder="little").reshape(ROWS, 5)
        (bits << shifts).sum(axis=1, dtype=np.int32)

    return [
        Case(name="pack 5 bits", ours=lambda: kernel.pack_bits(codes, 5), peers={"numpy": pack}),
        Case(
            name="unpack 5 bits",
            ours=lambda: kernel.unpack_bits(packed, ROWS, 5),
            peers={"numpy": unpack},
        ),
    ]


def _privacy() -> list[Case]:
    noise = kernel.PrivacyNoise()
    numpy = np.random.Generator(np.random.SFC64(6))
    grad, real = np.zeros(ROWS, np.float32), np.empty(ROWS)
    bits, whole = np.empty(ROWS, np.uint8), np.empty(2048, np.int64)
    return [
        Case(
            name="training noise (numpy: float64 normals, not private)",
            ours=lambda: noise.add_training_noise(grad, clip_norm=1.0, noise_multiplier=1.0),
            peers={"numpy": lambda: numpy.standard_normal(out=real)},
        ),
        Case(
            name="Bernoulli mask",
            ours=lambda: noise.bernoulli(bits, p=0.01),
            peers={"numpy": lambda: numpy.random(out=real) < 0.01},
        ),
        *(
            Case(
                name=f"exact discrete {law}, {width}",
                ours=work,
                numbers=whole.size,
            )
            for law, width, work in (
                ("Gaussian", "sigma 10", lambda: noise.discrete_gaussian(whole, sigma=10)),
                ("Gaussian", "sigma 2^21", lambda: noise.discrete_gaussian(whole, sigma=2**21)),
                ("Laplace", "scale 10", lambda: noise.discrete_laplace(whole, scale=10)),
            )
        ),
    ]


def cases() -> list[Case]:
    """Every row, in the order of the table."""
    return [*_streams(), _categorical(), *_decoding(), *_counting(), *_bits(), *_privacy()]
