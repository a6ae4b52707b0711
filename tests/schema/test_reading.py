"""Tables: what every kind of source gives, and what is refused with its place."""

from __future__ import annotations

import gzip
import io
import sys
import tempfile
import time
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import DataError, MissingExtraError, SchemaError
from edge_runtime.schema import (
    Column,
    Schema,
    Table,
    TableWriter,
    iter_tables,
    read_table,
    write_table,
)


def same(a: Table, b: Table) -> bool:
    return a.schema == b.schema and all(
        np.array_equal(a.missing[name], b.missing[name])
        and all(
            x == y for x, y, gone in zip(a[name], b[name], a.missing[name], strict=True) if not gone
        )
        for name in a.schema.names
    )


def one(column: Column, values: list[Any], **options: Any) -> np.ndarray:
    table = read_table({column.name: values}, Schema(name="t", columns=(column,)), **options)
    return table[column.name]


def test_csv_types(csv_file: Path, schema: Schema) -> None:
    table = read_table(csv_file, schema)
    assert table.rows == len(table) == 300
    assert [str(table[name].dtype) for name in schema.names] == [
        "int8", "int64", "int64", "float64", "float64", "object", "int64",
    ]  # fmt: skip
    assert set(table["fault"].tolist()) == {0, 1, -1}
    assert set(table["site"].tolist()) == {"A", "NA", "B", "C", None}  # NA is declared: a value
    assert np.array_equal(np.isnan(table["flow"]), table.missing["flow"])
    assert "ignored" not in table.columns
    assert repr(table) == "<Table 'mixed': 300 rows x 7 columns>"


def test_every_source_gives_the_same_table(
    csv_file: Path, schema: Schema, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = read_table(csv_file, schema)
    packed = tmp_path / "mixed.csv.gz"
    packed.write_bytes(gzip.compress(csv_file.read_bytes()))
    write_table(table, tmp_path / "again.csv")
    write_table(table, tmp_path / "again.parquet")
    arrow = table.to_arrow()
    dictionary = arrow.set_column(5, "site", arrow.column("site").dictionary_encode())
    sources: list[Any] = [
        packed,
        str(csv_file),
        tmp_path / "again.csv",
        tmp_path / "again.parquet",
        io.StringIO(csv_file.read_text(encoding="utf-8")),
        table.to_pandas(),
        arrow,
        dictionary,
        arrow.to_pydict(),
        table,
    ]
    for source in sources:
        assert same(read_table(source, schema), table), source
    # a device has no pyarrow: the same stream through nanoarrow
    stream = pa.RecordBatchReader.from_batches(arrow.schema, arrow.to_batches(max_chunksize=64))
    empty = pa.RecordBatchReader.from_batches(arrow.schema, [])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert same(read_table(stream, schema), table)
    assert read_table(empty, schema).rows == 0


def test_without_a_schema_it_is_inferred(csv_file: Path) -> None:
    for source in (csv_file, io.StringIO(csv_file.read_text(encoding="utf-8"))):
        table = read_table(source)
        assert table.rows == 300
        assert table.schema.columns[table.schema.index("level")].kind == "integer"
    assert same(read_table(table), table)


def test_parts_of_a_file(csv_file: Path, schema: Schema, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_table(csv_file, schema)
    part = read_table(csv_file, schema, skip_rows=90, max_rows=150)
    assert part.first_row == 91
    assert same(part, whole.take(slice(90, 240)))
    monkeypatch.setattr("edge_runtime.schema.sources.CHUNK_ROWS", 64)
    chunks = list(iter_tables(csv_file, schema, skip_rows=90, max_rows=150))
    assert [chunk.rows for chunk in chunks] == [38, 64, 48]
    assert [chunk.first_row for chunk in chunks] == [91, 129, 193]
    assert same(Table.concat(chunks), part)
    assert read_table(csv_file, schema, skip_rows=1000).rows == 0
    assert read_table(csv_file, schema, max_rows=0).rows == 0


def test_header_only(schema: Schema, tmp_path: Path) -> None:
    empty = read_table(io.StringIO(",".join(schema.names) + "\n"), schema)
    assert empty.rows == 0
    write_table(empty, tmp_path / "empty.parquet")
    assert read_table(tmp_path / "empty.parquet", schema).rows == 0
    assert read_table(empty.to_arrow(), schema).rows == 0


@pytest.mark.parametrize(
    ("column", "bad", "problem"),
    [
        (Column(name="a", kind="number", low=0, high=1), "twelve", "not a number"),
        (Column(name="a", kind="number", low=0, high=1), "1_000", "not a number"),
        (Column(name="a", kind="number", low=0, high=1), "inf", "not a number"),
        (Column(name="a", kind="integer", low=0, high=1), "1.5", "not an integer"),
        (Column(name="a", kind="integer", low=0, high=1), "9007199254740994", "not an integer"),
        (Column(name="a", kind="boolean"), "perhaps", "not a boolean"),
        (Column(name="a", kind="timestamp", low=0, high=1), "yesterday", "not a timestamp"),
        (Column(name="a", kind="number", low=0, high=1), "", "value is missing"),
        (Column(name="a", kind="category", values=("x",)), "", "value is missing"),
    ],
)
def test_wrong_values_are_refused_with_their_place(
    column: Column, bad: str, problem: str, tmp_path: Path
) -> None:
    good = {"timestamp": "2013-01-01", "category": "x"}.get(column.kind, "1")
    path = tmp_path / "secret.csv"
    path.write_text(f"b,a\n0,{good}\n\n0,{good}\n0,{bad}\n", encoding="utf-8")
    with pytest.raises(DataError, match=problem) as caught:
        read_table(path, Schema(name="t", columns=(column,)))
    error = caught.value
    assert (error.file, error.row, error.column) == (str(path), 3, "a")
    assert "row 3, column 'a'" in str(error)
    if bad:
        assert repr(bad) in str(error)
        assert bad not in error.public  # a device's log never quotes a row


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("a,b\n1\n", "as many fields as the header \\(1, not 2\\)"),
        ("a,b\n1,2\n1,2,3\n", "row 2: has not as many fields as the header \\(3, not 2\\)"),
        ("b\n1\n", "has no column 'a'; it has b"),
        ("a,a\n1,2\n", "columns \\['a'\\] twice"),
        ('a\n"1\n', "not well-formed"),
    ],
)
def test_malformed_csv(text: str, problem: str) -> None:
    schema = Schema(name="t", columns=(Column(name="a", kind="integer", low=0, high=9),))
    with pytest.raises(DataError, match=problem):
        read_table(io.StringIO(text), schema, file="f.csv")


@pytest.mark.parametrize(
    "text", ["Jane,7\n", "Jane,Jane\n", "a,b\n1,2\n3,4\n5,6,Jane\n", 'a,b\n1,"Jane"x\n']
)
def test_a_device_says_nothing_of_a_malformed_file_but_its_name(text: str) -> None:
    schema = Schema(name="t", columns=(Column(name="a", kind="integer", low=0, high=9),))
    with pytest.raises(DataError) as caught:
        read_table(io.StringIO(text), schema, file="f.csv")
    # A first line that should have been a header is a row; so is what a number of fields is of.
    assert "Jane" not in caught.value.public
    assert not any(digit in caught.value.public for digit in "0123456789")


def test_sources_that_are_none(tmp_path: Path, schema: Schema) -> None:
    (tmp_path / "a.csv").write_bytes(b"at,fault\n\xff\xfe,1\n")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    (tmp_path / "a.xls").write_bytes(b"")
    for name, problem in [
        ("a.csv", "not UTF-8"),
        ("a.parquet", "not a readable Parquet"),
        ("a.xls", "no known kind"),
        ("b.csv", "No such file"),
    ]:
        with pytest.raises(DataError, match=problem):
            read_table(tmp_path / name, schema)
    with pytest.raises(DataError, match="cannot be read as a table"):
        read_table(7, schema)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="different lengths"):
        read_table({name: [None] * (name == "at") for name in schema.names}, schema)


def test_rows_are_counted_from_where_the_caller_says() -> None:
    schema = Schema(name="t", columns=(Column(name="a", kind="integer", low=0, high=9),))
    with pytest.raises(DataError, match=r"log.csv, row 102"):
        read_table(io.StringIO("a\n1\nx\n"), schema, file="log.csv", first_row=101)


def test_python_and_numpy_values() -> None:
    number = Column(name="a", kind="number", low=0, high=9, nullable=True)
    assert one(number, [Decimal("1.5"), 2, np.float32(3)]).tolist() == [1.5, 2, 3]
    assert np.isnan(one(number, [None, pd.NA, float("nan")])).all()
    integer = Column(name="a", kind="integer", low=0, high=9, nullable=True)
    assert one(integer, ["5.0", " 6 "]).tolist() == [5, 6]
    assert one(integer, [5.0, None]).tolist() == [5, 0]
    assert one(integer, np.array([5, 6], np.uint8)).tolist() == [5, 6]  # type: ignore[arg-type]
    flag = Column(name="a", kind="boolean", nullable=True)
    assert one(flag, [True, np.bool_(False), 1.0, "Yes", None]).tolist() == [1, 0, 1, 1, -1]
    text = Column(name="a", kind="category", values=("1", "true"), nullable=True)
    assert one(text, [1.0, True, "x", None, 2.5]).tolist() == ["1", "true", "x", None, "2.5"]
    moment = Column(name="a", kind="timestamp", low=0, high=9, nullable=True)
    values = [
        datetime(1970, 1, 2, tzinfo=UTC),
        datetime(1970, 1, 2),  # a naive moment is taken as UTC
        date(1970, 1, 2),
        np.datetime64("1970-01-02"),
        " 1970-01-02 ",
        np.datetime64("NaT"),
        pd.NaT,
    ]
    day = 86_400_000_000
    assert one(moment, values).tolist() == [day] * 5 + [0, 0]
    for column, wrong in [
        (number, True),
        (flag, 2),
        (moment, 3.0),
        (text, object()),
        (number, "inf"),
        (integer, np.float64("inf")),
    ]:
        with pytest.raises(DataError):
            one(column, [wrong, None])
    with pytest.raises(DataError, match="not an integer"):
        one(integer, np.array([1.5]))  # type: ignore[arg-type]


def test_own_missing_tokens() -> None:
    column = Column(name="a", kind="category", values=("x",), nullable=True)
    assert one(column, ["x", "?", "NA"], missing_tokens=("?",)).tolist() == ["x", None, "NA"]


def test_pandas_kinds(schema: Schema, csv_file: Path) -> None:
    frame = read_table(csv_file, schema).to_pandas()
    assert str(frame["at"].dtype) == "datetime64[us, UTC]"
    assert str(frame["level"].dtype) == "int64"
    assert str(frame["count"].dtype) == "float64"
    assert set(map(str, frame["fault"].unique())) == {"True", "False", "None"}
    odd = pd.DataFrame(
        {
            "a": pd.Series([1, None], dtype="Int64"),
            "b": pd.Series(["x", None], dtype="category"),
            "c": pd.Series([True, None], dtype="boolean"),
            "d": [True, False],
        }
    )
    columns = (
        Column(name="a", kind="integer", low=0, high=9, nullable=True),
        Column(name="b", kind="category", values=("x",), nullable=True),
        Column(name="c", kind="boolean", nullable=True),
        Column(name="d", kind="boolean"),
    )
    table = read_table(odd, Schema(name="t", columns=columns))
    assert table["a"].tolist() == [1, 0]
    assert table["b"].tolist() == ["x", None]
    assert table["c"].tolist() == [1, -1]
    assert table["d"].tolist() == [1, 0]
    assert table.to_pandas()["d"].dtype == bool


def test_table_refuses_what_does_not_fit(schema: Schema, csv_file: Path) -> None:
    table = read_table(csv_file, schema)
    with pytest.raises(SchemaError, match="are not those of schema"):
        Table(schema=schema, columns={"at": table["at"]})
    with pytest.raises(SchemaError, match="different lengths"):
        Table(schema=schema, columns={**table.columns, "at": table["at"][:3]})
    with pytest.raises(SchemaError, match="'at' \\(timestamp\\) is float64"):
        Table(schema=schema, columns={**table.columns, "at": table["at"].astype(float)})
    with pytest.raises(SchemaError, match="no tables"):
        Table.concat([])
    small = Schema(name="t", columns=schema.columns[:1])
    part = Table(schema=small, columns={"fault": table["fault"]})
    assert np.array_equal(part.missing["fault"], table.missing["fault"])
    with pytest.raises(SchemaError, match="different schemas"):
        Table.concat([table, part])
    with pytest.raises(DataError, match="no known kind"):
        write_table(table, "x.txt")


def test_what_needs_an_extra_says_so(
    schema: Schema, csv_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = read_table(csv_file, schema)
    (tmp_path / "a.parquet").write_bytes(b"")
    for package in ("pyarrow", "pyarrow.parquet", "pandas"):
        monkeypatch.setitem(sys.modules, package, None)
    for call in (
        table.to_arrow,
        table.to_pandas,
        lambda: write_table(table, tmp_path / "b.parquet"),
        lambda: read_table(tmp_path / "a.parquet", schema),
    ):
        with pytest.raises(MissingExtraError, match="edge-runtime\\[aggregator\\]"):
            call()


@given(
    st.lists(
        st.tuples(
            st.none() | st.floats(-1e300, 1e300),
            st.none() | st.text(min_size=1, max_size=5).filter(lambda t: t.isprintable()),
        ),
        max_size=20,
    )
)
def test_csv_round_trip_is_exact(rows: list[tuple[float | None, str | None]]) -> None:
    schema = Schema(
        name="t",
        columns=(
            Column(name="x", kind="number", low=0, high=1, nullable=True),
            Column(name="y", kind="category", values=("a",), other=True, nullable=True),
        ),
    )
    table = read_table({"x": [r[0] for r in rows], "y": [r[1] for r in rows]}, schema)
    with tempfile.TemporaryDirectory() as folder:
        write_table(table, Path(folder) / "t.csv")
        assert same(read_table(Path(folder) / "t.csv", schema), table)


def test_a_device_reads_sixty_thousand_rows_quickly(csv_file: Path, schema: Schema) -> None:
    header, *lines = csv_file.read_text(encoding="utf-8").splitlines(keepends=True)
    csv_file.write_text(header + "".join(lines) * 200, encoding="utf-8")
    started = time.process_time()
    table = read_table(csv_file, schema)
    assert table.rows == 60_000
    assert time.process_time() - started < 4  # 0.7 s measured on one x86 core


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_blocks_into_one_file(ending: str, csv_file: Path, schema: Schema, tmp_path: Path) -> None:
    table = read_table(csv_file, schema)
    path = tmp_path / f"blocks.{ending}"
    with TableWriter(path) as writer:
        for block in (slice(0, 0), slice(0, 120), slice(120, 300)):
            writer.write(table.take(block))
        assert not path.exists()  # nobody reads half a file
    assert writer.rows == 300
    assert same(read_table(path, schema), table)
    before = path.read_bytes()

    def interrupted() -> None:
        with TableWriter(path) as writer:
            writer.write(table)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == sorted([path, csv_file])
    text = io.StringIO()
    with TableWriter(text) as writer:
        writer.write(table)
    assert same(read_table(io.StringIO(text.getvalue()), schema), table)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_what_cannot_be_written(ending: str, csv_file: Path, schema: Schema) -> None:
    table = read_table(csv_file, schema)
    with pytest.raises(DataError, match="cannot be written"):
        write_table(table, csv_file / f"x.{ending}")
