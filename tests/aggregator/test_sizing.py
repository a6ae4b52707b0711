"""Shares, bins and what is asked for, by rows and budget; explicit numbers win."""

from __future__ import annotations

from typing import Any

import pytest

from edge_runtime.aggregator.budget import rho_of
from edge_runtime.aggregator.config import (
    AggregatorConfig,
    DataSettings,
    FleetSettings,
    FusionSettings,
    PrivacySettings,
    RoundSettings,
    SchemaSettings,
)
from edge_runtime.aggregator.sizing import (
    anchor_share,
    max_bins,
    merged_variance,
    only_counts,
    prior_share,
)
from edge_runtime.schema import Column, Schema

from .conftest import make_schema


def config(
    epsilon: Any = 8.0, *, rounds: dict[str, Any] | None = None, **fusion: Any
) -> AggregatorConfig:
    return AggregatorConfig(
        fleet=FleetSettings(name="testing"),
        data=DataSettings(dir="data"),
        schema=SchemaSettings(path="schema.json"),
        privacy=PrivacySettings(epsilon=epsilon),
        rounds=RoundSettings(**(rounds or {})),
        fusion=FusionSettings(**fusion),
    )


def test_counts_get_more_the_fewer_rows_and_the_smaller_the_budget() -> None:
    by_rows = [anchor_share(config(), [rows] * 5) for rows in (50.0, 3000.0, 10_000.0, 1e6)]
    assert by_rows == sorted(by_rows, reverse=True)
    assert by_rows[1] == pytest.approx(0.5)
    assert (by_rows[0], by_rows[-1]) == (0.9, 0.15)
    assert anchor_share(config(1.0), [3000.0]) > anchor_share(config(8.0), [3000.0])
    # The device in the middle decides, whatever one of them holds.
    assert anchor_share(config(), [2900.0, 3000.0, 1e9]) == pytest.approx(0.5)


def test_rows_from_the_counts_are_for_small_devices() -> None:
    by_rows = [prior_share(config(), [rows] * 5) for rows in (50.0, 500.0, 1000.0, 1e5)]
    assert by_rows == sorted(by_rows, reverse=True)
    assert by_rows[1] == pytest.approx(0.25)
    assert by_rows[-1] == 0.0
    assert prior_share(config(1.0), [500.0]) > prior_share(config(8.0), [500.0])


def test_without_privacy_the_pool_is_as_good_as_the_devices_are() -> None:
    exact = config("none")
    for rows in ([50.0], [1e6], []):
        assert prior_share(exact, rows) == 0.0
        assert not only_counts(exact, rows)
        assert anchor_share(exact, rows) == 0.15
    assert merged_variance(exact, tables=5, devices=20, share=0.5) == 0.0


def test_explicit_numbers_win() -> None:
    for epsilon in (1.0, 8.0, "none"):
        fixed = config(epsilon, rounds={"anchor_share": 0.3}, prior=0.2, bins=7)
        assert anchor_share(fixed, [10.0]) == 0.3
        assert prior_share(fixed, [10.0]) == 0.2
        assert not only_counts(fixed, [10.0])
        assert max_bins(fixed, make_schema(), rows=1e9, rows_of=[1e9]) == 7
    assert not only_counts(config(prior=0.0), [10.0])


def test_small_devices_are_asked_for_counts_alone() -> None:
    # 0.5 is (even / (even + rows))^2 at rows = 0.414 even, and even is 500 at epsilon 8.
    assert only_counts(config(), [206.0])
    assert not only_counts(config(), [208.0])
    assert only_counts(config(1.0), [8 * 206.0])
    assert not only_counts(config(1.0), [8 * 208.0])
    # Before the census nothing is known, and without counts there is nothing else to ask for.
    assert not only_counts(config(), [])
    assert not only_counts(config(rounds={"anchor_share": 0.0}), [50.0])


@pytest.mark.parametrize("rows", [[-400.0, -500.0, -600.0], [0.0], [-4000.0], []])
def test_counts_that_noise_takes_below_nothing_give_shares_all_the_same(rows: list[float]) -> None:
    assert 0.15 <= anchor_share(config(), rows) <= 0.9
    assert 0.9 < prior_share(config(), rows) < 1.0


def test_bins_grow_with_the_rows_and_shrink_with_the_noise() -> None:
    def apart(epsilon: float) -> AggregatorConfig:
        return config(epsilon, rounds={"moments": "none"})

    schema = make_schema()
    exact = [
        max_bins(config("none"), schema, rows=rows, rows_of=[rows / 10] * 10)
        for rows in (10, 1001, 1e9)
    ]
    assert exact == [4, 20, 32]
    noisy = [
        max_bins(apart(epsilon), schema, rows=1000.0, rows_of=[1000.0 / devices] * devices)
        for epsilon, devices in ((8.0, 2), (1.0, 2), (1.0, 20))
    ]
    assert noisy == sorted(noisy, reverse=True)
    assert noisy[0] > noisy[-1]
    assert noisy[-1] == 4
    assert max_bins(apart(8.0), schema, rows=-50.0, rows_of=[-5.0] * 10) == 4
    # Where scores are summed no table has to fill the bins.
    assert max_bins(config(8.0), schema, rows=-50.0, rows_of=[-5.0] * 10) == 16


def test_more_conditions_leave_fewer_rows_to_each() -> None:
    def schema(labels: int) -> Schema:
        values = tuple(f"v{i}" for i in range(labels))
        return Schema(
            name="t",
            columns=(
                Column(name="kind", kind="category", values=values, condition=True),
                Column(name="x", kind="number", low=0.0, high=1.0),
            ),
        )

    bins = [max_bins(config(1.0), schema(n), rows=3000.0, rows_of=[300.0] * 10) for n in (2, 4, 8)]
    assert bins == sorted(bins, reverse=True)
    assert bins[0] > bins[-1]
    # A numeric condition has bins of its own, and no labels to divide the rows by.
    numeric = Schema(
        name="t",
        columns=(
            Column(name="x", kind="number", low=0.0, high=1.0, condition=True),
            Column(name="y", kind="number", low=0.0, high=1.0),
        ),
    )
    assert max_bins(config(1.0), numeric, rows=3000.0, rows_of=[300.0] * 10) >= bins[0]


def test_the_variance_of_a_merged_count_is_that_of_its_budget() -> None:
    settings = config(2.0, rounds={"count": 3, "census_share": 0.1})
    each = rho_of(2.0, 1e-5) * 0.9 / 3 * 0.4
    # A Gaussian of squared sensitivity 5 and variance v costs 5 / (2 v).
    found = merged_variance(settings, tables=5, devices=7, share=0.4)
    assert found == pytest.approx(7 * 5 / (2 * each))
