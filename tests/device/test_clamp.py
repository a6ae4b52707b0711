from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.device.clamp import (
    Condition,
    NoisyCounts,
    clamp_columns,
    combine,
    noisy_rows,
    support,
)


def noisy(counts: list[float] | np.ndarray, sigma: float = 1.0) -> NoisyCounts:
    return NoisyCounts(np.asarray(counts, dtype=float), sigma)


def first(counts: list[float] | np.ndarray, sigma: float = 0.0) -> Condition:
    return Condition(own=noisy(counts, sigma))


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_only_what_stands_out_of_the_noise_is_supported() -> None:
    np.testing.assert_array_equal(support(noisy([0.1, 0.0, -3.0], sigma=0)), [True, False, False])
    # 2.24 standard deviations among 4 cells.
    np.testing.assert_array_equal(
        support(noisy([100, 23, 22, -8], sigma=10)), [True, True, False, False]
    )


@pytest.mark.parametrize("cells", [2, 10, 100])
def test_a_histogram_of_noise_alone_seldom_supports_anything(cells: int) -> None:
    draws = np.random.default_rng(3).normal(0, 7, (4000, cells))
    supported = np.mean([support(noisy(draw, sigma=7)).sum() for draw in draws])
    assert supported == pytest.approx(0.05, abs=0.015)


def test_releases_are_weighed_by_their_noise() -> None:
    combined = combine([noisy([100], sigma=1), noisy([200], sigma=3)])
    assert combined.counts[0] == pytest.approx((100 + 200 / 9) / (1 + 1 / 9))
    assert combined.sigma == pytest.approx((1 + 1 / 9) ** -0.5)
    exact = combine([noisy([5], sigma=2), noisy([7], sigma=0)])
    assert (exact.counts[0], exact.sigma) == (7, 0)


def test_the_row_estimate_is_unbiased_and_as_sharp_as_stated() -> None:
    generator = np.random.default_rng(1)
    estimates = []
    for _ in range(400):
        tables = [np.round(generator.normal(1000 / cells, 10, cells)) for cells in (2, 24, 1000)]
        estimates.append(noisy_rows([(tables, 10.0)]))
    expected_sd = 10.0 / (1 / 2 + 1 / 24 + 1 / 1000) ** 0.5
    assert np.mean(estimates) == pytest.approx(1000, abs=4 * expected_sd / 20)
    assert np.std(estimates) == pytest.approx(expected_sd, rel=0.15)


def test_an_outdated_release_does_not_count() -> None:
    new = [np.array([1000.0, 1000.0])]
    old = [np.array([100.0, 100.0])]
    assert noisy_rows([(new, 5.0), (old, 5.0)]) == 2000.0
    similar = [np.array([1004.0, 1000.0])]
    assert noisy_rows([(new, 5.0), (similar, 5.0)]) == pytest.approx(2002.0)
    assert noisy_rows([(new, 0.0), (old, 5.0)]) == 2000.0
    assert noisy_rows([(new, 5.0), ([np.array([1002.0, 1000.0])], 0.0)]) == 2000.0
    assert noisy_rows([([np.array([-50.0, -60.0])], 5.0)]) == 1.0


def test_rows_follow_the_histogram_exactly() -> None:
    clamp = clamp_columns(rows=1000, conditions=[first([100, 0, 300])], mode="own", rng=rng())
    assert clamp is not None
    assert clamp[0].dtype == np.int32
    assert clamp[0].flags.c_contiguous
    np.testing.assert_array_equal(np.bincount(clamp[0], minlength=3), [250, 0, 750])
    # Mixed: a batch of the first rows has the same shares.
    assert 40 < np.count_nonzero(clamp[0][:250] == 0) < 90


def test_balanced_is_even_over_what_was_seen() -> None:
    clamp = clamp_columns(
        rows=10, conditions=[first([1000, 1, 30], sigma=3)], mode="balanced", rng=rng()
    )
    assert clamp is not None
    np.testing.assert_array_equal(np.bincount(clamp[0], minlength=3), [5, 0, 5])


def test_a_wish_is_met_within_what_was_seen() -> None:
    known = first([1000, 500, 2, 30], sigma=3)

    def wished(*wish: float) -> np.ndarray | None:
        clamp = clamp_columns(rows=100, conditions=[known], mode="wish", wish=wish, rng=rng())
        return None if clamp is None else np.bincount(clamp[0], minlength=4)

    np.testing.assert_array_equal(wished(1, 0, 8, 3), [25, 0, 0, 75])
    # The rare code alone, or one that nobody here has seen.
    np.testing.assert_array_equal(wished(0, 0, 0, 1), [0, 0, 0, 100])
    assert wished(0, 0, 1, 0) is None


@pytest.mark.parametrize("mode", ["own", "balanced", "wish"])
@pytest.mark.parametrize("counts", [[-3.0, -1.0], [3.0, 9.0], [0.0, 0.0]])
def test_where_nothing_is_supported_there_are_no_rows(mode: str, counts: list[float]) -> None:
    clamp = clamp_columns(
        rows=10,
        conditions=[first(counts, sigma=5)],
        mode=mode,  # type: ignore[arg-type]
        wish=(1.0, 1.0),
        rng=rng(),
    )
    assert clamp is None


def test_many_rare_codes_that_do_not_stand_out_are_not_sent() -> None:
    clamp = clamp_columns(
        rows=1000, conditions=[first([15.0] * 30 + [900.0], sigma=10)], mode="own", rng=rng()
    )
    assert clamp is not None
    assert set(clamp[0]) == {30}


def test_later_conditions_follow_their_counts_given_those_before() -> None:
    joint = noisy(np.array([[50.0, 0.0], [0.0, 150.0]]), sigma=0)
    second = Condition(own=noisy([50, 150], sigma=0), given=(0,), joint=joint)
    three = np.zeros((2, 2, 3))
    three[0, 0] = [40, 10, 0]
    three[1, 1] = [0, 75, 75]
    third = Condition(own=noisy([40, 85, 75], sigma=0), given=(0, 1), joint=noisy(three, sigma=0))
    clamp = clamp_columns(
        rows=200, conditions=[first([50, 150]), second, third], mode="own", rng=rng()
    )
    assert clamp is not None
    np.testing.assert_array_equal(clamp[0], clamp[1])
    found = np.zeros((2, 2, 3), int)
    np.add.at(found, (clamp[0], clamp[1], clamp[2]), 1)
    np.testing.assert_array_equal(found, three)
    # Given one of the columns before alone.
    skipping = Condition(
        own=noisy([40, 85, 75], sigma=0), given=(0,), joint=noisy(three.sum(axis=1), sigma=0)
    )
    clamp = clamp_columns(
        rows=200, conditions=[first([50, 150]), second, skipping], mode="own", rng=rng()
    )
    assert clamp is not None
    assert set(clamp[2][clamp[0] == 0]) == {0, 1}


def test_balanced_is_even_over_the_combinations_that_were_seen() -> None:
    joint = noisy(np.array([[500.0, 4.0], [90.0, 60.0]]), sigma=3)
    second = Condition(own=noisy([590, 64], sigma=3), given=(0,), joint=joint)
    clamp = clamp_columns(
        rows=80, conditions=[first([504, 150], sigma=3), second], mode="balanced", rng=rng()
    )
    assert clamp is not None
    found = np.zeros((2, 2), int)
    np.add.at(found, (clamp[0], clamp[1]), 1)
    np.testing.assert_array_equal(found, [[40, 0], [20, 20]])


def test_rare_combinations_are_not_all_given_to_the_largest() -> None:
    """A threshold on each combination would leave one of these alone."""
    joint = noisy(np.array([[12.0, 9.0, 8.0, 11.0, -4.0]]), sigma=4)
    second = Condition(own=noisy([40, 38, 35, 41, 1], sigma=4), given=(0,), joint=joint)
    clamp = clamp_columns(
        rows=1000, conditions=[first([400.0], sigma=4), second], mode="own", rng=rng()
    )
    assert clamp is not None
    found = np.bincount(clamp[1], minlength=5)
    assert found[:4].min() > 150
    assert found[4] == 0
    # Where the combinations are nothing but noise, the column's own histogram decides.
    lost = second._replace(joint=noisy(np.array([[-3.0, -5.0, -1.0, -2.0, 3.0]]), sigma=4))
    clamp = clamp_columns(
        rows=154, conditions=[first([400.0], sigma=4), lost], mode="own", rng=rng()
    )
    assert clamp is not None
    np.testing.assert_array_equal(np.bincount(clamp[1], minlength=5), [40, 38, 35, 41, 0])


def test_no_conditions_clamp_nothing() -> None:
    assert clamp_columns(rows=5, conditions=[], mode="own", rng=rng()) == {}


@given(
    rows=st.integers(1, 300),
    counts=st.lists(st.floats(-50, 1e6), min_size=1, max_size=12),
    second=st.integers(1, 6),
    sigma=st.floats(0, 40),
    mode=st.sampled_from(["own", "balanced", "wish"]),
)
def test_always_as_many_rows_as_asked_and_supported_codes_only(
    rows: int, counts: list[float], second: int, sigma: float, mode: str
) -> None:
    joint = noisy(np.outer(np.array(counts), np.arange(second)), sigma)
    own, later = noisy(counts, sigma), noisy(np.arange(second) * 30.0, sigma)
    clamp = clamp_columns(
        rows=rows,
        conditions=[Condition(own=own), Condition(own=later, given=(0,), joint=joint)],
        mode=mode,  # type: ignore[arg-type]
        wish=[1.0] * len(counts),
        rng=rng(),
    )
    if clamp is None:
        assert not support(own).any() or not support(later).any()
        return
    assert [len(clamp[column]) for column in (0, 1)] == [rows, rows]
    assert support(own)[clamp[0]].all()
    assert support(later)[clamp[1]].all()
