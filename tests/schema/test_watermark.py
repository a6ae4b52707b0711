"""Rows that say they are synthetic are never read as real ones, wherever the mark can survive."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edge_runtime.errors import DataError
from edge_runtime.schema import (
    WATERMARK,
    Column,
    Schema,
    Table,
    infer_schema,
    iter_tables,
    marked_metadata,
    marked_of,
    read_table,
    refuse_synthetic,
    write_table,
)

SCHEMA = Schema(name="t", columns=(Column(name="x", kind="integer", low=0, high=9),))
FACTS = {"fleet": "north", "depth": 2}
REFUSED = r"synthetic rows where real ones belong .*depth 2, fleet north.*give the real rows"


def table(**more: Any) -> Table:
    return Table(schema=SCHEMA, columns={"x": np.arange(5)}, **more)


def as_parquet(folder: Path) -> Path:
    write_table(table(synthetic=FACTS), folder / "made.parquet")
    return folder / "made.parquet"


def as_parquet_through_pandas(folder: Path) -> Path:
    pd.read_parquet(as_parquet(folder)).to_parquet(folder / "again.parquet")
    return folder / "again.parquet"


MADE = {
    "table": lambda folder: table(synthetic=FACTS),
    "taken": lambda folder: table(synthetic=FACTS).take(np.array([1, 3])),
    "joined with real rows": lambda folder: Table.concat([table(), table(synthetic=FACTS)]),
    "parquet": as_parquet,
    "arrow": lambda folder: pq.read_table(as_parquet(folder)),
    "pandas": lambda folder: table(synthetic=FACTS).to_pandas(),
    "pandas from parquet": lambda folder: pd.read_parquet(as_parquet(folder)),
    "pandas, filtered": lambda folder: pd.read_parquet(as_parquet(folder)).query("x > 1"),
    "parquet through pandas": as_parquet_through_pandas,
    "no rows": lambda folder: pq.read_table(as_parquet(folder)).slice(0, 0),
}


@pytest.mark.parametrize("form", MADE)
def test_marked_rows_are_refused_as_real_and_welcome_as_synthetic(
    form: str, tmp_path: Path
) -> None:
    source = MADE[form](tmp_path)
    frames = [lambda s, _: infer_schema(s)] if not isinstance(source, Table) else []
    for read in (read_table, lambda s, _: read_table(s), *frames):
        with pytest.raises(DataError, match=REFUSED) as caught:
            read(source, SCHEMA)
        assert caught.value.public == str(caught.value)  # nothing in it stems from a row
    made = read_table(source, SCHEMA, synthetic=True)
    assert made.synthetic == FACTS  # and it is not forgotten on the way
    with pytest.raises(DataError, match=REFUSED):
        list(iter_tables(made, SCHEMA))
    if frames and made.rows:
        assert infer_schema(source, synthetic=True)[0].names == ("x",)


def test_without_pyarrow_too(monkeypatch: pytest.MonkeyPatch) -> None:
    arrow = table(synthetic=FACTS).to_arrow()
    real = table().to_arrow()
    load = builtins.__import__

    def without(name: str, *more: Any, **options: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return load(name, *more, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=REFUSED):
        read_table(arrow, SCHEMA)
    assert read_table(real, SCHEMA).rows == 5


def test_real_rows_carry_no_mark(tmp_path: Path) -> None:
    write_table(table(), tmp_path / "real.parquet")
    assert pq.read_schema(tmp_path / "real.parquet").metadata is None
    assert table().to_pandas().attrs == {}
    again = read_table(tmp_path / "real.parquet", SCHEMA)
    assert (again.rows, again.synthetic) == (5, None)
    assert table().marked(FACTS).synthetic == FACTS
    other = pa.table({"x": [1]}, metadata={"edge_runtime": "{}", "ARROW": "x"})
    assert read_table(other, SCHEMA).rows == 1


def test_csv_cannot_carry_it(tmp_path: Path) -> None:
    write_table(table(synthetic=FACTS), tmp_path / "made.csv")
    assert read_table(tmp_path / "made.csv", SCHEMA).synthetic is None


def test_a_strange_mark_still_marks() -> None:
    for value in (b"\xff", "not json", "[1]", "{}", "x" * 10_000):
        facts = marked_of({WATERMARK: value})
        with pytest.raises(DataError) as caught:
            refuse_synthetic(facts, file="f")
        assert len(str(caught.value)) < 600
    assert marked_of(None) is None
    assert marked_of({b"edge_runtime": b"{}"}) is None
    assert marked_of(marked_metadata(FACTS)) == FACTS
    assert marked_metadata({"b": 1, "a": 2}) == {WATERMARK: '{"a":2,"b":1}'}
