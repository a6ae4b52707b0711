"""The codec: what comes back, what is counted, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import CodecError, DataError, RangeError, ShapeError
from edge_runtime.schema import Census, Codec, Column, Schema, Table, census_counts, read_table
from edge_runtime.schema.numeric import NumericBins

KEY = bytes(range(32))


def numeric(column: Column, values: Any) -> tuple[Schema, Table]:
    schema = Schema(name="t", columns=(column,))
    return schema, read_table({column.name: values}, schema)


def exact(table: Table, schema: Schema) -> Census:
    return Census.of(census_counts(table, schema), sigma=0)


def round_trip(codec: Codec, table: Table) -> Table:
    return codec.decode(codec.encode(table).codes, key=KEY)


@pytest.fixture
def table(csv_file: Path, schema: Schema) -> Table:
    return read_table(csv_file, schema)


@pytest.fixture(params=["rows", "census"])
def codec(request: pytest.FixtureRequest, table: Table, schema: Schema) -> Codec:
    if request.param == "rows":
        return Codec.fit(table, schema)
    return Codec.from_census(schema, exact(table, schema))


def test_codes_have_the_promised_form(codec: Codec, table: Table, schema: Schema) -> None:
    encoded = codec.encode(table)
    assert encoded.codes.dtype == np.int32
    assert encoded.codes.flags.c_contiguous
    assert encoded.codes.shape == (300, len(schema.columns))
    assert (encoded.codes.min(axis=0) >= 0).all()
    assert (encoded.codes.max(axis=0) < codec.cardinalities).all()
    # 300 rows make at most 15 bins; categories and small integers have one code per value
    assert codec.cardinalities[schema.index("fault")] == 3
    assert codec.cardinalities[schema.index("level")] == 7
    assert codec.cardinalities[schema.index("site")] == 5
    assert 8 <= codec.cardinalities[schema.index("count")] <= 16
    # missing is the last code
    for index, column in enumerate(schema.columns):
        gone = table.missing[column.name]
        if column.nullable:
            assert ((encoded.codes[:, index] == codec.cardinalities[index] - 1) == gone).all()


def test_decoding_keeps_kind_missing_and_bin(codec: Codec, table: Table, schema: Schema) -> None:
    encoded = codec.encode(table)
    decoded = codec.decode(encoded.codes, key=KEY)
    assert decoded.schema == schema
    for column in schema.columns:
        values, missing = decoded[column.name], decoded.missing[column.name]
        assert values.dtype == table[column.name].dtype
        assert np.array_equal(missing, table.missing[column.name])
        if column.numeric:
            low, high = column.bounds
            present = values[~missing]
            assert ((present >= low) & (present <= high)).all()
        elif column.kind == "category":
            expected = np.where(table[column.name] == "C", "other", table[column.name])
            assert values.tolist() == expected.tolist()
        else:
            assert values.tolist() == table[column.name].tolist()
    assert np.array_equal(codec.encode(decoded).codes, encoded.codes)
    weight = decoded["weight"][~decoded.missing["weight"]]
    assert np.array_equal(np.round(weight, 1), weight)
    moments = decoded["at"][~decoded.missing["at"]]
    assert (moments % 1_000_000 == 0).all()


def test_decoding_does_not_depend_on_the_split(codec: Codec, table: Table) -> None:
    codes = codec.encode(table).codes
    whole = codec.decode(codes, key=KEY, stream=3)
    parts = Table.concat(
        [
            codec.decode(codes[start : start + 70], key=KEY, stream=3, offset=start)
            for start in range(0, 300, 70)
        ]
    )
    other = codec.decode(codes, key=KEY, stream=4)
    for name in codec.schema.names:
        assert np.array_equal(whole.missing[name], parts.missing[name])
        present = ~whole.missing[name]
        assert np.array_equal(whole[name][present], parts[name][present])
    assert not np.array_equal(whole["flow"], other["flow"], equal_nan=True)


def test_json_round_trip(codec: Codec, table: Table) -> None:
    again = Codec.from_json(codec.to_json())
    assert again.digest == codec.digest
    assert again.cardinalities == codec.cardinalities
    codes = codec.encode(table).codes
    assert np.array_equal(again.encode(table).codes, codes)
    one, two = codec.decode(codes, key=KEY), again.decode(codes, key=KEY)
    for name in codec.schema.names:
        present = ~one.missing[name]
        assert np.array_equal(one[name][present], two[name][present])


def test_outside_values_are_clamped_and_counted() -> None:
    column = Column(name="x", kind="integer", low=0, high=1000, nullable=True)
    schema, table = numeric(column, [5, 500, 995] * 100)
    codec = Codec.fit(table, schema)
    _, outside = numeric(column, [-7, 5, 995, 4000, None])
    encoded = codec.encode(outside)
    assert encoded.clamped == {"x": 2}
    assert encoded.codes[0] == encoded.codes[1]
    assert encoded.codes[2] == encoded.codes[3]
    site = Column(name="s", kind="category", values=("a",), other=True)
    schema, table = numeric(site, ["a", "b", "c"])
    encoded = Codec.fit(table, schema).encode(table)
    assert encoded.unknown == {"s": 2}
    assert encoded.codes[:, 0].tolist() == [0, 1, 1]


@settings(max_examples=60)
@given(st.data())
def test_any_numeric_column_survives(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["number", "integer", "timestamp"]))
    low = data.draw(st.integers(-10_000, 10_000))
    width = data.draw(st.sampled_from([0, 1, 5, 63, 64, 700, 9_000, 10**7, 10**12]))
    decimals = data.draw(st.sampled_from([None, 0, 2])) if kind == "number" else None
    column = Column(name="x", kind=kind, low=low, high=low + width, decimals=decimals)
    rows = data.draw(st.integers(0, 400))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    drawn = low + width * np.clip(rng.beta(0.5, 2, rows), 0, 1)
    if data.draw(st.booleans()):  # an atom
        drawn[: rows // 2] = low + width // 3
    typed = drawn if kind == "number" else np.rint(drawn).astype(np.int64)
    if decimals is not None:
        typed = np.round(typed, decimals)
    schema = Schema(name="t", columns=(column,))
    table = Table(schema=schema, columns={"x": typed})
    for codec in (
        Codec.fit(table, schema),
        Codec.from_census(schema, exact(table, schema)),
        Codec.from_json(Codec.fit(table, schema).to_json()),
    ):
        bins = codec.cardinalities[0]
        assert 1 <= bins <= 64
        codes = codec.encode(table).codes
        decoded = codec.decode(codes, key=KEY)
        assert (decoded["x"] >= low).all()
        assert (decoded["x"] <= low + width).all()
        # a bin's values never leave the bin, and bins are in order
        assert np.array_equal(codec.encode(decoded).codes, codes)
        order = np.argsort(typed, kind="stable")
        assert (np.diff(codes[order, 0]) >= 0).all()
        every = np.arange(bins, dtype=np.int32)[:, None]
        assert codec.encode(codec.decode(every, key=KEY)).codes.tolist() == every.tolist()


def test_few_distinct_values_come_back_exactly() -> None:
    rng = np.random.default_rng(0)
    seen = np.round(rng.normal(0, 10, 300), 3)
    column = Column(name="x", kind="number", low=-100, high=100)
    schema, table = numeric(column, rng.choice(seen, 5000))
    decoded = round_trip(Codec.fit(table, schema), table)
    assert set(decoded["x"].tolist()) <= set(seen.tolist())
    # an integer with few distinct values in a wide range is coded value by value
    column = Column(name="x", kind="integer", low=0, high=100_000)
    schema, table = numeric(column, rng.choice(np.arange(50) * 1000, 5000))
    codec = Codec.fit(table, schema)
    assert codec.cardinalities == (50,)
    assert round_trip(codec, table)["x"].tolist() == table["x"].tolist()


def test_continuous_values_follow_their_distribution() -> None:
    rng = np.random.default_rng(0)
    column = Column(name="x", kind="number", low=0, high=200)
    values = np.clip(rng.gamma(2, 9, 20_000), 0, 200)
    values[:8000] = 0.0  # it does not rain
    schema, table = numeric(column, values)
    fitted = Codec.fit(table, schema)
    counted = Codec.from_census(schema, exact(table, schema))
    grid = np.quantile(values, np.linspace(0, 1, 400))
    for codec, worst in ((fitted, 0.004), (counted, 0.02)):
        decoded = round_trip(codec, table)["x"]
        real = np.searchsorted(np.sort(values), grid, side="right") / values.size
        made = np.searchsorted(np.sort(decoded), grid, side="right") / values.size
        # the census knows no more than that zeros are below a cell's width
        assert np.abs(real - made)[grid > 0.2].max() < worst
    assert (round_trip(fitted, table)["x"] == 0).mean() == pytest.approx(0.4, abs=1e-3)


def test_few_rows_make_few_bins() -> None:
    column = Column(name="x", kind="number", low=0, high=1)
    rng = np.random.default_rng(0)
    for rows, bins in ((10, 2), (107, 5), (250, 12), (10_000, 32)):
        schema, table = numeric(column, rng.random(rows))
        assert Codec.fit(table, schema).cardinalities == (bins,)
        assert Codec.from_census(schema, exact(table, schema)).cardinalities[0] <= bins


def test_an_empty_table_still_makes_a_codec(schema: Schema, table: Table) -> None:
    empty = table.take(slice(0, 0))
    for codec in (
        Codec.fit(empty, schema),
        Codec.from_census(schema, exact(empty, schema)),
        Codec.from_census(schema, Census([c * 0.0 for c in exact(table, schema).counts], 9, 0.0)),
    ):
        assert np.array_equal(codec.encode(round_trip(codec, table)).codes[:, 1].shape, (300,))
        assert codec.decode(codec.encode(empty).codes, key=KEY).rows == 0


def test_code_counts_are_the_census_in_codes(codec: Codec, table: Table, schema: Schema) -> None:
    counts = codec.code_counts(exact(table, schema))
    codes = codec.encode(table).codes
    for index, (column, found) in enumerate(zip(schema.columns, counts, strict=True)):
        truth = np.bincount(codes[:, index], minlength=codec.cardinalities[index])
        assert len(found) == codec.cardinalities[index]
        assert found.sum() == 300
        # bins fitted on rows may cut a census cell in two; everything else is exact
        if column.name not in ("flow", "count", "at"):
            assert found.tolist() == truth.tolist(), column.name
        assert np.abs(found - truth).sum() <= 0.1 * 300


def test_labels(table: Table, schema: Schema) -> None:
    codec = Codec.fit(table, schema)
    at = {name: schema.index(name) for name in schema.names}
    assert [codec.label(at["fault"], code) for code in range(3)] == ["false", "true", "missing"]
    sites = [codec.label(at["site"], code) for code in range(5)]
    assert sites == ["A", "NA", "B", "other", "missing"]
    assert codec.label(at["level"], 0) == "1"
    assert codec.label(at["at"], 0).startswith("[2013-01-0")
    counted = Codec.from_census(schema, exact(table, schema))
    assert counted.label(at["flow"], 0).startswith("[-1, ")
    assert counted.label(at["flow"], counted.bins["flow"].bins - 1).endswith(", 1]")
    assert codec.label(at["weight"], 0).count(".") == 2
    with pytest.raises(RangeError, match=r"codes 0 .. 2, not 3"):
        codec.label(at["fault"], 3)
    wide = Column(name="x", kind="integer", low=0, high=20_000)
    own, rows = numeric(wide, np.arange(20_000))
    shown = Codec.fit(rows, own)
    assert shown.label(0, 0).startswith("[0, ")
    assert shown.label(0, 0)[:-1].split(", ")[1] == shown.label(0, 1)[1:].split(", ")[0]


def test_code_of_a_condition(codec: Codec, schema: Schema) -> None:
    at = {name: schema.index(name) for name in schema.names}
    assert codec.code_of(at["fault"], True) == 1
    assert codec.code_of(at["fault"], "false") == 0
    assert codec.code_of(at["fault"], None) == 2
    assert codec.code_of(at["site"], "B") == 2
    assert codec.code_of(at["site"], "other") == 3
    assert codec.code_of(at["site"], "Zurich") == 3
    assert codec.code_of(at["level"], 3) == 2
    assert codec.code_of(at["at"], "2013-01-01") == 0
    with pytest.raises(RangeError, match="outside the bounds"):
        codec.code_of(at["level"], 9)
    with pytest.raises(DataError, match="not a boolean"):
        codec.code_of(at["fault"], "perhaps")


def test_wrong_codes_are_refused(codec: Codec, table: Table) -> None:
    codes = codec.encode(table).codes
    with pytest.raises(ShapeError):
        codec.decode(codes.astype(np.int64), key=KEY)  # type: ignore[arg-type]
    with pytest.raises(ShapeError):
        codec.decode(codes[:, :2], key=KEY)
    for wrong in (-1, codec.cardinalities[2]):
        bad = codes.copy()
        bad[5, 2] = wrong
        with pytest.raises(RangeError, match="column 'level'"):
            codec.decode(bad, key=KEY)
    other = Schema(name="other", columns=codec.schema.columns)
    with pytest.raises(CodecError, match="does not fit a codec"):
        codec.encode(Table(schema=other, columns=table.columns, missing=table.missing))


@given(st.binary(max_size=100))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(CodecError):
        Codec.from_json(data)


def small_document() -> dict[str, Any]:
    column = Column(name="x", kind="integer", low=0, high=99)
    schema, table = numeric(column, list(range(100)) * 20)
    document: dict[str, Any] = msgspec.json.decode(Codec.fit(table, schema).to_json())
    return document


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2"),
        ({"format": "x"}, "format 'x'"),
        ({"schema": {}}, "not a codec"),
        ({"extra": 1}, "not a codec"),
        ({"bins": {}}, "numeric columns are"),
        ({"bins": {"x": {"cuts": []}}}, "do not fit"),
        ({"bins": {"x": {"cuts": [1.0], "points": [[1.0, 1]]}}}, "do not fit"),
        ({"bins": {"x": {"cuts": [], "points": [[1.0]]}}}, "not pairs"),
        ({"bins": {"x": {"cuts": [], "points": [[1.0, 0]]}}}, "not pairs"),
        ({"bins": {"x": {"cuts": [], "points": [[1.0, 3]]}}}, "bins with 3 points"),
        ({"bins": {"x": {"cuts": [], "points": [[1.0, 1e300]]}}}, "points in all bins"),
        ({"bins": {"x": {"cuts": [], "points": [[100.0, 1]]}}}, "beyond the bounds"),
        ({"bins": {"x": {"cuts": [5.0, 4.0], "points": [[1.0, 1]] * 3}}}, "not increasing"),
        ({"bins": {"x": {"cuts": [], "knots": [[1.0]]}}}, "fewer than two"),
        ({"bins": {"x": {"cuts": [], "knots": [[2.0, 1.0]]}}}, "not in order"),
        ({"bins": {"x": {"cuts": [5.0], "knots": [[1.0, 2.0], [3.0]]}}}, "different lengths"),
        ({"bins": {"x": {"cuts": [], "knots": [[1, 2]], "points": [[1, 1]]}}}, "points beside"),
        ({"bins": {"x": {"cuts": [], "knots": [[1.0, 100.0]]}}}, "beyond the bounds"),
    ],
)
def test_wrong_documents_are_refused(change: dict[str, Any], message: str) -> None:
    document = small_document()
    Codec.from_json(msgspec.json.encode(document))
    with pytest.raises(CodecError, match=message):
        Codec.from_json(msgspec.json.encode(document | change))


def test_bins_need_one_form() -> None:
    column = Column(name="x", kind="integer", low=0, high=9)
    with pytest.raises(CodecError, match="one of them"):
        NumericBins(column, cuts=np.zeros(0))
    with pytest.raises(CodecError, match="shape"):
        NumericBins(column, cuts=np.zeros(0), points=np.zeros((2, 1)))
    with pytest.raises(CodecError, match="numeric columns are"):
        Codec(schema=Schema(name="t", columns=(column,)), bins={})
