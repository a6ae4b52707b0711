"""Series in fleets: the census of steps, and windows laid out one step below the other."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edge_runtime.errors import SchemaError
from edge_runtime.schema import (
    Census,
    Codec,
    Column,
    Order,
    Schema,
    Sequence,
    Table,
    broken_rows,
    census_counts,
    census_of,
    census_schema,
    census_sensitivity_squared,
    check_fleet,
    following,
    long_codec,
    merge_steps,
    shared_codec,
    steps_of_windows,
    to_windows,
)

SCHEMA = Schema(
    name="pumps",
    columns=(
        Column(name="state", kind="category", values=("idle", "run"), condition=True),
        Column(name="pump", kind="integer", low=0, high=99),
        Column(name="at", kind="number", low=0, high=10_000),
        Column(name="low", kind="number", low=-4, high=4),
        Column(name="high", kind="number", low=-4, high=4, nullable=True),
        Column(name="valve", kind="category", values=("open", "shut"), other=True),
    ),
    constraints=(Order(columns=("low", "high")),),
    sequence=Sequence(lags=2, entity="pump", order="at", every=1.0, static=("state",)),
)
LEARNT = SCHEMA.learnt


@pytest.fixture(scope="module")
def windows() -> Table:
    rng = np.random.default_rng(3)
    n = 600
    there = rng.random(n) < 0.9
    low = rng.normal(0, 0.8, n).clip(-4, 3)
    rows = Table(
        schema=SCHEMA,
        columns={
            "state": np.where(np.arange(n) // 60 % 2, "run", "idle").astype(object)[there],
            "pump": (np.arange(n) // 300)[there],
            "at": (np.arange(n) % 300).astype(np.float64)[there],
            "low": low[there],
            "high": np.where(rng.random(n) < 0.1, np.nan, low + rng.random(n))[there],
            "valve": rng.choice(np.array(["open", "shut", "stuck"], object), n)[there],
        },
    )
    return to_windows(rows, overlapping=False).table


def test_what_is_learnt_of_rows_and_of_windows() -> None:
    plain = Schema(name="plain", columns=SCHEMA.columns)
    assert plain.learnt is plain
    assert SCHEMA.windowed() == LEARNT
    assert LEARNT.learnt is LEARNT
    assert census_schema(plain) is plain
    assert census_schema(LEARNT).names == ("state", "low", "high", "valve")
    assert following(plain) == {}
    assert following(LEARNT) == {4: 1, 5: 2, 6: 3, 7: 4, 8: 5, 9: 6}
    # Four columns, the two continuous ones in joined cells as well.
    assert census_sensitivity_squared(LEARNT) == 6 * 3**2
    assert census_sensitivity_squared(plain) == len(census_counts_of(plain))


def census_counts_of(schema: Schema) -> list[object]:
    nothing = {
        "number": np.zeros(0),
        "integer": np.zeros(0, np.int64),
        "category": np.zeros(0, object),
    }
    table = Table(schema=schema, columns={c.name: nothing[c.kind] for c in schema.columns})
    return list(census_counts(table, schema))


def test_counts_of_steps_are_the_mean_census_of_windows(windows: Table) -> None:
    laid_out = steps_of_windows(windows)
    steps = census_schema(LEARNT)
    counts = census_counts(
        Table(
            schema=steps,
            columns={name: laid_out.columns[name] for name in steps.names},
            missing={name: laid_out.missing[name] for name in steps.names},
        ),
        steps,
    )
    assert {int(cells.sum()) for cells in counts} == {3 * windows.rows}
    found = census_of(LEARNT, counts, sigma=6.0)
    wanted = merge_steps(LEARNT, Census.of(census_counts(windows, LEARNT), sigma=0.0))
    assert found.sigma == 2.0
    assert found.rows == pytest.approx(windows.rows)
    for one, other in zip(found.counts, wanted.counts, strict=True):
        np.testing.assert_allclose(one, other)
    # Equal bins at every step: series can be drawn from what a fleet learns.
    long_codec(Codec.from_census(LEARNT, found))


def test_windows_laid_out_are_the_same_windows(windows: Table) -> None:
    codec = shared_codec(windows)
    drawn = codec.decode(codec.encode(windows).codes, key=bytes(32)).marked({"depth": 1})
    for table in (windows, drawn):
        laid_out = steps_of_windows(table)
        assert laid_out.schema.names == ("state", "window", "step", "low", "high", "valve")
        assert laid_out.rows == 3 * windows.rows
        assert laid_out.columns["step"][:6].tolist() == [0, 1, 2, 0, 1, 2]
        assert laid_out.synthetic == table.synthetic
        again = to_windows(laid_out, overlapping=False)
        assert (again.table.rows, again.left_out) == (windows.rows, 0)
        # By window is not by static value: the same windows in another order.
        order = np.argsort(again.table.columns["low@0"])
        for name in LEARNT.names:
            mine = table.take(np.argsort(table.columns["low@0"]))
            np.testing.assert_array_equal(again.table.missing[name][order], mine.missing[name])
            kept = ~mine.missing[name]
            np.testing.assert_array_equal(
                again.table.columns[name][order][kept], mine.columns[name][kept]
            )
    assert laid_out.schema.constraints == SCHEMA.constraints
    assert not broken_rows(steps_of_windows(windows), SCHEMA.constraints[0]).any()


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (LEARNT, "is one of windows"),
        (
            msgspec.structs.replace(SCHEMA, sequence=Sequence(lags=2, entity="pump", order="at")),
            "has no every",
        ),
        (
            Schema(
                name="t",
                columns=(
                    Column(name="at", kind="number", low=0, high=9),
                    Column(name="step", kind="number", low=0, high=9),
                ),
                sequence=Sequence(lags=2, order="at", every=1.0),
            ),
            "a column 'step'",
        ),
    ],
)
def test_what_no_fleet_can_learn_by(schema: Schema, words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        check_fleet(schema)


def test_what_a_fleet_can_learn_by() -> None:
    check_fleet(SCHEMA)
    check_fleet(Schema(name="plain", columns=SCHEMA.columns))
