"""Columns and schemas: what is refused, and what survives a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import SchemaError
from edge_runtime.schema import Column, Schema, format_timestamp, parse_timestamp

LABEL = st.text("abcXYZ09 äß%\"'", min_size=1, max_size=8).filter(lambda t: t == t.strip())


@st.composite
def columns(draw: st.DrawFn, name: str) -> Column:
    kind = draw(st.sampled_from(["number", "integer", "category", "boolean", "timestamp"]))
    extra: dict[str, Any] = {
        "nullable": draw(st.booleans()),
        "condition": draw(st.booleans()),
        "unit": draw(st.sampled_from(["", "°C"])),
    }
    if kind == "category":
        values = draw(st.lists(LABEL, min_size=1, max_size=5, unique=True))
        extra["values"] = tuple(values)
        extra["other"] = "other" not in values and draw(st.booleans())
    elif kind == "number":
        bounds = sorted(draw(st.tuples(*[st.floats(-1e6, 1e6)] * 2)))
        extra |= {"low": bounds[0], "high": bounds[1]}
        extra["decimals"] = draw(st.one_of(st.none(), st.integers(0, 9)))
    elif kind in ("integer", "timestamp"):
        bounds = sorted(draw(st.tuples(*[st.integers(-(2**52), 2**52)] * 2)))
        extra |= {"low": bounds[0], "high": bounds[1]}
    return Column(name=name, kind=kind, **extra)


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    names = draw(st.lists(LABEL, min_size=1, max_size=6, unique=True))
    return Schema.ordered(
        name=draw(st.text(max_size=10)),
        columns=[draw(columns(name)) for name in names],
        privacy_unit=draw(st.sampled_from(["row", "person"])),
    )


@given(schemas())
def test_json_round_trip(schema: Schema) -> None:
    again = Schema.from_json(schema.to_json())
    assert again == schema
    assert again.digest == schema.digest
    assert again.to_json() == schema.to_json()


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(SchemaError):
        Schema.from_json(data)


@given(schemas(), st.data())
def test_damaged_json_is_refused_or_valid(schema: Schema, data: st.DataObject) -> None:
    damaged = bytearray(schema.to_json())
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at] = data.draw(st.integers(0, 255))
    try:
        read = Schema.from_json(bytes(damaged))
    except SchemaError:
        return
    assert Schema.from_json(read.to_json()) == read


def test_file_is_for_people_and_keeps_the_digest(schema: Schema, tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    schema.save(path)
    assert Schema.load(path) == schema
    text = path.read_text(encoding="utf-8")
    assert '"low": "2013-01-01T00:00:00Z"' in text  # timestamps are readable
    assert '"high": 30000' in text  # whole bounds have no ".0"
    assert '"nullable": false' not in text  # defaults are left out
    path.write_text(text.replace("\n", "\n\n"), encoding="utf-8")
    assert Schema.load(path).digest == schema.digest  # spacing does not change what it says


def test_digest_changes_with_every_declaration() -> None:
    base = Column(name="a", kind="number", low=0, high=1)
    variants = [
        base,
        Column(name="b", kind="number", low=0, high=1),
        Column(name="a", kind="integer", low=0, high=1),
        Column(name="a", kind="number", low=0, high=2),
        Column(name="a", kind="number", low=0, high=1, decimals=1),
        Column(name="a", kind="number", low=0, high=1, nullable=True),
        Column(name="a", kind="number", low=0, high=1, condition=True),
        Column(name="a", kind="number", low=0, high=1, unit="m"),
    ]
    digests = {Schema(name="t", columns=(column,)).digest for column in variants}
    digests.add(Schema(name="t", columns=(base,), privacy_unit="person").digest)
    assert len(digests) == len(variants) + 1
    # 0 and 0.0 are one declaration
    floats = Column(name="a", kind="number", low=0.0, high=1.0)
    assert Schema(name="t", columns=(floats,)).digest in digests


def test_conditions_come_first() -> None:
    plain = Column(name="x", kind="boolean")
    asked = Column(name="y", kind="boolean", condition=True)
    with pytest.raises(SchemaError, match="condition column 'y' stands behind 'x'"):
        Schema(name="t", columns=(plain, asked))
    schema = Schema.ordered(name="t", columns=(plain, asked))
    assert schema.names == ("y", "x")
    assert schema.conditions == (0,)
    assert schema.index("x") == 1
    with pytest.raises(SchemaError, match="no column 'z'"):
        schema.index("z")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"kind": "number"}, "needs low and high"),
        ({"kind": "number", "low": 2.0, "high": 1.0}, "not a finite range"),
        ({"kind": "number", "low": 0.0, "high": float("inf")}, "not a finite range"),
        ({"kind": "number", "low": 0.0, "high": 1.0, "decimals": 10}, "decimals is 10"),
        ({"kind": "number", "low": 0.0, "high": 1.0, "values": ("a",)}, "only a category"),
        ({"kind": "integer", "low": 0.5, "high": 1.0}, "not whole"),
        ({"kind": "integer", "low": 0.0, "high": 2.0**60}, "beyond 2\\^53"),
        ({"kind": "category"}, "needs values"),
        ({"kind": "category", "values": ("a", "a")}, "listed twice"),
        ({"kind": "category", "values": ("a", "")}, "empty text"),
        ({"kind": "category", "values": ("other",), "other": True}, "drop one"),
        ({"kind": "category", "values": ("a",), "low": 0.0}, "numeric kinds only"),
        ({"kind": "boolean", "values": ("a",)}, "no values of its own"),
    ],
)
def test_contradictions_are_refused(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        Column(name="a", **entry)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("[]", "not a schema file"),
        ('{"format":"other","version":1,"name":"t","columns":[]}', "format 'other'"),
        ('{"format":"edge-runtime-schema","version":2,"name":"t","columns":[]}', "version 2"),
        ('{"format":"edge-runtime-schema","version":1,"name":"t","columns":[]}', "no columns"),
        ('{"format":"edge-runtime-schema","version":1,"name":"t","columns":[{}]}', "column '\\?'"),
        (
            '{"format":"edge-runtime-schema","version":1,"name":"t",'
            '"columns":[{"name":"a","kind":"boolean","colour":1}]}',
            "colour",
        ),
        (
            '{"format":"edge-runtime-schema","version":1,"name":"t",'
            '"columns":[{"name":"a","kind":"timestamp","low":1,"high":2}]}',
            "ISO 8601 text",
        ),
        (
            '{"format":"edge-runtime-schema","version":1,"name":"t",'
            '"columns":[{"name":"a","kind":"timestamp","low":"soon","high":"later"}]}',
            "not ISO 8601",
        ),
        (
            '{"format":"edge-runtime-schema","version":1,"name":"t",'
            '"columns":[{"name":"a","kind":"boolean"},{"name":"a","kind":"boolean"}]}',
            "listed twice",
        ),
    ],
)
def test_wrong_files_say_what_is_wrong(document: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text(document, encoding="utf-8")
    with pytest.raises(SchemaError, match=message):
        Schema.load(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="No such file"):
        Schema.load(tmp_path / "absent.json")


def test_column_facts() -> None:
    number = Column(name="a", kind="number", low=0, high=1, decimals=2)
    assert (number.bounds, number.resolution, number.numeric) == ((0.0, 1.0), 0.01, True)
    assert Column(name="a", kind="integer", low=0, high=1).resolution == 1
    assert Column(name="a", kind="timestamp", low=0, high=1).resolution == 1_000_000
    assert Column(name="a", kind="number", low=0, high=1).resolution is None
    flag = Column(name="a", kind="boolean")
    assert flag.labels == ("false", "true")
    with pytest.raises(SchemaError, match="no bounds"):
        flag.bounds  # noqa: B018
    with pytest.raises(SchemaError, match="spaces around"):
        Column(name=" a", kind="boolean")


@given(st.integers(-62_000_000_000_000_000, 250_000_000_000_000_000))
def test_timestamps_round_trip(microseconds: int) -> None:
    assert parse_timestamp(format_timestamp(microseconds)) == microseconds


def test_timestamp_zones() -> None:
    assert parse_timestamp("1970-01-01") == 0
    assert parse_timestamp("1970-01-01 02:00:00+02:00") == 0
    assert parse_timestamp("1970-01-01T00:00:01.5Z") == 1_500_000
