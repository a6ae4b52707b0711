"""Draws follow the weights, repeat as little as they can, and are the same for ever."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from edge_runtime.aggregator.drawing import condition_cells, draw_balanced, draw_weighted

KEY = bytes(range(32))


def test_every_row_comes_floor_or_ceil_of_its_expectation() -> None:
    rng = np.random.default_rng(1)
    weights = rng.gamma(0.5, 1.0, 3000)
    cell = rng.integers(0, 5, 3000)
    for rows in (1, 100, 2999, 10_000):
        drawn = np.bincount(draw_weighted(weights, rows, cell=cell, key=KEY), minlength=3000)
        expected = rows * weights / weights.sum()
        assert drawn.sum() == rows
        assert (np.abs(drawn - expected) < 1 + 1e-6).all()
        # The cells as well, as they are walked one after the other.
        cells = np.bincount(cell, drawn) - np.bincount(cell, expected)
        assert np.abs(cells).max() < 1 + 1e-6


def test_balanced_is_equal_to_within_one_and_weighted_within() -> None:
    rng = np.random.default_rng(2)
    cell = rng.choice(4, 2000, p=[0.9, 0.06, 0.03, 0.01])
    weights = rng.gamma(2.0, 1.0, 2000)
    drawn = np.bincount(draw_balanced(weights, 1002, cell=cell, key=KEY), minlength=2000)
    each = np.bincount(cell, drawn)
    assert sorted(each) == [250, 250, 251, 251]
    heaviest = np.argsort(-np.bincount(cell, weights))[:2]
    assert set(np.flatnonzero(each == 251)) == set(heaviest)
    for number in range(4):
        inside = cell == number
        expected = each[number] * weights[inside] / weights[inside].sum()
        assert (np.abs(drawn[inside] - expected) < 1 + 1e-6).all()
    few = draw_balanced(weights, 3, cell=cell, key=KEY)
    assert len(few) == len(set(cell[few])) == 3


def test_draws_are_shuffled_and_depend_on_the_key_alone() -> None:
    weights = np.ones(500)
    cell = np.repeat(np.arange(5), 100)
    first = draw_weighted(weights, 500, cell=cell, key=KEY)
    np.testing.assert_array_equal(np.sort(first), np.arange(500))
    assert abs(np.corrcoef(first, np.arange(500))[0, 1]) < 0.2
    np.testing.assert_array_equal(first, draw_weighted(weights, 500, cell=cell, key=KEY))
    other = draw_weighted(weights, 500, cell=cell, key=bytes(32))
    assert (first != other).mean() > 0.9


def test_draws_never_change() -> None:
    # Releases must be repeatable after years: neither NumPy nor this file may move a row.
    rng = np.random.RandomState(7)  # a legacy stream that NumPy has promised to keep
    weights, cell = rng.random_sample(1000), rng.randint(0, 3, 1000)
    found = {
        name: hashlib.sha256(draw(weights, 2500, cell=cell, key=KEY).astype("<i8")).hexdigest()[:16]
        for name, draw in (("weighted", draw_weighted), ("balanced", draw_balanced))
    }
    assert found == {"weighted": "c8ad663a5dcc8ce1", "balanced": "d08fa61f6d40fd8c"}


def test_cells_are_the_combinations_that_occur() -> None:
    codes = np.array([[1, 0, 5], [0, 2, 5], [1, 0, 6], [0, 0, 5]], np.int32)
    cells, cell = condition_cells(codes, (0, 1))
    assert cells.tolist() == [[0, 0], [0, 2], [1, 0]]
    assert cell.tolist() == [2, 1, 2, 0]
    cells, cell = condition_cells(codes, ())
    assert cells.shape == (1, 0)
    assert cell.tolist() == [0] * 4


@pytest.mark.parametrize("zero", [0, 3])
def test_rows_without_weight_never_come(zero: int) -> None:
    weights = np.ones(4)
    weights[zero] = 0.0
    drawn = draw_weighted(weights, 1000, cell=np.zeros(4, np.intp), key=KEY)
    assert zero not in drawn
