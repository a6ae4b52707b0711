from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.device.clamp import NoisyCounts, clamp_columns, clean, combine, noisy_rows


def noisy(counts: list[float] | np.ndarray, sigma: float = 1.0) -> NoisyCounts:
    return NoisyCounts(np.asarray(counts, dtype=float), sigma)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_what_is_most_likely_noise_is_dropped() -> None:
    np.testing.assert_allclose(clean(noisy([100, 15, -8, 300], sigma=10)), [0.25, 0, 0, 0.75])


def test_many_rare_categories_are_not_all_dropped() -> None:
    shares = clean(noisy([15.0] * 30 + [-5.0], sigma=10))
    np.testing.assert_allclose(shares, [1 / 30] * 30 + [0])


def test_nothing_but_noise_counts_alike() -> None:
    np.testing.assert_allclose(clean(noisy([-3, -1], sigma=5)), [0.5, 0.5])


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
        histograms = [
            np.round(generator.normal(1000 / cells, 10, cells)).astype(np.int64)
            for cells in (2, 24, 1000)
        ]
        estimates.append(noisy_rows([(histograms, 10.0)]))
    expected_sd = 10.0 / (1 / 2 + 1 / 24 + 1 / 1000) ** 0.5
    assert np.mean(estimates) == pytest.approx(1000, abs=4 * expected_sd / 20)
    assert np.std(estimates) == pytest.approx(expected_sd, rel=0.15)


def test_an_outdated_release_does_not_count() -> None:
    new = [np.array([1000, 1000])]
    old = [np.array([100, 100])]
    assert noisy_rows([(new, 5.0), (old, 5.0)]) == 2000.0
    similar = [np.array([1004, 1000])]
    assert noisy_rows([(new, 5.0), (similar, 5.0)]) == pytest.approx(2002.0)
    assert noisy_rows([(new, 0.0), (old, 5.0)]) == 2000.0
    assert noisy_rows([(new, 5.0), ([np.array([1002, 1000])], 0.0)]) == 2000.0
    assert noisy_rows([([np.array([-50, -60])], 5.0)]) == 1.0


def test_rows_follow_the_histogram_exactly() -> None:
    clamp = clamp_columns(
        rows=1000, one_way=[noisy([100, 0, 300], sigma=0)], pairs={}, mode="own", rng=rng()
    )
    assert clamp[0].dtype == np.int32
    assert clamp[0].flags.c_contiguous
    np.testing.assert_array_equal(np.bincount(clamp[0], minlength=3), [250, 0, 750])
    # Mixed: a batch of the first rows has the same shares.
    assert 40 < np.count_nonzero(clamp[0][:250] == 0) < 90


def test_balanced_is_even_over_what_was_seen() -> None:
    clamp = clamp_columns(
        rows=10, one_way=[noisy([1000, 1, 30], sigma=3)], pairs={}, mode="balanced", rng=rng()
    )
    np.testing.assert_array_equal(np.bincount(clamp[0], minlength=3), [5, 0, 5])


def test_later_conditions_follow_their_pairs_with_the_one_before() -> None:
    pair = noisy(np.array([[50.0, 0.0], [0.0, 150.0]]), sigma=0)
    clamp = clamp_columns(
        rows=200,
        one_way=[noisy([50, 150], sigma=0), noisy([50, 150], sigma=0), noisy([1, 1], sigma=0)],
        pairs={(0, 1): pair},
        mode="own",
        rng=rng(),
    )
    assert set(clamp) == {0, 1}  # the third has no pair: the network fills it in
    np.testing.assert_array_equal(clamp[0], clamp[1])
    np.testing.assert_array_equal(np.bincount(clamp[0]), [50, 150])


def test_no_conditions_clamp_nothing() -> None:
    assert clamp_columns(rows=5, one_way=[], pairs={}, mode="own", rng=rng()) == {}


@given(
    rows=st.integers(1, 500),
    counts=st.lists(st.floats(-50, 1e6), min_size=1, max_size=12),
    second=st.integers(1, 6),
    sigma=st.floats(0, 40),
    mode=st.sampled_from(["own", "balanced"]),
)
def test_always_as_many_rows_as_asked_and_codes_in_range(
    rows: int, counts: list[float], second: int, sigma: float, mode: str
) -> None:
    pair = np.outer(np.array(counts), np.arange(second))
    clamp = clamp_columns(
        rows=rows,
        one_way=[noisy(counts, sigma), noisy([0.0] * second, sigma)],
        pairs={(0, 1): noisy(pair, sigma)},
        mode=mode,  # type: ignore[arg-type]
        rng=rng(),
    )
    assert [len(clamp[column]) for column in (0, 1)] == [rows, rows]
    assert 0 <= clamp[0].min() <= clamp[0].max() < len(counts)
    assert 0 <= clamp[1].min() <= clamp[1].max() < second
