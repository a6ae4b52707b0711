"""Rows in order become windows: nothing is invented or mixed, and the way back is exact."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import CodecError, DataError, SchemaError
from edge_runtime.schema import (
    Census,
    Codec,
    Column,
    Combinations,
    Order,
    Schema,
    Sequence,
    Sum,
    Table,
    cells_behind,
    census_counts,
    long_codec,
    merge_steps,
    series_table,
    shared_codec,
    to_windows,
)

COLUMNS = (
    Column(name="kind", kind="category", values=("walk", "run"), condition=True),
    Column(name="who", kind="integer", low=0, high=99),
    Column(name="at", kind="timestamp", low=0, high=10**12),
    Column(name="x", kind="number", low=-10, high=1000),
    Column(name="on", kind="boolean", nullable=True),
)
SEQUENCE = Sequence(lags=2, entity="who", order="at", every=0.5, static=("kind",))


def schema_of(sequence: Sequence = SEQUENCE, **changes: Any) -> Schema:
    return Schema(**{"name": "t", "columns": COLUMNS, "sequence": sequence, **changes})


def rows_of(
    who: list[int], half_seconds: list[float], x: list[float], kind: list[str] | None = None
) -> Table:
    n = len(who)
    return Table(
        schema=schema_of(),
        columns={
            "kind": np.array(kind or ["walk"] * n, object),
            "who": np.array(who, np.int64),
            "at": (np.array(half_seconds) * 500_000).astype(np.int64),
            "x": np.array(x, np.float64),
            "on": np.array([i % 2 for i in range(n)], np.int8),
        },
    )


def seen(table: Table) -> list[list[float | None]]:
    names = ["x@0", "x@1", "x@2"]
    columns = [np.where(table.missing[n], None, table.columns[n].astype(object)) for n in names]
    return [list(row) for row in zip(*columns, strict=True)]


def test_the_schema_of_windows() -> None:
    schema = schema_of()
    wide = schema.windowed()
    assert wide.names == ("kind", "x@0", "on@0", "x@1", "on@1", "x@2", "on@2")
    assert wide.conditions == (0,)
    assert all(column.nullable for column in wide.columns[1:])
    assert wide.privacy_unit == "window of 3 rows"
    for each in (schema, wide):
        assert Schema.from_json(each.to_json()) == each
    assert schema.digest != schema_of(Sequence(lags=3, entity="who", order="at")).digest
    with pytest.raises(SchemaError, match="declares no sequence"):
        wide.windowed()


def test_the_example_of_the_docs_is_a_schema() -> None:
    page = Path(__file__).parents[2] / "docs" / "sequences.md"
    (example,) = re.findall(r"```json\n(.*?)```", page.read_text(), re.DOTALL)
    wide = Schema.from_json(example).windowed()
    assert wide.names[:3] == ("exercise", "ax@0", "wx@0")
    assert wide.privacy_unit == "window of 4 rows"


@pytest.mark.parametrize(
    ("sequence", "words"),
    [
        (Sequence(lags=0), "lags is 0"),
        (Sequence(lags=65), "lags is 65"),
        (Sequence(lags=1, entity="whom"), "no column 'whom'"),
        (Sequence(lags=1, entity="who", static=("who",)), "name a column twice"),
        (Sequence(lags=1, order="kind"), "neither number nor timestamp"),
        (Sequence(lags=1, every=1.0), "every is the positive distance"),
        (Sequence(lags=1, order="at", every=-1.0), "every is the positive distance"),
        (Sequence(lags=1, entity="on"), "cannot be missing"),
        (Sequence(lags=1, static=("kind", "who", "at", "x", "on")), "no column is left"),
    ],
)
def test_what_does_not_fit_is_refused(sequence: Sequence, words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        schema_of(sequence)


def test_constraints_hold_at_every_step() -> None:
    columns = (
        *COLUMNS,
        Column(name="a", kind="integer", low=0, high=9),
        Column(name="b", kind="integer", low=0, high=18),
    )
    wide = schema_of(
        columns=columns,
        constraints=(
            Order(columns=("a", "b")),
            Combinations(columns=("kind", "on"), allowed=(("walk", True), ("run", False))),
        ),
    ).windowed()
    assert [str(c) for c in wide.constraints] == [
        "a@0 <= b@0", "a@1 <= b@1", "a@2 <= b@2",
        *(f"a listed combination of kind, on@{step}" for step in range(3)),
    ]  # fmt: skip
    with pytest.raises(SchemaError, match="names 'who', which is not learnt"):
        schema_of(columns=columns, constraints=(Sum(total="who", parts=("a", "b")),)).windowed()


def test_windows_keep_to_series_and_order() -> None:
    table = rows_of([2, 1, 1, 2, 1, 2, 1], [1, 3, 1, 0, 0, 2, 2], [21, 13, 11, 20, 10, 22, 12])
    every, left_out = to_windows(table, overlapping=True)
    assert sorted(map(tuple, seen(every))) == [(10, 11, 12), (11, 12, 13), (20, 21, 22)]
    assert left_out == 0
    apart, left_out = to_windows(table, overlapping=False)
    assert sorted(map(tuple, seen(apart))) == [(10, 11, 12), (20, 21, 22)]
    assert left_out == 1


def test_gaps_are_missing_values_and_nothing_is_invented() -> None:
    # Rows at 0, 2, 3, 4 and, after a long pause, 1000, 1001; jitter of a tenth of a step.
    table = rows_of([1] * 6, [0, 2.1, 2.9, 4, 1000, 1001], [0, 2, 3, 4, 1000, 1001])
    windows, left_out = to_windows(table, overlapping=True)
    assert seen(windows) == [[0, None, 2], [None, 2, 3], [2, 3, 4]]
    assert windows.missing["on@1"].tolist() == [True, False, False]
    assert left_out == 2
    # Without `every` rows are neighbours when they follow each other.
    plain = Table(
        schema=schema_of(Sequence(lags=2, entity="who", order="at", static=("kind",))),
        columns={name: table.columns[name] for name in table.schema.names},
    )
    assert seen(to_windows(plain, overlapping=True).table)[0] == [0, 2, 3]


def test_a_window_ends_where_a_static_column_changes() -> None:
    kinds = ["walk"] * 4 + ["run"] * 3
    table = rows_of([1] * 7, list(range(7)), list(range(7)), kinds)
    windows, _ = to_windows(table, overlapping=True)
    assert seen(windows) == [[0, 1, 2], [1, 2, 3], [4, 5, 6]]
    assert windows.columns["kind"].tolist() == ["walk", "walk", "run"]


def test_one_row_changes_one_window_where_they_do_not_overlap() -> None:
    rng = np.random.default_rng(0)
    places = np.sort(rng.choice(600, 450, replace=False)).tolist()
    whole = rows_of([1] * 450, places, places)
    before = {tuple(row) for row in seen(to_windows(whole, overlapping=False).table)}
    for gone in (0, 17, 300, 449):
        keep = np.delete(np.arange(450), gone)
        after = {tuple(row) for row in seen(to_windows(whole.take(keep), overlapping=False).table)}
        assert len(before ^ after) <= 2
        assert len(before - after) <= 1


def test_a_row_of_another_static_value_cuts_no_window_in_two() -> None:
    rng = np.random.default_rng(0)
    # One person, both kinds in turns: rows of the other kind lie between those of a window.
    places = [np.sort(rng.choice(200, 150, replace=False)) for _ in range(2)]
    at = np.concatenate([places[0], places[1] + 0.2])
    kinds = ["walk"] * 150 + ["run"] * 150
    rows = rows_of([1] * 300, at.tolist(), at.tolist(), kinds)
    whole = Table(
        schema=schema_of(Sequence(lags=1, entity="who", order="at", every=0.5, static=("kind",))),
        columns=dict(rows.columns),
    )

    def windows(table: Table) -> set[tuple[float, ...]]:
        made = to_windows(table, overlapping=False).table
        pairs = zip(made.columns["x@0"].tolist(), made.columns["x@1"].tolist(), strict=True)
        return {tuple(-1.0 if np.isnan(x) else x for x in pair) for pair in pairs}

    before = windows(whole)
    assert sum(-1.0 not in pair for pair in before) > 50
    for gone in range(0, 300, 7):
        after = windows(whole.take(np.delete(np.arange(300), gone)))
        assert len(before - after) == 1
        assert len(after - before) <= 1


def test_what_cannot_be_cut_is_said() -> None:
    with pytest.raises(DataError, match="has no 3 rows in a row"):
        to_windows(rows_of([1, 1, 2], [0, 1, 5], [0, 1, 2]), overlapping=True)
    with pytest.raises(DataError, match="same place in its order"):
        to_windows(rows_of([1, 1, 1], [0, 1, 1.1], [0, 1, 2]), overlapping=True)
    with pytest.raises(DataError, match="has no 3 rows"):
        to_windows(rows_of([], [], []), overlapping=False)


@pytest.fixture
def windows() -> Table:
    rng = np.random.default_rng(1)
    x = np.cumsum(rng.normal(0, 1, 900)).clip(-10, 1000)
    table = rows_of([i // 300 for i in range(900)], [i % 300 for i in range(900)], x.tolist())
    return to_windows(table, overlapping=True).table


def test_codecs_share_bins_over_steps(windows: Table) -> None:
    codec = shared_codec(windows)
    assert len({codec.bins[f"x@{step}"].cuts.tobytes() for step in range(3)}) == 1
    codes = codec.encode(windows).codes
    rows = long_codec(codec)
    assert rows.schema.names == ("kind", "x", "on")
    # The codes of a step are those of a row.
    np.testing.assert_array_equal(codes[1:3, 1], codes[:2, 3])
    decoded = rows.decode(np.ascontiguousarray(codes[:, [0, 1, 2]]), key=bytes(32))
    again = codec.encode(windows)
    assert not again.clamped["x@0"]
    edges = codec.bins["x@0"].cuts
    np.testing.assert_array_equal(
        np.searchsorted(edges, decoded.columns["x"], side="right"), codes[:, 1]
    )


def test_a_census_of_windows_gives_shared_bins(windows: Table) -> None:
    counts = census_counts(windows, windows.schema)
    census = merge_steps(windows.schema, Census.of(counts, sigma=0.0))
    codec = Codec.from_census(windows.schema, census)
    assert len({codec.bins[f"x@{step}"].cuts.tobytes() for step in range(3)}) == 1
    assert abs(census.counts[1].sum() - windows.rows) < 1e-6
    long_codec(codec)


def test_joined_cells_give_shared_bins_as_well(windows: Table) -> None:
    exact = census_counts(windows, windows.schema)
    rng = np.random.default_rng(0)
    noisy = Census.of([cells + rng.normal(0, 20, len(cells)) for cells in exact], sigma=20.0)
    # Few rows under much noise: the bins come from the joined cells.
    assert cells_behind(windows.schema, noisy, 1) < len(exact[1])
    codec = Codec.from_census(windows.schema, merge_steps(windows.schema, noisy))
    assert len({codec.bins[f"x@{step}"].cuts.tobytes() for step in range(3)}) == 1
    long_codec(codec)
    apart = Codec.from_census(windows.schema, noisy)
    assert len({apart.bins[f"x@{step}"].cuts.tobytes() for step in range(3)}) > 1


def test_bins_that_differ_from_step_to_step_are_refused(windows: Table) -> None:
    apart = Codec.fit(windows, windows.schema)
    with pytest.raises(CodecError, match="'x' has other bins"):
        long_codec(apart)


def test_series_are_numbered() -> None:
    schema = Schema(name="t", columns=COLUMNS[3:4])
    table = Table(schema=schema, columns={"x": np.arange(6.0)})
    made = series_table(table, SEQUENCE, series=2, length=3)
    assert made.schema.names == ("who", "step", "x")
    assert made.columns["who"].tolist() == [0, 0, 0, 1, 1, 1]
    assert made.columns["step"].tolist() == [0, 1, 2, 0, 1, 2]
    step = Schema(name="t", columns=(Column(name="step", kind="number", low=0, high=9),))
    with pytest.raises(SchemaError, match="'step'"):
        series_table(
            Table(schema=step, columns={"step": np.arange(6.0)}), SEQUENCE, series=2, length=3
        )
