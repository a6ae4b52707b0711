"""Merged counts, their error, and the weights that follow from them."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edge_runtime.aggregator.anchor import (
    Anchor,
    DeviceCounts,
    Table,
    merge_anchors,
    project_to_simplex,
)
from edge_runtime.aggregator.pool import PoolRows
from edge_runtime.aggregator.weighting import device_weights, rake


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, st.integers(1, 20), elements=st.floats(-5, 5)))
def test_the_projection_is_the_nearest_distribution(values: np.ndarray) -> None:
    projected = project_to_simplex(values)
    assert projected.min() >= 0
    assert abs(projected.sum() - 1) < 1e-9
    # Optimality: no vertex direction brings it nearer (variational inequality).
    gradient = projected - values
    assert (gradient @ projected) - gradient.min() < 1e-9


def test_rounds_are_averaged_by_precision_and_devices_added() -> None:
    def release(device: str, number: int, value: float, sigma: float) -> DeviceCounts:
        tables = {(0,): np.full(2, value), (0, 1): np.full((2, 3), value)}
        return DeviceCounts(device, number, tables, sigma)

    assert merge_anchors([]) is None
    anchor = merge_anchors(
        [release("a", 1, 10.0, 1.0), release("a", 2, 40.0, 2.0), release("b", 1, 5.0, 3.0)]
    )
    assert anchor is not None
    assert anchor.devices == 2
    # a: (10/1 + 40/4) / (1 + 1/4) = 16, variance 0.8; b: 5, variance 9.
    np.testing.assert_allclose(anchor.tables[0,].counts, [21.0, 21.0])
    assert abs(anchor.tables[0,].variance - 9.8) < 1e-12
    assert anchor.tables[0, 1].columns == (0, 1)
    np.testing.assert_allclose(anchor.tables[0, 1].counts, np.full((2, 3), 21.0))
    # An exact release replaces noisy ones.
    exact = merge_anchors([release("a", 1, 10.0, 1.0), release("a", 2, 40.0, 0.0)])
    assert exact is not None
    assert exact.tables[0,].variance == 0.0
    np.testing.assert_allclose(exact.tables[0,].counts, [40.0, 40.0])
    assert exact.tables[0,].error == 0.0


def test_total_variation_and_its_error_match_what_noise_does() -> None:
    rng = np.random.default_rng(3)
    truth = np.array([500.0, 300.0, 150.0, 50.0])
    codes = rng.choice(4, 20_000, p=truth / 1000).astype(np.int32)[:, None]
    exact = Table((0,), truth, 0.0)
    found = exact.total_variation(codes)
    assert found < 3 * exact.sampling_error(len(codes))
    assert exact.sampling_error(len(codes)) < 3 * found
    noisy = [
        Table((0,), truth + rng.normal(0, 20, 4), 400.0).total_variation(codes) for _ in range(300)
    ]
    # The expected distance is bounded by the stated error, and not a tenth of it.
    stated = Table((0,), truth, 400.0).error
    assert 0.3 * stated < np.mean(noisy) < 1.3 * stated
    far = np.full((1000, 1), 3, np.int32)
    assert abs(exact.total_variation(far) - 0.95) < 1e-9


def test_pair_tables_count_pairs() -> None:
    codes = np.array([[0, 2], [1, 0], [1, 2], [0, 2]], np.int32)
    table = Table((0, 1), np.array([[0.0, 0.0, 2.0], [1.0, 0.0, 1.0]]), 0.0)
    assert table.total_variation(codes) == 0.0
    np.testing.assert_array_equal(table.cells(codes), [2, 3, 5, 2])
    assert table.rows == 4


def _pool(device: list[int], codes: np.ndarray | None = None) -> PoolRows:
    n = len(device)
    return PoolRows(
        codes=np.zeros((n, 1), np.int32) if codes is None else codes,
        device=np.array(device, np.int32),
        devices=("a", "b", "c"),
        round=np.ones(n, np.int32),
        lot=np.zeros(n, np.float32),
    )


def test_a_devices_weight_follows_its_rows_not_what_it_sent() -> None:
    pool = _pool([0, 0, 1, 1, 1, 1, 2])
    weights = device_weights(pool, {"a": 300.0, "b": 100.0})
    per_device = np.bincount(pool.device, weights)
    assert abs(weights.mean() - 1) < 1e-12
    assert abs(per_device[0] / per_device[1] - 3) < 1e-9
    # c is unknown: its row counts like the fleet's mean row, 400 / 6.
    assert abs(per_device[2] / per_device[0] - (400 / 6) / 300) < 1e-9
    assert len(device_weights(_pool([]), {})) == 0
    np.testing.assert_allclose(device_weights(pool, {}), 1.0)


def test_raking_reaches_exact_counts_and_ignores_pure_noise() -> None:
    rng = np.random.default_rng(1)
    n = 20_000
    x = rng.integers(0, 3, n)
    y = (rng.random(n) < 0.5).astype(int)
    codes = np.stack([y, x], axis=1).astype(np.int32)
    # In truth y follows x; the pool has smoothed that away.
    joint = np.array([[0.30, 0.20, 0.10], [0.05, 0.15, 0.20]]) * 50_000
    exact = Anchor({(0, 1): Table((0, 1), joint, 0.0)}, 1)
    raked = rake(codes, np.ones(n), exact)
    cells = exact.tables[0, 1].cells(codes)
    found = np.bincount(cells, raked, minlength=6) / raked.sum()
    np.testing.assert_allclose(found, joint.ravel() / joint.sum(), atol=1e-3)
    assert abs(raked.mean() - 1) < 1e-9
    # Counts drowned in noise move nothing far: their distance is what noise explains.
    own = np.bincount(cells, minlength=6).reshape(2, 3) * 2.5
    sigma = 3000.0
    distances = []
    for seed in range(20):
        noisy = own + np.random.default_rng(seed).normal(0, sigma, own.shape)
        anchor = Anchor({(0, 1): Table((0, 1), noisy, sigma**2)}, 1)
        moved = np.bincount(cells, rake(codes, np.ones(n), anchor), minlength=6) / n
        naive = np.abs(noisy / noisy.sum() - own / own.sum()).sum()
        distances.append(np.abs(moved - own.ravel() / own.sum()).sum() / naive)
    assert np.mean(distances) < 0.5
    assert rake(codes, np.ones(n), None).sum() == n


def test_raking_never_multiplies_a_row_without_bound() -> None:
    codes = np.zeros((100, 1), np.int32)
    codes[0] = 1
    anchor = Anchor({(0,): Table((0,), np.array([1.0, 99.0]) * 100, 0.0)}, 1)
    raked = rake(codes, np.ones(100), anchor)
    assert raked.max() / np.median(raked) <= 25 + 1e-9


def test_a_column_is_read_from_the_table_that_knows_it_best() -> None:
    counts = np.arange(24, dtype=float).reshape(2, 3, 4) * 10
    wide = Table((0, 1, 3), counts, 2.0)
    narrow = Table((1,), counts.sum(axis=(0, 2)) + 5, 9.0)
    anchor = Anchor({(1,): narrow, (0, 1, 3): wide}, 2)
    # One cell of column 1 adds up 8 of the wide table's: variance 16 against 9.
    best = anchor.one_way(1)
    assert best is not None
    np.testing.assert_array_equal(best.counts, narrow.counts)
    first = anchor.one_way(0)
    assert first is not None
    assert (first.columns, first.variance) == ((0,), 24.0)
    np.testing.assert_array_equal(first.counts, counts.sum(axis=(1, 2)))
    pair = anchor.marginal((1, 3))
    assert pair is not None
    assert (pair.columns, pair.variance) == ((1, 3), 4.0)
    np.testing.assert_array_equal(pair.counts, counts.sum(axis=0))
    assert anchor.one_way(2) is None
    assert anchor.marginal((0, 2)) is None
    # A table of a few devices has little noise and says little about the others.
    few = Table((0,), np.array([3.0, 4.0]), 1.0)
    wide_again = Anchor({(0,): few, (0, 1, 3): wide}, 2).one_way(0)
    assert wide_again is not None
    assert wide_again.variance == first.variance
    assert anchor.rows == np.median([wide.rows, narrow.rows])


def test_tables_of_three_columns_count_like_any_other() -> None:
    rng = np.random.default_rng(2)
    codes = rng.integers(0, (2, 3, 4, 5), (4000, 4)).astype(np.int32)
    counts = np.zeros((2, 4, 5))
    np.add.at(counts, (codes[:, 0], codes[:, 2], codes[:, 3]), 1)
    table = Table((0, 2, 3), counts, 0.0)
    assert table.total_variation(codes) == 0.0
    np.testing.assert_array_equal(np.bincount(table.cells(codes), minlength=40), counts.ravel())
    other = rng.integers(0, (2, 3, 4, 5), (4000, 4)).astype(np.int32)
    assert 0.0 < table.total_variation(other) < 3 * table.sampling_error(4000)


def _counts(device: str, rows: list[int], sigma: float, rng: np.random.Generator) -> DeviceCounts:
    """Counts of a condition of len(rows) codes with a column of 8 codes, evenly spread."""
    exact = np.repeat(np.array(rows, float)[:, None] / 8, 8, axis=1)
    alone = exact.sum(axis=0)
    return DeviceCounts(
        device,
        1,
        {
            (0, 1): exact + rng.normal(0, sigma, exact.shape) * (sigma > 0),
            (1,): alone + rng.normal(0, sigma, 8) * (sigma > 0),
        },
        sigma,
    )


def test_under_label_skew_the_noise_of_devices_without_a_condition_is_left_out() -> None:
    # Ten conditions, each on two of twenty devices.
    rng = np.random.default_rng(4)
    sigma = 20.0
    rows = np.zeros((20, 10), int)
    rows[np.arange(20), np.arange(20) % 10] = 4000
    releases = [_counts(f"d{i:02}", list(row), sigma, rng) for i, row in enumerate(rows)]
    plain, merged = merge_anchors(releases), merge_anchors(releases, (0,))
    assert plain is not None
    assert merged is not None
    truth = np.full((10, 8), 1000.0)

    def off(anchor: Anchor) -> float:
        return float(np.sqrt(((anchor.tables[0, 1].counts - truth) ** 2).mean()))

    # Two devices' noise instead of twenty's, and the stated variance says so. A device takes one
    # of forty codes that it has not for one that it has.
    assert plain.tables[0, 1].variance == 20 * sigma**2
    assert 2 * sigma**2 <= merged.tables[0, 1].variance < 3.5 * sigma**2
    assert off(merged) < 0.5 * off(plain)
    assert off(merged) < 1.5 * np.sqrt(merged.tables[0, 1].variance)
    # A table without the condition is the sum of all, as ever.
    np.testing.assert_array_equal(merged.tables[1,].counts, plain.tables[1,].counts)
    assert merged.tables[1,].variance == 20 * sigma**2


def test_exact_counts_are_never_touched() -> None:
    rng = np.random.default_rng(5)
    releases = [_counts(f"d{i}", [800 * (i % 2), 8, 0], 0.0, rng) for i in range(4)]
    plain, merged = merge_anchors(releases), merge_anchors(releases, (0,))
    assert plain is not None
    assert merged is not None
    assert merged.tables.keys() == plain.tables.keys()
    for key, table in merged.tables.items():
        np.testing.assert_array_equal(table.counts, plain.tables[key].counts)
        assert table.variance == plain.tables[key].variance == 0.0


def test_what_many_small_devices_have_a_little_of_is_kept() -> None:
    # 45 rows of one condition and 5 of the other on each of 200 devices: no device supports the
    # second, and leaving it out would lose 1,000 rows of 10,000.
    rng = np.random.default_rng(6)
    releases = [_counts(f"d{i:03}", [45, 5, 0], 3.0, rng) for i in range(200)]
    merged = merge_anchors(releases, (0,))
    assert merged is not None
    shares = merged.tables[0, 1].counts.sum(axis=1)
    noise = np.sqrt(200 * 8) * 3.0
    np.testing.assert_allclose(shares[:2], [9000.0, 1000.0], atol=4 * noise)
    # Nobody has the third: most of its noise is gone.
    assert np.abs(merged.tables[0, 1].counts[2]).max() < 3 * 3.0 * np.sqrt(200)
    assert merged.tables[0, 1].variance < 0.75 * 200 * 9.0


def test_counts_of_nothing_but_noise_keep_their_variance() -> None:
    # No device supports anything, and all of them together neither.
    releases = [
        DeviceCounts(f"d{i}", 1, {(0, 1): np.full((2, 3), value)}, 50.0)
        for i, value in enumerate((3.0, -4.0, 2.0))
    ]
    merged = merge_anchors(releases, (0,))
    assert merged is not None
    assert merged.tables[0, 1].variance == 3 * 50.0**2
    np.testing.assert_allclose(merged.tables[0, 1].counts, np.full((2, 3), 1.0))


def test_a_column_can_be_taken_out_of_every_table() -> None:
    counts = np.arange(24, dtype=float).reshape(2, 3, 4) * 10
    wide = Table((0, 1, 3), counts, 2.0)
    narrow = Table((1,), counts.sum(axis=(0, 2)) + 5, 3.0)
    rest = Anchor({(0,): Table((0,), np.ones(2), 1.0), (1,): narrow, (0, 1, 3): wide}, 7)
    rest = rest.without(0)
    assert rest.devices == 7
    assert set(rest.tables) == {(1,), (1, 3)}
    np.testing.assert_array_equal(rest.tables[1, 3].counts, counts.sum(axis=0))
    assert rest.tables[1, 3].variance == 4.0
    # Of two ways to count column 1 the better one stays: 3 against 2 * 8.
    np.testing.assert_array_equal(rest.tables[1,].counts, narrow.counts)
