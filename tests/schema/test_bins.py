"""Cutting histograms into bins."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.schema.bins import SLOTS, bin_weights, inner_points, partition

MASS = st.lists(
    st.one_of(st.just(0.0), st.floats(0.01, 5), st.floats(50, 500)), min_size=1, max_size=80
).filter(lambda values: sum(values) > 0)


@given(MASS, st.integers(1, 40))
def test_partition_covers_all_cells_in_few_runs_of_weight(
    values: list[float], max_bins: int
) -> None:
    weights = np.array(values)
    borders = partition(weights, max_bins)
    assert borders[0] == 0
    assert borders[-1] == len(weights)
    assert (np.diff(borders) > 0).all()
    assert len(borders) - 1 <= max_bins
    assert (np.add.reduceat(weights, borders[:-1]) > 0).all()


def test_even_weights_give_even_bins() -> None:
    borders = partition(np.ones(320), 32)
    assert np.diff(borders).tolist() == [10] * 32


def test_a_frequent_value_gets_a_bin_of_its_own() -> None:
    weights = np.ones(200)
    weights[50] = 100
    borders = partition(weights, 16).tolist()
    assert 50 in borders
    assert 51 in borders
    assert len(borders) - 1 == 16


def test_light_stretches_between_atoms_waste_no_bins() -> None:
    weights = np.full(100, 0.01)
    weights[::10] = 10  # ten atoms in nearly nothing
    borders = partition(weights, 8)
    loads = np.add.reduceat(weights, borders[:-1])
    assert len(loads) == 8
    assert loads.min() > 9


def test_tails_get_more_than_their_rows() -> None:
    positions = np.linspace(-5, 5, 1001)
    mass = np.exp(-(positions**2) / 2)
    weights = bin_weights(mass, positions)
    assert np.isclose(weights.sum(), 1)
    plain = partition(mass / mass.sum(), 32)
    tailed = partition(weights, 32)
    assert positions[tailed[-2]] > positions[plain[-2]]  # the last bin starts further out
    assert bin_weights(np.array([0.0, 3.0, 0.0]), np.array([1.0, 2.0, 3.0])).tolist() == [0, 1, 0]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40).filter(any))
def test_points_keep_shares_to_within_a_slot(counts: list[int]) -> None:
    mass = np.array(counts, np.float64)
    values = np.arange(len(mass), dtype=np.float64)
    points = inner_points(values, mass)
    assert len(points) == SLOTS
    assert (np.diff(points) >= 0).all()
    share = np.bincount(points.astype(int), minlength=len(mass)) / SLOTS
    assert (np.abs(share - mass / mass.sum()) <= 1.0001 / SLOTS).all()
    assert (share[mass == 0] == 0).all()
