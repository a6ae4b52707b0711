"""Drafts of schemas from rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from edge_runtime.errors import DataError, SchemaError
from edge_runtime.schema import Codec, Schema, infer_schema, read_table


def frame(rows: int = 400) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "id": np.arange(rows) + 10_000,
            "name": [f"person {n}" for n in range(rows)],
            "age": rng.integers(17, 81, rows),
            "salary": rng.integers(0, 99_000, rows) // 10 * 10,
            "weight": np.round(rng.normal(70, 10, rows), 1),
            "flow": rng.normal(0, 1, rows),
            "gap": np.where(rng.random(rows) < 0.1, np.nan, rng.integers(0, 5, rows)),
            "bit": rng.integers(0, 2, rows),
            "flag": rng.random(rows) < 0.5,
            "city": rng.choice(["Bern", "Basel", "other"], rows),
            "rare": [f"v{n}" for n in rng.integers(0, 150, rows)],
            "empty": [None] * rows,
            "day": pd.Timestamp("2013-03-01") + pd.to_timedelta(rng.integers(0, 90, rows), "D"),
        }
    )


@pytest.mark.parametrize("kind", ["frame", "csv", "parquet"])
def test_kinds_and_notes(kind: str, tmp_path: Path) -> None:
    rows = frame()
    source: object = rows
    if kind == "csv":
        source = tmp_path / "people.csv"
        rows.to_csv(source, index=False)
    elif kind == "parquet":
        source = tmp_path / "people.parquet"
        rows.to_parquet(source)
    schema, notes = infer_schema(source, conditions=["city"])  # type: ignore[arg-type]
    assert schema.name == ("table" if kind == "frame" else "people")
    assert schema.names[0] == "city"
    columns = {column.name: column for column in schema.columns}
    assert {name: column.kind for name, column in columns.items()} == {
        "city": "category",
        "id": "integer",
        "age": "integer",
        "salary": "integer",
        "weight": "number",
        "flow": "number",
        "gap": "integer",
        "bit": "boolean",
        "flag": "boolean",
        "rare": "category",
        "day": "timestamp",
    }
    assert columns["age"].bounds == (rows["age"].min(), rows["age"].max())
    assert columns["salary"].bounds == (0, 99_000)
    assert columns["weight"].decimals == 1
    assert columns["flow"].decimals is None
    assert [name for name, column in columns.items() if column.nullable] == ["gap"]
    assert columns["city"].values == ("Basel", "Bern")
    assert columns["city"].other
    assert len(columns["rare"].values) == 128
    said = "\n".join(notes)
    for text in (
        "column 'age': bounds 17 .. 80 were read from the rows",
        "column 'name': holds free text or identifiers",
        "column 'id': hardly any value occurs twice",
        "column 'empty': has no values",
        "column 'bit': holds 0 and 1 only",
        "column 'city': its 2 values were read from the rows",
        "rarer values become 'other'",
        "column 'day': bounds 2013-03-01T00:00:00Z .. ",
        "privacy_unit is 'row'",
    ):
        assert text in said
    assert "no condition columns" not in said
    # the draft fits the rows it was made from
    table = read_table(source, schema)  # type: ignore[arg-type]
    encoded = Codec.fit(table, schema).encode(table)
    assert set(encoded.clamped.values()) == {0}


def test_bounds_quote_no_row_and_hold_all() -> None:
    rng = np.random.default_rng(1)
    for scale in (1e-3, 1.0, 7e5):
        for shift in (-3, 0, 50):
            values = (rng.random(200) + shift) * scale
            column = infer_schema({"x": values})[0].columns[0]
            low, high = column.bounds
            assert low <= values.min()
            assert high >= values.max()
            assert low not in values
            assert high - low < 10 * np.ptp(values) + abs(shift) * scale


def test_schema_infer_is_the_same_without_notes() -> None:
    assert Schema.infer(frame(), name="x") == infer_schema(frame(), name="x")[0]


def test_small_sources() -> None:
    schema, notes = infer_schema({"x": [1, 2, 3]})
    assert schema.columns[0].bounds == (1, 3)
    assert any("no condition columns" in note for note in notes)
    mixed, _ = infer_schema({"x": ["1", "a", "2"] * 5})
    assert mixed.columns[0].kind == "category"
    assert mixed.columns[0].values == ("1", "2", "a")
    moments, _ = infer_schema({"x": ["2013-01-01T00:00:00.250Z", "2013-01-02"]})
    assert moments.columns[0].decimals == 3


def test_a_wide_condition_is_noted() -> None:
    _, notes = infer_schema({"x": np.arange(500.0)}, conditions=["x"])
    assert any("has many values for a condition" in note for note in notes)


def test_memory_stays_bounded_for_many_values() -> None:
    rng = np.random.default_rng(0)
    rows = 40_000
    schema, notes = infer_schema(
        {
            "n": rng.random(rows),
            "t": [f"{a:x}" + "z" for a in rng.integers(0, 2**60, rows)],
            "m": (np.datetime64("2013-01-01", "s") + np.arange(rows)).astype(str).tolist(),
        }
    )
    assert [column.kind for column in schema.columns] == ["number", "timestamp"]
    assert any("'t': holds free text" in note for note in notes)
    low, high = schema.columns[1].bounds
    assert low == 1_356_998_400_000_000
    assert high - low == 86_400_000_000


def test_what_cannot_be_drafted() -> None:
    with pytest.raises(SchemaError, match="no column 'y'"):
        infer_schema({"x": [1, 2]}, conditions=["y"])
    with pytest.raises(DataError, match="no column that a schema"):
        infer_schema({"x": [None, None]})
    with pytest.raises(SchemaError, match="cannot be a condition"):
        infer_schema({"x": [None, None], "y": [1, 2]}, conditions=["x"])
