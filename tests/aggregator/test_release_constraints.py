"""Every row of a release keeps the constraints, whatever the pool holds; what it cost is said."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_runtime.aggregator import make_release, verify_release
from edge_runtime.errors import AggregatorError, SchemaError
from edge_runtime.schema import (
    Column,
    Combinations,
    Order,
    Schema,
    Sequence,
    Sum,
    Table,
    broken_rows,
    read_table,
)

from . import conftest
from .conftest import Kit, make_schema

#: a third of the devices' rows break it: no device has checked them
LONG = Order(columns=("hour", "delay"))
#: no device sends the others, but rows drawn from merged counts have them
PLACES = Combinations(
    columns=("late", "origin"),
    allowed=((True, "EWR"), (False, "EWR"), (False, "JFK"), (False, "LGA")),
)


@pytest.mark.parametrize("mode", ["pool", "balanced", "matched"])
def test_every_row_keeps_them_and_the_cost_is_said(
    mode: Any, bound: Callable[..., Kit], tmp_path: Path
) -> None:
    kit = bound(LONG, PLACES)
    kit.filled()
    made = make_release(kit.config.data_dir, tmp_path / "r", 2001, mode=mode)
    again = make_release(kit.config.data_dir, tmp_path / "again", 2001, mode=mode)
    assert made.data.read_bytes() == again.data.read_bytes()
    verify_release(made.path)
    schema = Schema.load(made.path / "schema.json")
    assert schema.constraints == (LONG, PLACES)
    table = read_table(made.data, schema, synthetic=True)
    assert table.rows == 2001
    for constraint in schema.constraints:
        assert not broken_rows(table, constraint).any()

    cost = made.facts["constraints"]
    sent = kit.workspace.pool_rows().codes
    assert cost["pooled_rows_left_out"] > 0.1 * len(sent)
    assert cost["rows_drawn"] == 2001 + cost["rows_rejected"]
    assert "keeps the constraints" in (made.path / "MODEL_CARD.md").read_text()
    found = json.loads((made.path / "report.json").read_text())
    assert any("keeps the constraints" in sentence for _, sentence in found["findings"])
    lineage = json.loads((made.path / "lineage.json").read_text())["rows"]
    assert sum(row["released"] for row in lineage) == 2001
    if mode == "balanced":
        late = Counter(table.columns["late"].tolist())
        assert sorted(late.values()) == [1000, 1001]


@pytest.fixture
def with_sum(monkeypatch: pytest.MonkeyPatch, bound: Callable[..., Kit]) -> Callable[[Column], Kit]:
    """A fleet whose tables have one more column: the hour plus the delay."""
    plain, table_of = make_schema(), conftest.make_table

    def table(schema: Schema, rows: int, **options: Any) -> Table:
        made = table_of(plain, rows, **options)
        columns: dict[str, Any] = {name: made.columns[name] for name in plain.names}
        total = columns["hour"] + np.nan_to_num(columns["delay"])
        whole = schema.columns[-1].kind == "integer"
        columns["sum"] = np.rint(total).astype(np.int64) if whole else total
        return Table(schema=schema, columns=columns)

    def make(column: Column) -> Kit:
        monkeypatch.setattr(conftest, "make_table", table)
        schema = Schema(name="trips", columns=(*plain.columns, column))
        kit = bound(Sum(total="sum", parts=("hour", "delay")), schema=schema)
        kit.filled()
        return kit

    return make


def test_sums_are_computed_and_the_report_shows_what_was_computed(
    with_sum: Callable[[Column], Kit], tmp_path: Path
) -> None:
    kit = with_sum(Column(name="sum", kind="number", low=0, high=123, decimals=1))
    made = make_release(kit.config.data_dir, tmp_path / "r", 2000)
    table = read_table(made.data, kit.workspace.schema, synthetic=True)
    assert not broken_rows(table, kit.workspace.schema.constraints[0]).any()
    assert made.facts["constraints"]["rows_rejected"] == 0
    found = json.loads((made.path / "report.json").read_text())
    (shown,) = [column for column in found["columns"] if column["name"] == "sum"]
    bundle = kit.workspace.bundle()
    assert bundle is not None
    codes = bundle.codec.encode(table).codes[:, 4]
    shares = np.bincount(codes, minlength=bundle.codec.cardinalities[4]) / 2000
    np.testing.assert_allclose(shown["release"], shares)


@pytest.mark.parametrize("mode", ["balanced", "matched"])
def test_rows_that_cannot_be_settled_are_drawn_anew(
    mode: Any, with_sum: Callable[[Column], Kit], tmp_path: Path
) -> None:
    """A whole sum of an hour and a delay in tenths: many bins of delays have no whole value."""
    kit = with_sum(Column(name="sum", kind="integer", low=0, high=123))
    made = make_release(kit.config.data_dir, tmp_path / "r", 2000, mode=mode)
    table = read_table(made.data, kit.workspace.schema, synthetic=True)
    assert table.rows == 2000
    assert not broken_rows(table, kit.workspace.schema.constraints[0]).any()
    assert made.facts["constraints"]["rows_rejected"] > 20
    again = make_release(kit.config.data_dir, tmp_path / "again", 2000, mode=mode)
    assert made.data.read_bytes() == again.data.read_bytes()
    if mode == "balanced":  # what is drawn anew keeps its conditions
        assert set(Counter(table.columns["late"].tolist()).values()) == {1000}


def test_without_constraints_nothing_is_said(kit: Kit, tmp_path: Path) -> None:
    kit.filled(rows=100)
    made = make_release(kit.config.data_dir, tmp_path / "r")
    assert "constraints" not in made.facts
    assert "constraints" not in (made.path / "MODEL_CARD.md").read_text()


def test_a_pool_that_cannot_keep_them_is_refused(bound: Callable[..., Kit], tmp_path: Path) -> None:
    kit = bound(Combinations(columns=("late", "origin"), allowed=((True, "other"),)))
    kit.filled(rows=100)
    with pytest.raises(AggregatorError, match="no row of the pool can keep"):
        make_release(kit.config.data_dir, tmp_path / "r", mode="pool")


def test_a_fleet_refuses_a_sequence_without_a_grid(bound: Callable[..., Kit]) -> None:
    schema = msgspec.structs.replace(make_schema(), sequence=Sequence(lags=1))
    with pytest.raises(SchemaError, match="has no every"):
        bound(schema=schema)
