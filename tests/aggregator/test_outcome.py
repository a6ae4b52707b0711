"""What merged counts of three columns say about an outcome, and what they are not taken to say."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from edge_runtime.aggregator.anchor import Anchor, Table
from edge_runtime.aggregator.outcome import Outcome, fit_outcome, interaction_evidence

#: the outcome, the two columns that tell it together, and one that tells nothing
CARDINALITIES = (2, 4, 4, 5)
ALL = ((0, 1), (0, 2), (0, 3), (0, 1, 2), (0, 1, 3), (0, 2, 3))

Codes = npt.NDArray[np.int32]
F64 = npt.NDArray[np.float64]


def draw(rows: int, *, seed: int, strength: float) -> tuple[Codes, F64]:
    """Rows whose outcome follows the parity of two columns: no pair of columns shows it.

    Also the probabilities behind them, float64 [rows, 2].
    """
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, CARDINALITIES, (rows, 4)).astype(np.int32)
    odd = (codes[:, 1] + codes[:, 2]) % 2
    yes = 0.5 + strength * (odd - 0.5)
    codes[:, 0] = rng.random(rows) < yes
    return codes, np.stack([1 - yes, yes], axis=1)


def count(
    codes: Codes,
    tables: tuple[tuple[int, ...], ...] = ALL,
    *,
    sigma: float = 0.0,
    seed: int = 0,
    told: float | None = None,
    cardinalities: tuple[int, ...] = CARDINALITIES,
) -> Anchor:
    """Counts with noise of `sigma`, said to be of `told`."""
    rng = np.random.default_rng(seed)
    found = {}
    for columns in tables:
        counts = np.zeros([cardinalities[c] for c in columns])
        np.add.at(counts, tuple(codes[:, c] for c in columns), 1)
        counts += np.rint(rng.normal(0, sigma, counts.shape)) if sigma else 0
        found[columns] = Table(columns, counts, (sigma if told is None else told) ** 2)
    return Anchor(found, 10)


def without_outcome(rows: int, *, seed: int) -> Codes:
    """Pooled rows: the devices' generators know everything but the outcome."""
    codes, _ = draw(rows, seed=seed, strength=0.0)
    return codes


def error(outcome: Outcome, truth: F64) -> float:
    return float(np.abs(outcome.probabilities - truth).mean())


def truth_of(codes: Codes, strength: float) -> F64:
    odd = (codes[:, 1] + codes[:, 2]) % 2
    yes = 0.5 + strength * (odd - 0.5)
    return np.stack([1 - yes, yes], axis=1)


def test_a_signal_that_no_pair_shows_is_found() -> None:
    real, _ = draw(20_000, seed=1, strength=0.6)
    pool = without_outcome(20_000, seed=2)
    found = fit_outcome(pool, np.ones(len(pool)), count(real))
    assert found is not None
    # The table that says it, and none of the others.
    assert found.column == 0
    assert found.tables == ((0, 1, 2),)
    assert found.probabilities.shape == (20_000, 2)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1.0)
    assert error(found, truth_of(pool, 0.6)) < 0.015
    # What the rows themselves say of the outcome is not looked at.
    flipped = pool.copy()
    flipped[:, 0] = 1 - flipped[:, 0]
    again = fit_outcome(flipped, np.ones(len(pool)), count(real))
    assert again is not None
    np.testing.assert_array_equal(again.probabilities, found.probabilities)


def test_pairs_and_a_table_of_three_work_together() -> None:
    rng = np.random.default_rng(3)
    codes, _ = draw(40_000, seed=3, strength=0.0)
    pool = without_outcome(6000, seed=4)

    def chance(rows: Codes) -> F64:
        odd = (rows[:, 1] + rows[:, 2]) % 2
        logit = 1.2 * (odd - 0.5) + 0.5 * (rows[:, 3] - 2)
        return np.asarray(1 / (1 + np.exp(-logit)))

    codes[:, 0] = rng.random(len(codes)) < chance(codes)
    found = fit_outcome(pool, np.ones(len(pool)), count(codes))
    assert found is not None
    assert set(found.tables) >= {(0, 1, 2)}
    assert any(3 in table for table in found.tables)
    assert float(np.abs(found.probabilities[:, 1] - chance(pool)).mean()) < 0.02


def test_rows_of_a_pool_that_is_not_like_the_fleet_are_weighed() -> None:
    # The fleet's rows are nearly all of code 0 in column 3; the pool has all codes alike. The
    # outcome follows the columns in the same way, so weights must not lead it astray.
    real, _ = draw(40_000, seed=5, strength=0.5)
    real = real[(real[:, 3] == 0) | (np.arange(len(real)) % 10 == 0)]
    pool = without_outcome(6000, seed=6)
    weights = np.where(pool[:, 3] == 0, 5.0, 0.5)
    found = fit_outcome(pool, weights, count(real))
    assert found is not None
    assert error(found, truth_of(pool, 0.5)) < 0.03


@pytest.mark.parametrize("seed", range(6))
def test_noise_is_not_taken_for_a_signal(seed: int) -> None:
    real, _ = draw(4000, seed=seed, strength=0.0)
    pool = without_outcome(20_000, seed=100 + seed)
    weights = np.ones(len(pool))
    # Cells of some 100 rows, noise of 30: the tables differ from the pool a lot, and mean nothing.
    assert fit_outcome(pool, weights, count(real, sigma=30.0, seed=seed)) is None
    # Nor does the sampling of real rows, where counts are exact.
    assert fit_outcome(pool, weights, count(real)) is None


def test_noise_of_known_variance_shrinks_the_effects() -> None:
    strength, sigma = 0.3, 60.0
    pool = without_outcome(6000, seed=7)
    truth = truth_of(pool, strength)
    weights = np.ones(len(pool))
    told, untold, reach = [], [], []
    for seed in range(6):
        real, _ = draw(8000, seed=seed, strength=strength)
        # Cells of 250 rows and outcome.
        only = ((0, 1, 2),)
        one = fit_outcome(pool, weights, count(real, only, sigma=sigma, seed=seed))
        other = fit_outcome(pool, weights, count(real, only, sigma=sigma, seed=seed, told=0.0))
        assert one is not None
        assert other is not None
        told.append(error(one, truth))
        untold.append(error(other, truth))
        reach.append((np.ptp(one.probabilities[:, 1]), np.ptp(other.probabilities[:, 1])))
    # Nearer to the truth than one that believes every count, and nearer to the mean.
    assert np.mean(told) < 0.9 * np.mean(untold)
    assert all(mine < theirs for mine, theirs in reach)
    # And still more than half of what there is to know: no model at all is off by 0.15.
    assert np.mean(told) < 0.075


def test_more_than_two_outcomes() -> None:
    cards = (3, 3, 3, 2)
    rng = np.random.default_rng(8)
    table = np.array([[0.6, 0.3, 0.1], [0.1, 0.6, 0.3], [0.3, 0.1, 0.6]])

    def rows(n: int) -> tuple[Codes, F64]:
        codes = rng.integers(0, cards, (n, 4)).astype(np.int32)
        chance = table[(codes[:, 1] + codes[:, 2]) % 3]
        codes[:, 0] = (rng.random(n)[:, None] >= chance.cumsum(axis=1)[:, :2]).sum(axis=1)
        return codes, chance

    real, _ = rows(20_000)
    pool, truth = rows(5000)
    pool[:, 0] = rng.integers(0, 3, len(pool))
    found = fit_outcome(pool, np.ones(len(pool)), count(real, cardinalities=cards))
    assert found is not None
    assert found.tables[0] == (0, 1, 2)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1.0)
    assert error(found, truth) < 0.02


def test_the_outcome_need_not_be_the_first_column() -> None:
    real, _ = draw(20_000, seed=9, strength=0.6)
    pool = without_outcome(5000, seed=10)
    order = [1, 2, 0, 3]
    cards = tuple(CARDINALITIES[c] for c in order)
    turned = np.ascontiguousarray(real[:, order])
    anchor = count(turned, ((0, 2), (1, 2), (2, 3), (0, 1, 2)), cardinalities=cards)
    found = fit_outcome(np.ascontiguousarray(pool[:, order]), np.ones(len(pool)), anchor, column=2)
    assert found is not None
    assert found.column == 2
    assert error(found, truth_of(pool, 0.6)) < 0.015


def test_cells_that_nobody_counted_or_sent_are_no_trouble() -> None:
    real, _ = draw(20_000, seed=11, strength=0.6)
    real = real[real[:, 1] != 3]
    pool = without_outcome(20_000, seed=12)
    # Of what no device has, a generator under noise still draws a little.
    pool = pool[(pool[:, 1] != 3) | (np.arange(len(pool)) % 20 == 0)]
    found = fit_outcome(pool, np.ones(len(pool)), count(real))
    assert found is not None
    known = pool[:, 1] != 3
    assert 0 < (~known).sum() < 0.03 * len(pool)
    assert float(np.abs(found.probabilities - truth_of(pool, 0.6))[known].mean()) < 0.03
    # What they said of rows that no device has is close to nothing.
    assert np.abs(found.probabilities[~known] - 0.5).max() < 0.25
    fewer = pool[pool[:, 2] != 0]
    found = fit_outcome(fewer, np.ones(len(fewer)), count(real))
    assert found is not None
    assert np.isfinite(found.probabilities).all()


def test_without_tables_of_three_columns_or_rows_there_is_no_model() -> None:
    real, _ = draw(4000, seed=13, strength=0.6)
    pool = without_outcome(1000, seed=14)
    pairs = count(real, ((0, 1), (0, 2), (0, 3)))
    assert fit_outcome(pool, np.ones(len(pool)), pairs) is None
    # A table of three columns without the outcome says nothing of it.
    others = count(real, ((0, 1), (1, 2, 3)))
    assert fit_outcome(pool, np.ones(len(pool)), others) is None
    assert fit_outcome(pool[:0], np.ones(0), count(real)) is None


def test_the_pool_points_at_the_interaction_that_is_left_in_it() -> None:
    # A tenth of the signal, after the devices' generators.
    pool, _ = draw(20_000, seed=15, strength=0.15)
    weights = np.ones(len(pool))
    found = interaction_evidence(pool, weights, CARDINALITIES, rows=20_000)
    assert found[0][1] == (0, 1, 2)
    assert [gain for gain, _ in found] == sorted((gain for gain, _ in found), reverse=True)
    assert found[0][0] > 5 * max((gain for gain, _ in found[1:]), default=0.0)
    # Noise of the counts to come takes from it, and in the end all.
    noisy = interaction_evidence(pool, weights, CARDINALITIES, rows=20_000, variance=30.0**2)
    assert noisy[0][1] == (0, 1, 2)
    assert noisy[0][0] < found[0][0]
    drowned = interaction_evidence(pool, weights, CARDINALITIES, rows=20_000, variance=1e8)
    assert all(gain < 1.0 for gain, _ in drowned)


def test_a_pool_without_interactions_points_nowhere() -> None:
    pool = without_outcome(20_000, seed=16)
    found = interaction_evidence(
        pool, np.ones(len(pool)), CARDINALITIES, rows=20_000, variance=30.0**2
    )
    assert {table for _, table in found} == {(0, 1, 2), (0, 1, 3), (0, 2, 3)}
    assert all(gain < 1.0 for gain, _ in found)
    # It may have lost what the counts would tell: then small tables, the least noisy, come first.
    assert found[0][1] == (0, 1, 2)


def test_of_many_columns_those_that_tell_most_alone_are_paired() -> None:
    rng = np.random.default_rng(18)
    cards = (2,) * 31
    pool = rng.integers(0, cards, (4000, 31)).astype(np.int32)
    # The last six tell the outcome a little each.
    pool[:, 0] = rng.random(4000) < 0.2 + 0.1 * pool[:, 25:].sum(axis=1)
    found = interaction_evidence(pool, np.ones(4000), cards, rows=4000)
    paired = {column for _, table in found for column in table} - {0}
    assert len(paired) == 24
    assert paired >= set(range(25, 31))


def test_tables_of_more_cells_than_rows_are_not_asked_for() -> None:
    rng = np.random.default_rng(17)
    cards = (2, 20, 20)
    pool = rng.integers(0, cards, (20_000, 3)).astype(np.int32)
    odd = (pool[:, 1] + pool[:, 2]) % 2
    pool[:, 0] = rng.random(len(pool)) < 0.05 + 0.9 * odd
    weights = np.ones(len(pool))
    cells = 2 * 20 * 20
    ((_, table),) = interaction_evidence(pool, weights, cards, rows=cells)
    assert table == (0, 1, 2)
    assert interaction_evidence(pool, weights, cards, rows=cells - 1) == []
