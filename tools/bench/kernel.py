"""Print nanoseconds per number of the kernel, beside numpy.

    python tools/bench/kernel.py [numbers]

One thread; the best and the median of nine runs, because other work on the machine only ever adds.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from edge_runtime import kernel

RUNS = 9
KEY = bytes(range(32))


def measure(work: Callable[[], object], numbers: int) -> str:
    """Return best and median time of `work`, in ns per number."""
    times = []
    for _ in range(RUNS):
        start = time.thread_time_ns()
        work()
        times.append((time.thread_time_ns() - start) / numbers)
    return f"{min(times):8.2f} ({statistics.median(times):.2f})"


def main(arguments: list[str]) -> None:
    """Print the table."""
    n = int(arguments[0]) if arguments else 1_000_000
    random, noise = np.random.Generator(np.random.SFC64(1)), kernel.PrivacyNoise()
    real, whole = np.empty(n, np.float32), np.empty(n, np.int64)
    bits, value = np.empty(n, np.uint8), np.empty(n)
    table = random.integers(0, 18, (n, 14)).astype(np.int32)
    a, b = table[:, 3], table[:, 9]
    knots = np.sort(random.normal(size=18 * 8)).reshape(18, 8)
    units = random.random(n, dtype=np.float32)
    few = max(1, n // 20)

    def decode_in_numpy() -> object:
        x = units * np.float32(7)
        q = x.astype(np.int64)
        low = knots[a, q]
        return low + (x - q) * (knots[a, q + 1] - low)

    rows: list[tuple[str, Callable[[], object], Callable[[], object] | None, int]] = [
        (
            "uniform float32",
            lambda: kernel.fill_uniform(real, key=KEY, stream=0),
            lambda: random.random(n, dtype=np.float32),
            n,
        ),
        (
            "normal float32",
            lambda: kernel.fill_normal(real, key=KEY, stream=0),
            lambda: random.standard_normal(n, dtype=np.float32),
            n,
        ),
        (
            "decode to float64, 8 knots",
            lambda: kernel.decode_linear(a, units, knots, value),
            decode_in_numpy,
            n,
        ),
        (
            "count pairs, 18 x 18",
            lambda: kernel.count_pairs(a, b, 18, 18),
            lambda: np.bincount(a * 18 + b, minlength=324),
            n,
        ),
        (
            "training noise",
            lambda: noise.add_training_noise(real, clip_norm=1.0, noise_multiplier=1.0),
            lambda: random.standard_normal(n),
            n,
        ),
        (
            "Bernoulli mask",
            lambda: noise.bernoulli(bits, p=0.01),
            lambda: random.random(n) < 0.01,
            n,
        ),
        (
            "exact Gaussian, sigma 10",
            lambda: noise.discrete_gaussian(whole[:few], sigma=10),
            None,
            few,
        ),
        (
            "exact Gaussian, sigma 2^21",
            lambda: noise.discrete_gaussian(whole[:few], sigma=2**21),
            None,
            few,
        ),
    ]
    print(f"{kernel.isa()}, lanes {kernel.lanes()}, {n} numbers, best (median) ns per number")
    print(f"{'':28}{'kernel':>16}{'numpy':>18}")
    for name, ours, theirs, count in rows:
        peer = measure(theirs, count) if theirs is not None else "-"
        print(f"{name:28}{measure(ours, count):>16}{peer:>18}")


if __name__ == "__main__":
    main(sys.argv[1:])
