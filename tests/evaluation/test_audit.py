"""Bounds on epsilon against published figures, other software, and mechanisms with a known one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from edge_runtime.errors import EvaluationError
from edge_runtime.evaluation.audit import (
    from_rates,
    gaussian_epsilon,
    guess,
    lower_limit,
    one_run,
    upper_limit,
)


def test_one_run_gives_the_papers_figures() -> None:
    # Steinke, Nasr and Jagielski 2023: appendix D, and section 7.
    assert one_run(1000, 100, 75, delta=1e-4, confidence=0.95) == pytest.approx(0.673, abs=5e-4)
    assert one_run(100_000, 1510, 1439, delta=1e-5, confidence=0.95) == pytest.approx(
        2.675, abs=1e-3
    )
    assert one_run(1000, 100, 50, delta=1e-5, confidence=0.95) == 0.0
    assert one_run(1000, 0, 0, delta=1e-5, confidence=0.95) == 0.0
    with pytest.raises(EvaluationError, match="3 of 2"):
        one_run(10, 2, 3, delta=1e-5, confidence=0.95)


@pytest.mark.parametrize(("hits", "trials"), [(0, 40), (1, 40), (17, 40), (39, 40), (40, 40)])
def test_limits_are_clopper_pearson(hits: int, trials: int) -> None:
    peer = binomtest(hits, trials).proportion_ci(confidence_level=0.95, method="exact")
    assert float(lower_limit(hits, trials, 0.025)) == pytest.approx(peer.low, abs=1e-12)
    assert float(upper_limit(hits, trials, 0.025)) == pytest.approx(peer.high, abs=1e-12)


@pytest.mark.parametrize("mu", [0.1, 1.0, 3.0, 12.0])
def test_gaussian_epsilon_is_the_integral(mu: float) -> None:
    epsilon = gaussian_epsilon(mu, 1e-5)
    x = np.linspace(-10.0, mu + 10.0, 400_001)
    excess = np.maximum(norm.pdf(x, mu) - np.exp(epsilon + norm.logpdf(x)), 0.0)
    assert np.trapezoid(excess, x) == pytest.approx(1e-5, rel=1e-3)


def test_gaussian_epsilon_at_the_ends() -> None:
    assert gaussian_epsilon(0.0, 1e-5) == 0.0
    assert gaussian_epsilon(1e-6, 1e-5) == 0.0
    assert gaussian_epsilon(60.0, 1e-5) > 60.0**2 / 2


def test_bounds_hold_as_often_as_they_say() -> None:
    """Gaussian mechanisms, whose epsilon is known: above it in one of twenty cases at most."""
    rng = np.random.default_rng(0)
    wrong = np.zeros(3)
    for _ in range(150):
        inside, outside = rng.normal(1.0, 1.0, 120), rng.normal(0.0, 1.0, 120)
        chosen = from_rates(inside, outside, delta=1e-5)
        fixed = from_rates(inside, outside, delta=1e-5, threshold=0.5)
        true = gaussian_epsilon(1.0, 1e-5)
        wrong += [chosen.gaussian > true, fixed.gaussian > true, chosen.epsilon > true]
    # 7.5 of 150 expected at most; 18 is 4 standard deviations above.
    assert wrong.max() <= 18
    assert wrong[2] == 0


def test_randomised_response_is_found_out_and_never_overstated() -> None:
    """Bits flipped with probability 1 / (1 + e^2): epsilon is 2, and the bounds come close."""
    rng = np.random.default_rng(1)
    coins = rng.random(40_000) < 0.5
    shown = np.where(rng.random(coins.size) < 1.0 / (1.0 + math.exp(-2.0)), coins, ~coins)
    rates = from_rates(shown[coins].astype(float), shown[~coins].astype(float), delta=0.0)
    assert 1.9 < rates.epsilon <= 2.0
    # Ties are broken by a coin of the guesser's own.
    one = guess(shown + 0.5 * rng.random(coins.size), coins, share=1.0, delta=0.0)
    assert 1.9 < one.epsilon <= 2.0


def test_the_ceiling_is_what_a_perfect_attack_proves() -> None:
    perfect = from_rates(np.ones(500), np.zeros(500), delta=1e-5)
    assert perfect.epsilon == perfect.ceiling == pytest.approx(math.log(250 / 3.7), abs=0.02)
    assert perfect.gaussian == perfect.gaussian_ceiling > 20
    blind = from_rates(np.zeros(500), np.zeros(500), delta=1e-5)
    assert blind.epsilon == blind.gaussian == 0.0
    backwards = from_rates(np.zeros(500), np.ones(500), delta=1e-5)
    assert backwards.epsilon == backwards.gaussian == 0.0
    coins = np.arange(1000) % 2 == 0
    right = guess(coins.astype(float), coins, share=0.5, delta=1e-5)
    assert (right.made, right.correct, right.rows) == (500, 500, 1000)
    assert right.epsilon == right.ceiling > 5.0


def test_too_few_or_strange_scores_are_refused() -> None:
    with pytest.raises(EvaluationError, match="not 3 and 9"):
        from_rates(np.zeros(3), np.zeros(9), delta=1e-5)
    with pytest.raises(EvaluationError, match="finite"):
        from_rates([1.0, 2.0, 3.0, math.nan], np.zeros(9), delta=1e-5)
