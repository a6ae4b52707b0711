"""Rows from the anchor alone: what they follow, how noise is kept out, how much they weigh."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from edge_runtime.aggregator.anchor import Anchor, Table
from edge_runtime.aggregator.pool import PoolRows
from edge_runtime.aggregator.prior import ANCHOR_ROWS, prior_rows, shares_given, with_prior
from edge_runtime.aggregator.weighting import device_weights

CARDINALITIES = (2, 3, 4)
GIVEN = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
OTHER = np.array([0.4, 0.3, 0.2, 0.1])
Codes = npt.NDArray[np.int32]


def anchor_of(*, rows: float = 1e6, sigma: float = 0.0) -> Anchor:
    """A quarter of outcome 1, column 1 given the outcome; column 2 counted alone."""
    noise = np.random.default_rng(1).normal(0, 1, (2, 3)) * sigma
    pair = np.array([[0.75], [0.25]]) * GIVEN * rows + noise
    return Anchor(
        {(2,): Table((2,), OTHER * rows, sigma**2), (0, 1): Table((0, 1), pair, sigma**2)}, 5
    )


def empty(devices: tuple[str, ...] = ()) -> PoolRows:
    return PoolRows(
        codes=np.empty((0, 3), np.int32),
        device=np.empty(0, np.int32),
        devices=devices,
        round=np.empty(0, np.int32),
        lot=np.empty(0, np.float32),
    )


def pool_of(*sent: int) -> PoolRows:
    n = sum(sent)
    return PoolRows(
        codes=np.zeros((n, 3), np.int32),
        device=np.repeat(np.arange(len(sent), dtype=np.int32), sent),
        devices=tuple("abcdef"[: len(sent)]),
        round=np.ones(n, np.int32),
        lot=np.linspace(0, 0.99, n, dtype=np.float32),
    )


def frequencies(codes: Codes, column: int, cardinality: int) -> npt.NDArray[np.float64]:
    return np.bincount(codes[:, column], minlength=cardinality) / len(codes)


def test_a_later_step_follows_the_one_before_it_where_both_were_counted() -> None:
    """Column 2 as column 1 a step later: drawn from their table, not from the outcome's."""
    steps = np.array([[0.9, 0.1, 0.0], [0.0, 0.8, 0.2], [0.3, 0.0, 0.7]])
    start = GIVEN.T @ [0.75, 0.25]
    tables = dict(anchor_of().tables)
    tables[1, 2] = Table((1, 2), 1e6 * start[:, None] * steps, 0.0)
    del tables[(2,)]
    codes = prior_rows(Anchor(tables, 5), (2, 3, 3), (0,), 60_000, before={2: 1})
    for code in range(3):
        part = codes[codes[:, 1] == code]
        np.testing.assert_allclose(frequencies(part, 2, 3), steps[code], atol=0.02)
    # Where they were not, as any other column.
    codes = prior_rows(anchor_of(), CARDINALITIES, (0,), 40_000, before={2: 1})
    np.testing.assert_array_equal(codes, prior_rows(anchor_of(), CARDINALITIES, (0,), 40_000))


def test_columns_follow_the_outcome_and_nothing_else() -> None:
    rows = 60_000
    codes = prior_rows(anchor_of(), CARDINALITIES, (0,), rows)
    assert codes.shape == (rows, 3)
    assert codes.dtype == np.int32
    np.testing.assert_allclose(frequencies(codes, 0, 2), [0.75, 0.25], atol=0.01)
    np.testing.assert_allclose(frequencies(codes, 2, 4), OTHER, atol=0.01)
    for outcome in (0, 1):
        part = codes[codes[:, 0] == outcome]
        np.testing.assert_allclose(frequencies(part, 1, 3), GIVEN[outcome], atol=0.015)
        # Counted alone, column 2 is the same whatever the outcome.
        np.testing.assert_allclose(frequencies(part, 2, 4), OTHER, atol=0.015)
    # The columns' random numbers are not each other's.
    both = np.zeros((3, 4))
    np.add.at(both, (codes[codes[:, 0] == 0][:, 1], codes[codes[:, 0] == 0][:, 2]), 1)
    np.testing.assert_allclose(both / both.sum(), np.outer(GIVEN[0], OTHER), atol=0.01)


def test_any_column_may_be_the_outcome_and_none_has_to() -> None:
    codes = prior_rows(anchor_of(), CARDINALITIES, (1,), 40_000)
    both = np.zeros((2, 3))
    np.add.at(both, (codes[:, 0], codes[:, 1]), 1)
    np.testing.assert_allclose(both / both.sum(), [[0.525, 0.15, 0.075], [0.025, 0.075, 0.15]],
                               atol=0.01)  # fmt: skip
    free = prior_rows(anchor_of(), CARDINALITIES, (), 40_000)
    both = np.zeros((2, 3))
    np.add.at(both, (free[:, 0], free[:, 1]), 1)
    alone = both.sum(axis=1, keepdims=True) * both.sum(axis=0, keepdims=True) / both.sum()
    np.testing.assert_allclose(both / both.sum(), alone / both.sum(), atol=0.01)
    np.testing.assert_allclose(alone.sum(axis=1) / both.sum(), [0.75, 0.25], atol=0.01)


def test_a_column_that_nobody_counted_is_even() -> None:
    only = Anchor({(0,): Table((0,), np.array([1.0, 3.0]), 0.0)}, 1)
    codes = prior_rows(only, CARDINALITIES, (0,), 40_000)
    np.testing.assert_allclose(frequencies(codes, 2, 4), 0.25, atol=0.01)
    np.testing.assert_allclose(frequencies(codes, 0, 2), [0.25, 0.75], atol=0.01)
    nothing = prior_rows(Anchor({}, 1), CARDINALITIES, (0,), 40_000)
    np.testing.assert_allclose(frequencies(nothing, 0, 2), 0.5, atol=0.01)


def test_the_same_counts_give_the_same_rows() -> None:
    one = prior_rows(anchor_of(), CARDINALITIES, (0,), 5000)
    np.testing.assert_array_equal(one, prior_rows(anchor_of(), CARDINALITIES, (0,), 5000))
    other = prior_rows(anchor_of(sigma=1e4), CARDINALITIES, (0,), 5000)
    assert (one != other).any()


def test_shares_of_many_exact_rows_are_what_was_counted() -> None:
    exact = anchor_of().tables[0, 1]
    np.testing.assert_allclose(shares_given(exact, 0), GIVEN, atol=1e-3)
    # Whichever axis the outcome is.
    turned = Table((1, 2), exact.counts.T, 0.0)
    np.testing.assert_allclose(shares_given(turned, 2), GIVEN, atol=1e-3)


@pytest.mark.parametrize("weights", [[0.75, 0.25], [0.95, 0.05], [0.2] * 5])
def test_noise_is_shrunk_away_and_signal_is_not(weights: list[float]) -> None:
    rng = np.random.default_rng(2)
    share = np.array(weights)[:, None]
    rows, sigma = 3000.0, 20.0
    cells = (len(weights), 16)

    def distance(found: npt.NDArray[np.float64], truth: npt.NDArray[np.float64]) -> float:
        return float((share * np.abs(found - truth)).sum())

    def plain(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        kept = np.maximum(counts, 1e-9)
        return np.asarray(kept / kept.sum(axis=1, keepdims=True))

    alike, apart = [], []
    for _ in range(100):
        overall = rng.dirichlet(np.full(16, 2.0))
        for outcomes, seen in (
            (np.tile(overall, (len(weights), 1)), alike),
            (rng.dirichlet(overall + 1e-3, len(weights)), apart),
        ):
            counts = share * outcomes * rows + rng.normal(0, sigma, cells)
            found = shares_given(Table((0, 1), counts, sigma**2), 0)
            assert found.min() >= 0.0
            np.testing.assert_allclose(found.sum(axis=1), 1.0)
            mean = plain(counts.sum(axis=0, keepdims=True))
            seen.append([distance(x, outcomes) for x in (found, plain(counts), mean)])
    # Of columns: shrunken, as counted, the same for all outcomes.
    same, different = np.mean(alike, axis=0), np.mean(apart, axis=0)
    assert same[0] < 0.9 * same[1]
    assert same[0] < 1.1 * same[2]
    assert different[0] < 0.95 * different[1]
    assert different[0] < 0.7 * different[2]


def test_exact_counts_of_two_outcomes_are_followed() -> None:
    # Two outcomes of 950 and 50 rows that have nothing in common: sampling explains little of it.
    counts = np.array([[500.0, 450.0, 0.0, 0.0], [0.0, 0.0, 20.0, 30.0]])
    found = shares_given(Table((0, 1), counts, 0.0), 0)
    assert np.abs(found[1] - [0.0, 0.0, 0.4, 0.6]).sum() < 0.1
    assert np.abs(found[0] - [10 / 19, 9 / 19, 0.0, 0.0]).sum() < 0.02


def test_an_outcome_without_rows_is_like_all_others() -> None:
    counts = np.array([[500.0, 300.0, 200.0], [-6.0, 4.0, -9.0]])
    found = shares_given(Table((0, 1), counts, 100.0), 0)
    np.testing.assert_allclose(found[1], found.mean(axis=0), atol=0.1)
    assert found.min() >= 0.0


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_share_is_one_of_weight(share: float) -> None:
    pool = pool_of(3000, 500)
    grown, rows_of = with_prior(
        pool, {"a": 600.0, "b": 1400.0}, anchor_of(), share,
        cardinalities=CARDINALITIES, conditions=(0,),
    )  # fmt: skip
    assert grown.devices == ("a", "b", ANCHOR_ROWS)
    weights = device_weights(grown, rows_of)
    by_device = np.bincount(grown.device, weights)
    assert by_device[2] / weights.sum() == pytest.approx(share)
    # Among themselves devices weigh as before.
    assert by_device[1] / by_device[0] == pytest.approx(1400 / 600)
    # The rows themselves come first and are what they were; lots cover all of 0 to 1.
    np.testing.assert_array_equal(grown.codes[:3500], pool.codes)
    np.testing.assert_array_equal(grown.lot[:3500], pool.lot)
    added = grown.device == 2
    assert added[3500:].all()
    assert (grown.round[added] == 0).all()
    assert added.sum() >= 50_000
    assert abs((grown.lot[added] < 0.1).mean() - 0.1) < 0.01
    again, _ = with_prior(
        pool, {"a": 600.0, "b": 1400.0}, anchor_of(), share,
        cardinalities=CARDINALITIES, conditions=(0,),
    )  # fmt: skip
    for one, other in zip(grown, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_anchor_or_share_nothing_is_added() -> None:
    pool, rows_of = pool_of(10), {"a": 10.0}
    for anchor, share in ((None, 0.5), (anchor_of(), 0.0)):
        grown, same = with_prior(
            pool, rows_of, anchor, share, cardinalities=CARDINALITIES, conditions=(0,)
        )
        assert grown is pool
        assert same == rows_of


def test_an_empty_pool_is_rows_from_the_anchor() -> None:
    grown, rows_of = with_prior(
        empty(), {"a": 40.0, "b": 60.0}, anchor_of(), 0.7,
        cardinalities=CARDINALITIES, conditions=(0,),
    )  # fmt: skip
    assert grown.devices == (ANCHOR_ROWS,)
    assert set(rows_of) == {"a", "b", ANCHOR_ROWS}
    np.testing.assert_allclose(device_weights(grown, rows_of), 1.0)
    np.testing.assert_allclose(frequencies(grown.codes, 0, 2), [0.75, 0.25], atol=0.01)
