"""Drift is found where the population moves; growth, noise and coming and going are none."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2

from edge_runtime.aggregator.guard import find_drift
from edge_runtime.aggregator.guard.drift import chi_square_tail

from .tables import World, release

WORLD, MOVED = World(), World(7)


@pytest.mark.parametrize("sigma", [0.0, 5.0])
def test_a_population_that_stays_shows_no_drift(sigma: float) -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        releases = []
        for number in range(8):
            labels = [number, (number + 1) % 10]
            # Some devices get more rows of the same kind, one is late, one leaves.
            rows = WORLD.rows(rng, 200, labels)
            for round_number in (1, 2, 3):
                if (number, round_number) in ((0, 1), (1, 3)):
                    continue
                releases.append(release(f"d{number}", round_number, rows, sigma, rng))
                rows = np.concatenate([rows, WORLD.rows(rng, 20 * number, labels)])
        assert find_drift(releases, round_number=3) == [], seed


def test_a_new_sample_of_the_same_population_is_no_drift() -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        releases = [
            release(f"d{n}", r, WORLD.rows(rng, 300, [n % 10]), 3.0, rng)
            for n in range(6)
            for r in (1, 2, 3)
        ]
        assert find_drift(releases, round_number=3, false_alarms=1e-3) == [], seed


@pytest.mark.parametrize("sigma", [0.0, 5.0])
def test_a_population_that_moves_is_found(sigma: float) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        releases = []
        for number in range(10):
            for round_number in (1, 2, 3):
                rows = WORLD.rows(rng, 300, [number])
                if round_number == 3:
                    # A third of the rows comes from elsewhere now.
                    rows = np.concatenate([rows[:200], MOVED.rows(rng, 100, [number])])
                releases.append(release(f"d{number}", round_number, rows, sigma, rng))
        found = find_drift(releases, round_number=3)
        assert found, seed
        assert (found[0].round, found[0].devices) == (3, 10)
        assert found[0].value >= found[-1].value > 0.03
        assert found[0].p_value < 1e-6
        # Since the drift there is nothing to compare with.
        assert find_drift(releases, round_number=3, since_round=3) == []


def test_what_cannot_be_compared_is_no_drift() -> None:
    rng = np.random.default_rng(0)
    one = release("a", 1, WORLD.rows(rng, 300), 3.0, rng)
    assert find_drift([one], round_number=1) == []
    assert find_drift([one, release("b", 2, MOVED.rows(rng, 300), 3.0, rng)], round_number=2) == []
    drowned = [release("a", r, WORLD.rows(rng, 30), 90.0, rng) for r in (1, 2)]
    assert find_drift(drowned, round_number=2) == []
    # One cell that holds everything.
    same = np.zeros((300, 13), np.int32)
    assert find_drift([release("a", r, same, 0.0, rng) for r in (1, 2)], round_number=2) == []


@pytest.mark.parametrize("cells", [1, 3, 10, 60])
def test_the_tail_of_chi_square(cells: int) -> None:
    for statistic in (0.5 * cells, cells, 2.0 * cells, 4.0 * cells):
        exact = float(chi2.sf(statistic, cells))
        assert abs(chi_square_tail(statistic, cells) - exact) < 0.02 + 0.3 * exact
    assert chi_square_tail(0.0, cells) == 1.0
