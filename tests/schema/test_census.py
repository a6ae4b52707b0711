"""Grids, histograms, and what is left of them behind noise."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_runtime.errors import CodecError, DataError, SchemaError
from edge_runtime.schema import (
    Census,
    Column,
    Schema,
    cells_behind,
    census_cells,
    census_counts,
    clean_census,
    merge_census,
    read_table,
)
from edge_runtime.schema.denoise import denoise, estimate_rows, pool_runs
from edge_runtime.schema.grid import grid_of


def test_cells_follow_from_the_public_declaration() -> None:
    columns = {
        "flag": (Column(name="flag", kind="boolean", nullable=True), 3),
        "site": (Column(name="site", kind="category", values=("a", "b"), other=True), 3),
        "day": (Column(name="day", kind="integer", low=1, high=31), 31),
        "delay": (Column(name="delay", kind="integer", low=-60, high=600, nullable=True), 662),
        "distance": (Column(name="distance", kind="integer", low=0, high=5000), 5001),
        "wide": (Column(name="wide", kind="integer", low=0, high=10**6), 1024),
        "tenth": (Column(name="tenth", kind="number", low=0, high=0.3, decimals=1), 4),
        "flow": (Column(name="flow", kind="number", low=-1, high=1, nullable=True), 1025),
        "fixed": (Column(name="fixed", kind="number", low=2, high=2), 1),
    }
    schema = Schema(name="t", columns=tuple(column for column, _ in columns.values()))
    # Delay, distance, wide and flow are also counted in joined cells: 11, 79, 16 and 16 of them.
    joined = (62, 64, 64, 65)
    assert census_cells(schema) == (*(cells for _, cells in columns.values()), *joined)
    with pytest.raises(SchemaError, match="no bounds"):
        grid_of(columns["flag"][0])


@given(
    low=st.integers(-1000, 1000),
    values=st.integers(1, 30_000),
    decimals=st.sampled_from([None, 0, 1, 2]),
    places=st.lists(st.floats(-0.5, 1.5), min_size=1, max_size=20),
)
def test_every_value_lies_in_its_cell(
    low: int, values: int, decimals: int | None, places: list[float]
) -> None:
    scale = 10.0 ** -(decimals or 0)
    high = low * scale + (values - 1) * scale
    column = Column(name="x", kind="number", low=low * scale, high=high, decimals=decimals)
    grid = grid_of(column)
    assert 1 <= grid.cells <= 8192
    edges = grid.edges()
    assert len(edges) == grid.cells + 1
    assert (np.diff(edges) > 0).all()
    drawn = low * scale + np.array(places) * (high - low * scale)
    if decimals is not None:
        drawn = np.round(drawn, decimals)
    cells = grid.cell(drawn)
    inside = np.clip(drawn, *column.bounds)
    tiny = 1e-6 * max(1.0, abs(low * scale), abs(high))
    assert (edges[cells] - tiny <= inside).all()
    assert (inside <= edges[cells + 1] + tiny).all()


def test_a_row_adds_one_to_one_cell_of_every_column(csv_file: Path, schema: Schema) -> None:
    table = read_table(csv_file, schema)
    counts = census_counts(table, schema)
    assert [len(cells) for cells in counts] == list(census_cells(schema))
    assert all(cells.dtype == np.int64 and cells.sum() == 300 for cells in counts)
    less = census_counts(table.take(slice(1, None)), schema)
    for more, fewer in zip(counts, less, strict=True):
        assert sorted((more - fewer).tolist())[-1] == 1
        assert np.abs(more - fewer).sum() == 1
    for name, cells in zip(schema.names, counts, strict=False):
        if schema.columns[schema.index(name)].nullable:
            assert cells[-1] == table.missing[name].sum()
    site = counts[schema.index("site")]
    assert site[:3].tolist() == [(table["site"] == value).sum() for value in ("A", "NA", "B")]
    assert site[3] == (table["site"] == "C").sum()


def test_where_rows_are_few_joined_cells_tell_where_they_lie() -> None:
    column = Column(name="x", kind="number", low=0.0, high=8.0, nullable=True)
    schema = Schema(name="t", columns=(column,))
    rng = np.random.default_rng(0)
    values = rng.normal(3.0, 0.4, 2000)
    values[:200] = np.nan
    exact = census_counts(read_table({"x": values}, schema), schema)

    def distance(sigma: float, *, joined: bool) -> float:
        noisy = [cells + rng.normal(0, sigma, len(cells)) for cells in exact[: 2 if joined else 1]]
        census = Census.of(noisy, sigma=sigma)
        (clean,) = clean_census(schema, census)
        assert clean.shape == exact[0].shape
        assert clean.min() >= 0
        assert clean.sum() == pytest.approx(max(1.0, census.rows))
        assert cells_behind(schema, census, 0) == (65 if joined else 1025)
        share = clean / clean.sum()
        true = exact[0] / exact[0].sum()
        return float(np.abs(np.cumsum(share) - np.cumsum(true)).max())

    fine = np.mean([distance(60.0, joined=False) for _ in range(5)])
    both = np.mean([distance(60.0, joined=True) for _ in range(5)])
    assert both < 0.15
    assert both < fine / 2
    # With rows enough the fine cells are used: a peak of its own survives.
    many = [cells * 1000.0 + rng.normal(0, 60.0, len(cells)) for cells in exact]
    census = Census.of(many, sigma=60.0)
    assert cells_behind(schema, census, 0) == 1025
    assert cells_behind(schema, Census.of([cells * 1.0 for cells in exact], sigma=0.0), 0) == 1025


def test_unlisted_category_without_other(tmp_path: Path) -> None:
    schema = Schema(name="t", columns=(Column(name="a", kind="category", values=("x",)),))
    table = read_table({"a": ["x", "y"]}, schema, file="f")
    with pytest.raises(DataError, match=r"row 2, column 'a'.*declare other"):
        census_counts(table, schema)


def test_merging_adds_counts_and_variances() -> None:
    parts = [
        Census.of([np.array([1, 2]), np.array([3, 0, 0])], sigma=3),
        Census.of([np.array([5, -1]), np.array([4, 1, 0])], sigma=4),
    ]
    merged = merge_census(parts)
    assert [cells.tolist() for cells in merged.counts] == [[6, 1], [7, 1, 0]]
    assert merged.sigma == 5
    assert merged.rows == pytest.approx((7 / 2 + 8 / 3) / (1 / 2 + 1 / 3))
    with pytest.raises(CodecError, match="no census"):
        merge_census([])
    with pytest.raises(CodecError, match="different cells"):
        merge_census([parts[0], Census.of([np.array([1])], sigma=0)])


def test_rows_are_weighted_by_certainty() -> None:
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(200):
        narrow = np.array([600.0, 400.0]) + rng.normal(0, 10, 2)
        wide = np.full(1000, 1.0) + rng.normal(0, 10, 1000)
        errors.append(estimate_rows([narrow, wide]) - 1000)
    assert np.std(errors) < 20  # the wide column alone errs by 10 * sqrt(1000) = 316
    assert estimate_rows([np.array([-5.0, 1.0])]) == 1


def brute_force(counts: NDArray[np.float64], penalty: float) -> float:
    n = len(counts)
    best = np.inf
    for pattern in itertools.product([0, 1], repeat=n - 1):
        borders = [0, *[i + 1 for i, cut in enumerate(pattern) if cut], n]
        cost = sum(
            ((counts[a:b] - counts[a:b].mean()) ** 2).sum() + penalty
            for a, b in itertools.pairwise(borders)
        )
        best = min(best, cost)
    return best


@given(st.lists(st.integers(-20, 60), min_size=2, max_size=9), st.sampled_from([1.0, 4.0, 9.0]))
def test_runs_are_the_exact_optimum(values: list[int], sigma: float) -> None:
    counts = np.array(values, np.float64)
    starts = pool_runs(counts, sigma=sigma)
    assert starts[0] == 0
    assert (np.diff(starts) > 0).all()
    penalty = np.log(len(counts)) * sigma**2
    borders = [*starts.tolist(), len(counts)]
    cost = sum(
        ((counts[a:b] - counts[a:b].mean()) ** 2).sum() + penalty
        for a, b in itertools.pairwise(borders)
    )
    assert cost == pytest.approx(brute_force(counts, penalty), abs=1e-6)


@given(
    st.lists(st.floats(-50, 500), min_size=1, max_size=60),
    st.floats(0.5, 20),
    st.floats(1, 5000),
    st.integers(0, 60),
)
def test_cleaned_counts_are_a_histogram(
    values: list[float], sigma: float, rows: float, line: int
) -> None:
    counts = np.array(values)
    cleaned = denoise(counts, sigma=sigma, rows=rows, line=min(line, len(counts)))
    assert cleaned.shape == counts.shape
    assert (cleaned >= 0).all()
    assert cleaned.sum() == pytest.approx(rows, rel=1e-9)


def test_projection_is_nearest() -> None:
    # minimise sum (x - s)^2 / v over x >= 0, sum x = 10: checked on a fine grid of directions
    counts = np.array([8.0, -3.0, 4.0])
    cleaned = denoise(counts, sigma=1, rows=10, line=0)
    assert cleaned.sum() == pytest.approx(10)
    rng = np.random.default_rng(0)
    best = ((cleaned - counts) ** 2).sum()
    others = rng.dirichlet([1, 1, 1], 5000) * 10
    assert (((others - counts) ** 2).sum(axis=1) >= best - 1e-9).all()


def test_exact_counts_stay() -> None:
    assert denoise(np.array([3.0, 0.0, 5.0]), sigma=0, rows=8, line=3).tolist() == [3, 0, 5]
    assert pool_runs(np.zeros(0), sigma=1).tolist() == []


def test_noise_in_empty_stretches_does_not_become_rows() -> None:
    rng = np.random.default_rng(1)
    truth = np.zeros(2000)
    truth[100:140] = 30
    truth[700] = 800  # an atom
    sigma = 10.0
    kept, peaks, clipped = [], [], []
    for _ in range(10):
        noisy = truth + rng.normal(0, sigma, truth.size)
        cleaned = denoise(noisy, sigma=sigma, rows=2000, line=truth.size)
        kept.append(cleaned[100:140].sum() + cleaned[700])
        peaks.append(cleaned[700])
        clipped.append(np.maximum(noisy, 0).sum())
    assert np.mean(clipped) > 9000  # what clipping alone would make of 2,000 rows
    assert np.mean(kept) > 1900
    assert abs(np.mean(peaks) - 800) < 20


def test_a_census_of_another_schema_is_refused(schema: Schema) -> None:
    with pytest.raises(CodecError, match="census has cells"):
        clean_census(schema, Census.of([np.array([1])], sigma=0))
