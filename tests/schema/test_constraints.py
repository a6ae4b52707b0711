"""Constraints as declarations: what a schema file says, what is refused, what real rows keep."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_runtime.errors import DataError, SchemaError
from edge_runtime.schema import (
    Column,
    Combinations,
    Constraint,
    Order,
    Schema,
    Sum,
    infer_schema,
    read_table,
)

COLUMNS = (
    Column(name="city", kind="category", values=("Paris", "Lyon", "Berlin"), nullable=True),
    Column(name="land", kind="category", values=("FR", "DE"), nullable=True),
    Column(name="open", kind="boolean"),
    Column(name="start", kind="timestamp", low=0, high=1e12, nullable=True),
    Column(name="end", kind="timestamp", low=0, high=1e12, nullable=True),
    Column(name="a", kind="integer", low=0, high=50),
    Column(name="b", kind="integer", low=0, high=50, nullable=True),
    Column(name="total", kind="integer", low=0, high=100),
    Column(name="net", kind="number", low=0, high=10, decimals=2),
    Column(name="flow", kind="number", low=0, high=10),
)
PLACES = Combinations(
    columns=("city", "land"), allowed=(("Paris", "FR"), ("Lyon", "FR"), ("Berlin", "DE"))
)
TIMES = Order(columns=("start", "end"), strict=True)
ADDED = Sum(total="total", parts=("a", "b"))


def schema_of(*constraints: Constraint) -> Schema:
    return Schema(name="t", columns=COLUMNS, constraints=constraints)


def test_a_schema_file_carries_them() -> None:
    schema = schema_of(PLACES, TIMES, ADDED, Order(columns=("a", "total", "flow")))
    assert Schema.from_json(schema.to_json()) == schema
    assert Schema.from_json(schema.to_text()) == schema
    text = schema.to_text()
    assert '"kind": "order"' in text
    assert '"strict": true' in text
    assert "computed" not in text  # defaults are left out
    assert schema.digest != schema_of(PLACES, TIMES).digest
    ordered = Schema.ordered(name="t", columns=COLUMNS, constraints=[TIMES])
    assert ordered.constraints == (TIMES,)


def test_without_any_nothing_changes() -> None:
    """Digests of schemas in the field stay what they are."""
    assert b"constraints" not in schema_of().to_json()
    drafted, _ = infer_schema({"a": ["1", "2"], "b": ["x", "y"]})
    assert drafted.constraints == ()


@pytest.mark.parametrize(
    ("constraint", "words"),
    [
        (Order(columns=("start",)), "two columns or more"),
        (Order(columns=("start", "start")), "named twice"),
        (Order(columns=("start", "finish")), "no column 'finish'"),
        (Order(columns=("a", "city")), "'city' .category. has no order"),
        (Order(columns=("a", "start")), "cannot be compared"),
        (Sum(total="total", parts=("a",)), "two parts"),
        (Sum(total="total", parts=("a", "flow")), "'flow' .number. cannot be added up exactly"),
        (Sum(total="total", parts=("a", "b"), computed="net"), "computed is 'net'"),
        (Combinations(columns=("city",), allowed=(("Paris",),)), "two columns"),
        (Combinations(columns=("city", "a"), allowed=(("Paris", "1"),)), "neither category nor"),
        (Combinations(columns=("city", "land"), allowed=()), "0 combinations"),
        (Combinations(columns=("city", "land"), allowed=(("Paris",),)), "one value per column"),
        (Combinations(columns=("city", "land"), allowed=(("Rome", "FR"),)), "'Rome' is no value"),
        (Combinations(columns=("city", "open"), allowed=(("Paris", "true"),)), "'true' is no val"),
        (
            Combinations(columns=("city", "land"), allowed=(("Paris", "FR"), ("Paris", "FR"))),
            "listed twice",
        ),
    ],
)
def test_what_does_not_fit_is_refused(constraint: Constraint, words: str) -> None:
    with pytest.raises(SchemaError, match=words) as caught:
        schema_of(constraint)
    assert "schema 't': constraint 1" in str(caught.value)


def test_what_can_never_hold_is_refused() -> None:
    low, high = (
        Column(name="x", kind="integer", low=5, high=9),
        Column(name="y", kind="integer", low=0, high=5),
    )
    Schema(name="t", columns=(low, high), constraints=(Order(columns=("x", "y")),))
    with pytest.raises(SchemaError, match="can never hold"):
        Schema(name="t", columns=(low, high), constraints=(Order(columns=("x", "y"), strict=True),))
    small = Column(name="small", kind="integer", low=0, high=4)
    with pytest.raises(SchemaError, match="can never hold"):
        Schema(
            name="t",
            columns=(low, high, small),
            constraints=(Sum(total="small", parts=("x", "y")),),
        )


def test_sums_may_build_on_each_other_but_not_in_a_circle() -> None:
    names = ("p", "q", "r", "s", "t")
    columns = tuple(Column(name=name, kind="integer", low=0, high=99) for name in names)

    def made(*sums: Sum) -> Schema:
        return Schema(name="t", columns=columns, constraints=sums)

    made(Sum(total="t", parts=("r", "s")), Sum(total="r", parts=("p", "q")))
    with pytest.raises(SchemaError, match="'r' would be computed by two sums"):
        made(Sum(total="r", parts=("p", "q")), Sum(total="r", parts=("s", "t")))
    with pytest.raises(SchemaError, match="in a circle"):
        made(Sum(total="r", parts=("p", "q")), Sum(total="p", parts=("r", "s")))
    made(Sum(total="r", parts=("p", "q")), Sum(total="p", parts=("r", "s"), computed="s"))


@pytest.mark.parametrize(
    "entry",
    [
        {"kind": "greater", "columns": ["a", "b"]},
        {"columns": ["a", "b"]},
        {"kind": "order", "columns": ["a", "b"], "strictly": True},
        {"kind": "sum", "total": "total", "parts": "ab"},
    ],
)
def test_entries_of_no_known_form_are_refused(entry: dict[str, Any]) -> None:
    document = msgspec.json.decode(schema_of().to_json())
    document["constraints"] = [entry]
    with pytest.raises(SchemaError, match=r"constraint 1: .*kinds are order, sum and combinations"):
        Schema.from_json(msgspec.json.encode(document))


def test_the_example_of_the_docs_is_a_schema() -> None:
    page = Path(__file__).parents[2] / "docs" / "constraints.md"
    (example,) = re.findall(r"```json\n(.*?)```", page.read_text(), re.DOTALL)
    schema = Schema.from_json(example)
    assert [type(constraint) for constraint in schema.constraints] == [Order, Sum, Combinations]


HEADER = "city,land,open,start,end,a,b,total,net,flow\n"
GOOD = (
    "Paris,FR,true,1970-01-01T00:00:00Z,1970-01-01T00:00:01Z,1,2,3,1,1\n"
    ",FR,true,,1970-01-01T00:00:01Z,1,,9,1,1\n"  # what is missing breaks nothing
)


@pytest.mark.parametrize(
    ("constraint", "row", "column_words"),
    [
        (PLACES, "Paris,DE,true,,,1,2,3,1,1", "a listed combination of city, land"),
        (TIMES, "Lyon,FR,true,1970-01-02,1970-01-02,1,2,3,1,1", "start < end"),
        (ADDED, "Lyon,FR,true,,,1,2,4,1,1", "total = a + b"),
    ],
)
def test_real_rows_that_contradict_are_refused(
    constraint: Constraint, row: str, column_words: str
) -> None:
    schema = schema_of(constraint)
    assert read_table(io.StringIO(HEADER + GOOD), schema).rows == 2
    with pytest.raises(DataError) as caught:
        read_table(io.StringIO(HEADER + GOOD + row + "\n"), schema, file="rows.csv")
    error = caught.value
    assert (error.file, error.row) == ("rows.csv", 3)
    assert column_words in str(error)
    # Neither the row's number nor its values may stand in a device's log.
    assert error.public.startswith("rows.csv: the row breaks the schema's constraint")
    for private in ("3", "Paris", "1970"):
        assert private not in error.public
    # Rows of other generators are read to be judged.
    read_table(io.StringIO(HEADER + row + "\n"), schema, synthetic=True)


def test_a_combination_that_no_row_could_complete_is_refused() -> None:
    only = Combinations(columns=("city", "land"), allowed=(("Paris", "FR"), ("Lyon", "FR")))
    with pytest.raises(DataError, match="listed combination"):
        read_table(io.StringIO(HEADER + ",DE,true,,,1,2,3,1,1\n"), schema_of(only))
