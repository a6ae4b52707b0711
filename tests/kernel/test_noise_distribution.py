"""The distributions of PrivacyNoise: what the proof of docs/kernel-noise.md rests on, and fits.

The seeds are fixed, so these tests give the same answer every time. Their thresholds are chosen
before: all tests of fit of this file together would reject a right sampler once in a hundred
seeds (Bonferroni).
"""

from __future__ import annotations

import importlib.util
import math
from decimal import Decimal, getcontext
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from edge_runtime import kernel
from edge_runtime.kernel import reference
from edge_runtime.kernel._call import check, lib, pointer

ROOT = Path(__file__).parents[2]
SEED = bytes(range(100, 132))
FITS = 36
ALPHA = 0.01 / FITS


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def draw(function: str, n: int, seed: bytes = SEED) -> np.ndarray:
    out = np.empty(n, np.int64)
    noise = kernel.PrivacyNoise(seed)
    check(getattr(lib, function)(noise._handle, pointer(out), n), function)
    return out


def fit(values: np.ndarray, log_weight: np.ndarray, support: np.ndarray) -> float:
    """p-value of a chi-square test of integers against exp(log_weight) on a whole support."""
    p = np.exp(log_weight - log_weight.max())
    p /= p.sum()
    counts = np.bincount(values - support[0], minlength=len(support))[: len(support)]
    assert counts.sum() == len(values), "a value outside the support"
    # cells of at least 20 expected, made by joining neighbours
    cells = np.minimum(np.cumsum(p * len(values)) // 20, p.sum() * len(values) // 20 - 1)
    labels = np.unique(cells, return_inverse=True)[1]
    observed, expected = np.bincount(labels, counts), np.bincount(labels, p * len(values))
    if len(observed) == 1:
        return 1.0
    return float(stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue)


def normal_p(deviation: float) -> float:
    return math.erfc(abs(deviation) / math.sqrt(2))


# ---- the table and the argument ----


def test_the_table_in_the_source_is_the_one_its_tool_writes(tmp_path: Path) -> None:
    written = tmp_path / "base_table.inc"
    tool("make_base_table").main([str(written)])
    assert written.read_bytes() == (ROOT / "native/src/base_table.inc").read_bytes()


def test_two_ways_to_compute_the_table_agree_to_the_last_bit() -> None:
    reach, entries = tool("make_base_table").cumulative()
    assert (reach, tuple(entries)) == reference.base_table()
    assert all(a < b for a, b in pairwise(entries))


def test_the_vectors_in_the_source_are_those_the_reference_gives(tmp_path: Path) -> None:
    tool("make_kernel_vectors").main([str(tmp_path)])
    for name in ("streams.txt", "noise.txt", "columns.txt", "categorical.txt"):
        committed = ROOT / "tests/kernel/kat" / name
        assert (tmp_path / name).read_text() == committed.read_text(), name


def weights(variance: Decimal, reach: int) -> list[Decimal]:
    return [(-Decimal(x * x) / (2 * variance)).exp() for x in range(reach + 1)]


def test_statistical_distance_of_the_table() -> None:
    """Truncation and rounding of four draws stay below TRAINING_STATISTICAL_DISTANCE."""
    getcontext().prec = 120
    variance = Decimal(2**42) / ((1 + 32**2) * (1 + 1024**2))
    assert math.isclose(variance.sqrt(), 63.96874236690699)
    w = weights(variance, 2500)
    total = w[0] + 2 * sum(w[1:])
    reach, entries = reference.base_table()
    distance, previous = 2 * sum(w[reach + 1 :]) / total, 0
    for x, entry in zip(range(-reach, reach + 1), entries, strict=True):
        # the table's own probability, against the truth's share
        top = 2**256 if x == reach else entry
        distance += abs(Decimal(top - previous) / 2**256 - w[abs(x)] / total)
        previous = top
    assert 4 * distance / 2 < Decimal(kernel.TRAINING_STATISTICAL_DISTANCE)


@pytest.mark.parametrize(("multiplier", "first"), [(32, True), (1024, False)])
def test_max_log_distance_of_a_convolution(multiplier: int, first: bool) -> None:
    """x1 + K x2 of discrete Gaussians against the discrete Gaussian, exactly, at many points.

    The proof bounds the ratio for all points by theta functions; here it is summed up.
    """
    getcontext().prec = 120
    table = Decimal(2**42) / ((1 + 32**2) * (1 + 1024**2))
    variance = table if first else table * (1 + 32**2)
    whole = variance * (1 + multiplier**2)
    ratios = []
    for y in (0, 1, multiplier // 2, multiplier // 2 + 1, multiplier, 12_345, -777_777):
        centre = round(y * multiplier / (1 + multiplier**2))
        mass = sum(
            (-(Decimal((y - multiplier * x) ** 2) + x * x) / (2 * variance)).exp()
            for x in range(centre - 45, centre + 46)
        )
        ratios.append(mass / (-Decimal(y * y) / (2 * whole)).exp())
    spread = max(ratios).ln() - min(ratios).ln()
    assert spread > 0  # the sum is wide enough to see the distance at all
    # three such convolutions make one draw
    assert 3 * spread < Decimal(kernel.TRAINING_MAX_LOG_DISTANCE)


# ---- fits ----


@pytest.mark.parametrize(
    ("numerator", "denominator"), [(3, 10), (1, 2), (1, 1), (7, 3), (10, 1), (801, 8)]
)
def test_exact_discrete_gaussian_fits(numerator: int, denominator: int) -> None:
    sigma = numerator / denominator
    out = np.empty(150_000, np.int64)
    kernel.PrivacyNoise(SEED).discrete_gaussian(out, sigma=kernel.sigma_fraction(sigma))
    support = np.arange(-int(12 * sigma + 12), int(12 * sigma + 13))
    assert fit(out, -(support.astype(float) ** 2) / (2 * sigma**2), support) > ALPHA
    negative, positive = (out < 0).sum(), (out > 0).sum()
    assert normal_p((positive - negative) / math.sqrt(max(1, positive + negative))) > ALPHA


def test_exact_discrete_gaussian_of_a_wide_sigma_fits() -> None:
    out = np.empty(100_000, np.int64)
    kernel.PrivacyNoise(SEED).discrete_gaussian(out, sigma=12_345.678)
    assert stats.kstest(out / 12_345.678, "norm").pvalue > ALPHA
    assert stats.chisquare(np.bincount(out % 64, minlength=64)).pvalue > ALPHA


def test_table_sampler_fits() -> None:
    out = draw("er_noise_base", 1_000_000)
    reach, _ = reference.base_table()
    support = np.arange(-reach, reach + 1)
    variance = 2**42 / ((1 + 32**2) * (1 + 1024**2))
    assert fit(out, -(support.astype(float) ** 2) / (2 * variance), support) > ALPHA
    assert stats.chisquare(np.bincount(out % 32, minlength=32)).pvalue > ALPHA


def test_wide_sampler_fits() -> None:
    out = draw("er_noise_wide", 1_000_000)
    z = out / kernel.TRAINING_SIGMA_INT
    n = len(z)
    cells = np.bincount((stats.norm.cdf(z) * 1000).astype(int), minlength=1000)
    assert stats.chisquare(cells).pvalue > ALPHA
    assert normal_p(z.mean() * math.sqrt(n)) > ALPHA
    assert normal_p(((z**2).mean() - 1) / math.sqrt(2 / n)) > ALPHA
    assert normal_p(((z**4).mean() - 3) / math.sqrt(96 / n)) > ALPHA
    assert normal_p((z**3).mean() / math.sqrt(15 / n)) > ALPHA
    # a step of the convolution that was missing or doubled would show in the low digits
    for modulus in (2, 32, 1024):
        digits = np.bincount(out % modulus, minlength=modulus)
        assert stats.chisquare(digits).pvalue > ALPHA
    higher = np.bincount(out // 32 % 32, minlength=32)
    assert stats.chisquare(higher).pvalue > ALPHA
    # neighbours are independent
    assert normal_p(np.corrcoef(z[:-1], z[1:])[0, 1] * math.sqrt(n)) > ALPHA
    assert normal_p(np.corrcoef(z[:-1] ** 2, z[1:] ** 2)[0, 1] * math.sqrt(n)) > ALPHA


def test_training_noise_has_the_promised_width() -> None:
    grad = np.full(400_000, 0.25, np.float32)
    kernel.PrivacyNoise(SEED).add_training_noise(grad, clip_norm=0.5, noise_multiplier=1.3)
    z = (grad.astype(np.float64) - 0.25) / (0.5 * 1.3)
    assert stats.kstest(z, "norm").pvalue > ALPHA
    assert normal_p(((z**2).mean() - 1) / math.sqrt(2 / len(z))) > ALPHA


@pytest.mark.parametrize("p", [0.0, 1e-4, 0.013, 0.5, 0.999, 1.0])
def test_bernoulli_fits(p: float) -> None:
    out = np.empty(400_000, np.uint8)
    kernel.PrivacyNoise(SEED).bernoulli(out, p=p)
    assert set(np.unique(out)) <= {0, 1}
    ones = int(out.sum())
    if p in (0.0, 1.0):
        assert ones == p * len(out)
    else:
        assert stats.binomtest(ones, len(out), p).pvalue > ALPHA


def test_uniform_u64_fits() -> None:
    out = np.empty(300_000, np.uint64)
    kernel.PrivacyNoise(SEED).uniform_u64(out)
    bits = np.unpackbits(out.view(np.uint8)).reshape(-1, 64)
    worst = np.abs(bits.mean(axis=0) - 0.5).max() * 2 * math.sqrt(len(out))
    assert normal_p(worst) * 64 > ALPHA
    assert stats.chisquare(np.bincount(out.view(np.uint8), minlength=256)).pvalue > ALPHA
