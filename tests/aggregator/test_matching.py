"""Rows taken from a matched pool: their outcomes follow the model, everything else the devices."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from edge_runtime.aggregator.anchor import Anchor, Table
from edge_runtime.aggregator.matching import Matched, match_pool
from edge_runtime.aggregator.outcome import Outcome
from edge_runtime.aggregator.pool import PoolRows
from edge_runtime.aggregator.weighting import device_weights

KEY = hashlib.sha256(b"a key").digest()


def pool_of(codes: np.ndarray) -> PoolRows:
    n = len(codes)
    return PoolRows(
        codes=np.ascontiguousarray(codes, np.int32),
        device=(np.arange(n) % 2).astype(np.int32),
        devices=("a", "b"),
        round=np.ones(n, np.int32),
        lot=np.zeros(n, np.float32),
    )


def counted(codes: np.ndarray, *tables: tuple[int, ...], cards: tuple[int, ...]) -> Anchor:
    found = {}
    for columns in tables:
        counts = np.zeros([cards[c] for c in columns])
        np.add.at(counts, tuple(codes[:, c] for c in columns), 1)
        found[columns] = Table(columns, counts, 0.0)
    return Anchor(found, 2)


def test_outcomes_follow_their_probabilities_and_the_rest_is_kept() -> None:
    codes = np.array([[0, 5, 7], [1, 6, 8], [2, 9, 4]], np.int32)
    probabilities = np.array([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    matched = Matched(np.ones(3), Outcome(0, probabilities, ((0, 1, 2),)))
    chosen = np.repeat(np.arange(3), 20_000)
    taken = matched.take(codes, chosen, key=KEY)
    assert taken.dtype == np.int32
    np.testing.assert_array_equal(taken[:, 1:], codes[chosen, 1:])
    for row in range(3):
        shares = np.bincount(taken[chosen == row, 0], minlength=3) / 20_000
        np.testing.assert_allclose(shares, probabilities[row], atol=0.012)
    # What the pool holds is not written to.
    np.testing.assert_array_equal(codes[:, 0], [0, 1, 2])


def test_the_same_key_draws_the_same_rows() -> None:
    codes = np.zeros((50, 2), np.int32)
    probabilities = np.full((50, 2), 0.5)
    matched = Matched(np.ones(50), Outcome(0, probabilities, ()))
    chosen = np.arange(50).repeat(4)
    one = matched.take(codes, chosen, key=KEY)
    np.testing.assert_array_equal(one, matched.take(codes, chosen, key=KEY))
    assert (one != matched.take(codes, chosen, key=KEY[::-1])).any()
    # Every use of a row has an outcome of its own.
    assert len(np.unique(one[:4, 0])) == 2 or len(np.unique(one[4:8, 0])) == 2


def test_a_row_of_rounding_has_an_outcome_of_the_column() -> None:
    # Probabilities that add up to a little less than one.
    probabilities = np.tile([0.5, 0.5 - 1e-3], (100_000, 1))
    matched = Matched(np.ones(100_000), Outcome(0, probabilities, ()))
    taken = matched.take(np.zeros((100_000, 1), np.int32), np.arange(100_000), key=KEY)
    assert set(taken[:, 0]) == {0, 1}


def test_without_a_model_rows_are_as_they_were_sent() -> None:
    codes = np.arange(12, dtype=np.int32).reshape(4, 3)
    taken = Matched(np.ones(4), None).take(codes, np.array([3, 0, 3]), key=KEY)
    np.testing.assert_array_equal(taken, codes[[3, 0, 3]])


CARDS = (2, 4, 4)


def parity(rows: int, *, seed: int, strength: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, CARDS, (rows, 3)).astype(np.int32)
    odd = (codes[:, 1] + codes[:, 2]) % 2
    codes[:, 0] = rng.random(rows) < 0.5 + strength * (odd - 0.5)
    return codes


def test_a_lost_interaction_comes_back_through_the_outcome() -> None:
    real = parity(20_000, seed=1, strength=0.6)
    # Twice as many rows of the low half of column 1 as there are real ones.
    pool = pool_of(parity(12_000, seed=2, strength=0.0))
    keep = (pool.codes[:, 1] < 2) | (np.arange(12_000) % 2 == 0)
    pool = pool_of(pool.codes[keep])
    anchor = counted(real, (0, 1), (0, 2), (0, 1, 2), cards=CARDS)
    matched = match_pool(pool, {"a": 1.0, "b": 1.0}, anchor, raked=True, conditions=(0,))
    assert matched.outcome is not None
    assert matched.outcome.tables == ((0, 1, 2),)
    # Weights correct the rest of the row, from the tables without the outcome.
    low = np.average(pool.codes[:, 1] < 2, weights=matched.weights)
    assert low == pytest.approx(np.mean(real[:, 1] < 2), abs=0.005)
    assert matched.weights.mean() == pytest.approx(1.0)
    rows = matched.take(pool.codes, np.arange(len(pool.codes)), key=KEY)
    odd = (rows[:, 1] + rows[:, 2]) % 2 == 1
    yes = rows[:, 0] == 1
    assert yes[odd].mean() - yes[~odd].mean() == pytest.approx(0.6, abs=0.04)


def test_rows_count_by_their_devices_where_no_anchor_is_to_be_followed() -> None:
    real = parity(20_000, seed=3, strength=0.6)
    pool = pool_of(parity(2000, seed=4, strength=0.0))
    anchor = counted(real, (0, 1, 2), cards=CARDS)
    rows_of = {"a": 300.0, "b": 100.0}
    plain = device_weights(pool, rows_of)
    for matched in (
        match_pool(pool, rows_of, anchor, raked=False, conditions=(0,)),
        match_pool(pool, rows_of, None, raked=True, conditions=(0,)),
    ):
        assert matched.outcome is None
        np.testing.assert_array_equal(matched.weights, plain)
    # Without condition columns there is no outcome, but there are weights.
    free = match_pool(pool, rows_of, anchor, raked=True, conditions=())
    assert free.outcome is None
    assert (free.weights != plain).any()
    none = match_pool(pool_of(np.empty((0, 3))), rows_of, anchor, raked=True, conditions=(0,))
    assert none.outcome is None
    assert len(none.weights) == 0
