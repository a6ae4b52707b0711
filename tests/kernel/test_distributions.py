"""Public streams to five sigma, discrete Laplace exactly, both exact samplers beside OpenDP.

Our seeds are fixed, so the answers are too, and every threshold was chosen before: all tests of fit
together would reject a right kernel once in a hundred seeds (Bonferroni). OpenDP cannot be seeded:
the tests beside it have thresholds of their own, at which all six fail once in 100,000 runs.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import opendp.prelude as dp
import pytest
from scipy import stats

from edge_runtime import kernel
from edge_runtime.errors import KernelError

KEY = bytes(range(50, 82))
SEED = bytes(range(7, 39))
SCALES = [Fraction(1, 5), Fraction(1), Fraction(7, 3), Fraction(40), Fraction(2**20 + 1, 3)]
ORACLE_WIDTHS = [0.6, 3.0, 25.5]
# 2 Kolmogorov-Smirnov, 2 x 6 tails, 5 x 2 Laplace
FITS = 2 + 12 + 10
ALPHA = 0.01 / FITS
ORACLE_ALPHA = 1e-5 / 6
TAIL_NUMBERS = 40_000_000
PART = 1_000_000

dp.enable_features("contrib")


@pytest.mark.parametrize(
    ("fill", "law"),
    [(kernel.fill_normal, stats.norm), (kernel.fill_exponential, stats.expon)],
    ids=["normal", "exponential"],
)
def test_kolmogorov_smirnov(fill: object, law: object) -> None:
    x = np.empty(2_000_000, np.float32)
    fill(x, key=KEY, stream=0)
    assert stats.kstest(x.astype(np.float64), law.cdf).pvalue > ALPHA


def test_tails_to_five_sigma() -> None:
    """How many numbers lie beyond 3, 4 and 5 sigma, on each side; exponentials as far out."""
    sigmas = (3.0, 4.0, 5.0)
    probability = stats.norm.sf(sigmas)
    levels = -np.log(probability)
    beyond = np.zeros((4, 3), np.int64)
    x = np.empty(PART, np.float32)
    for part in range(TAIL_NUMBERS // PART):
        kernel.fill_normal(x, key=KEY, stream=1, offset=part * PART)
        far = x[np.abs(x) > 3.0]
        beyond[0] += [(far > s).sum() for s in sigmas]
        beyond[1] += [(far < -s).sum() for s in sigmas]
        kernel.fill_exponential(x, key=KEY, stream=1, offset=part * PART)
        assert x.min() >= 0.0
        far = x[x > levels[0]]
        beyond[2] += [(far > level).sum() for level in levels]
        near = x[x < 0.01]
        # the other end: as many numbers below -log(1 - p)
        beyond[3] += [(near < -math.log1p(-p)).sum() for p in probability]
    assert (beyond[:, 2] > 0).all()
    for side in beyond:
        for count, p in zip(side, probability, strict=True):
            assert stats.binomtest(int(count), TAIL_NUMBERS, p).pvalue > ALPHA


def joined_chisquare(values: np.ndarray, support: np.ndarray, p: np.ndarray) -> float:
    """p-value against exact probabilities, cells of at least 20 expected."""
    counts = np.bincount(values - support[0], minlength=len(support))
    assert len(counts) == len(support), "a value outside the support"
    cells = np.minimum(np.cumsum(p * len(values)) // 20, len(values) // 20 - 1).astype(int)
    labels = np.unique(cells, return_inverse=True)[1]
    observed, expected = np.bincount(labels, counts), np.bincount(labels, p * len(values))
    return float(stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue)


@pytest.mark.parametrize("scale", SCALES, ids=str)
def test_discrete_laplace_fits_its_exact_probabilities(scale: Fraction) -> None:
    out = np.empty(200_000, np.int64)
    kernel.PrivacyNoise(SEED).discrete_laplace(out, scale=scale)
    b = float(scale)
    reach = int(40 * b + 40)
    if reach < 1_000_000:
        support = np.arange(-reach, reach + 1)
        # P(x) = tanh(1 / 2b) exp(-|x| / b): (1 - r) / (1 + r) r^|x|, r = exp(-1 / b)
        p = math.tanh(0.5 / b) * np.exp(-np.abs(support) / b)
        assert abs(p.sum() - 1.0) < 1e-9
        assert joined_chisquare(out, support, p) > ALPHA
    else:
        assert stats.kstest(out / b, stats.laplace.cdf).pvalue > ALPHA
    negative, positive = int((out < 0).sum()), int((out > 0).sum())
    assert stats.binomtest(positive, positive + negative, 0.5).pvalue > ALPHA


@pytest.mark.parametrize("width", ORACLE_WIDTHS)
@pytest.mark.parametrize("name", ["gaussian", "laplace"])
def test_the_exact_samplers_are_opendps(name: str, width: float) -> None:
    """Two samples, ours and OpenDP's, of which neither is known to be right: one distribution."""
    n = 100_000
    ours = np.empty(n, np.int64)
    noise = kernel.PrivacyNoise(SEED)
    domain = dp.vector_domain(dp.atom_domain(T="i64"))
    if name == "gaussian":
        noise.discrete_gaussian(ours, sigma=width)
        mechanism = dp.m.make_gaussian(domain, dp.l2_distance(T="i64"), scale=width)
    else:
        noise.discrete_laplace(ours, scale=width)
        mechanism = dp.m.make_laplace(domain, dp.l1_distance(T="i64"), scale=width)
    theirs = np.array(mechanism([0] * n), np.int64)
    values = np.concatenate([ours, theirs])
    low = values.min()
    table = np.stack([np.bincount(v - low, minlength=np.ptp(values) + 1) for v in (ours, theirs)])
    # neighbours are joined until a cell holds 40 of the 2 n
    cells = np.minimum(np.cumsum(table.sum(axis=0)) // 40, 2 * n // 40 - 1)
    labels = np.unique(cells, return_inverse=True)[1]
    joined = np.stack([np.bincount(labels, row) for row in table])
    assert joined.shape[1] > 2
    assert stats.chi2_contingency(joined).pvalue > ORACLE_ALPHA


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), 2.0**25, Fraction(1, 2**21)])
def test_discrete_laplace_refuses(scale: Fraction | float) -> None:
    with pytest.raises(KernelError):
        kernel.PrivacyNoise(SEED).discrete_laplace(np.empty(2, np.int64), scale=scale)
