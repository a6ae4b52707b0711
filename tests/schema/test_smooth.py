"""Smooth histograms behind noise."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from edge_runtime.schema.denoise import denoise
from edge_runtime.schema.smooth import _cost, _most_likely, _shares, smooth

F64 = NDArray[np.float64]

CELLS, ROWS = 64, 2000.0


def _shape(name: str) -> F64:
    """Rows in each cell; bounds are declared, so most cells are empty."""
    at = np.arange(CELLS)
    share = {
        "bell": np.exp(-(((at - 22) / 4) ** 2) / 2),
        "two bells": np.exp(-(((at - 15) / 3) ** 2) / 2) + np.exp(-(((at - 45) / 5) ** 2) / 2),
        "falling": np.exp(-at / 5),
        "mostly zero": np.where(at == 0, 0.7, 0.3 * np.exp(-at / 8) / 7.5),
    }[name]
    return np.asarray(ROWS * share / share.sum())


def _off(counts: F64, truth: F64) -> float:
    """Total variation."""
    return float(np.abs(counts - truth).sum() / truth.sum() / 2)


@pytest.mark.parametrize("sigma", [10.0, 33.0])
@pytest.mark.parametrize("name", ["bell", "two bells", "falling", "mostly zero"])
def test_smooth_counts_are_nearer_than_runs_of_equal_height(name: str, sigma: float) -> None:
    truth = _shape(name)
    rng = np.random.default_rng(5)
    smoothed, runs = [], []
    for _ in range(12):
        noisy = truth + rng.normal(0, sigma, CELLS)
        smoothed.append(_off(smooth(noisy, sigma=sigma, rows=ROWS, line=CELLS), truth))
        runs.append(_off(denoise(noisy, sigma=sigma, rows=ROWS, line=CELLS), truth))
    assert np.mean(smoothed) < 0.75 * np.mean(runs)


def test_a_frequent_value_is_not_smeared() -> None:
    truth = _shape("mostly zero")
    noisy = truth + np.random.default_rng(3).normal(0, 33.0, CELLS)
    found = smooth(noisy, sigma=33.0, rows=ROWS, line=CELLS)
    assert found[0] == pytest.approx(truth[0], rel=0.15)
    assert found[1] < 0.25 * found[0]


def test_missing_values_stand_apart() -> None:
    truth = np.append(_shape("bell") * 0.5, ROWS / 2)
    noisy = truth + np.random.default_rng(4).normal(0, 20.0, CELLS + 1)
    found = smooth(noisy, sigma=20.0, rows=ROWS, line=CELLS)
    assert found[-1] == pytest.approx(ROWS / 2, rel=0.1)
    assert found[-2] < 10
    assert found.sum() == pytest.approx(ROWS)
    assert (found > 0).all()


def test_the_maximum_is_one_that_another_optimiser_finds() -> None:
    rng = np.random.default_rng(6)
    cells = 12
    share = np.abs(rng.normal(size=cells)) / 10
    bends = np.diff(np.eye(cells), n=2, axis=0)
    prior = 0.3 * bends.T @ bends + 1e-4 * np.eye(cells)
    logs, shares, _ = _most_likely(share, 0.05, prior, np.zeros(cells))
    reference = minimize(
        lambda x: _cost(share, 0.05, prior, x), np.zeros(cells), method="BFGS", tol=1e-8
    )
    assert _cost(share, 0.05, prior, logs) == pytest.approx(reference.fun, abs=1e-2)
    assert np.abs(shares - _shares(reference.x)).max() < 0.01


@pytest.mark.parametrize("line", [0, 1, 2, 3])
def test_short_lines(line: int) -> None:
    found = smooth(np.array([5.0, -3.0, 9.0]), sigma=2.0, rows=12.0, line=line)
    assert found.sum() == pytest.approx(12.0)
    assert (found > 0).all()
    assert found.argmax() == 2


@pytest.mark.parametrize("sigma", [1e-3, 1e6])
def test_noise_of_any_size(sigma: float) -> None:
    noisy = np.random.default_rng(7).normal(0, sigma, CELLS) + _shape("two bells")
    found = smooth(noisy, sigma=sigma, rows=ROWS, line=CELLS)
    assert np.isfinite(found).all()
    assert found.sum() == pytest.approx(ROWS)
    assert (found > 0).all()
    if sigma < 1:
        assert _off(found, _shape("two bells")) < 0.02
