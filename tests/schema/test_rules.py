"""Rows made from codes keep the constraints, keep their codes, and are otherwise as they were."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.schema import (
    Codec,
    Column,
    Combinations,
    Constraint,
    Order,
    Rules,
    Schema,
    Sum,
    Table,
    broken_rows,
)

KEY = bytes(range(32))
ROWS = 4000

COLUMNS = (
    Column(name="city", kind="category", values=("Paris", "Lyon", "Berlin"), nullable=True),
    Column(name="land", kind="category", values=("FR",), other=True),
    Column(name="open", kind="boolean", nullable=True),
    Column(name="x", kind="number", low=0, high=100, nullable=True),
    Column(name="y", kind="number", low=0, high=100, decimals=1, nullable=True),
    Column(name="z", kind="integer", low=0, high=20_000),
    Column(name="p", kind="integer", low=0, high=40),
    Column(name="q", kind="integer", low=-1000, high=1000, nullable=True),
    Column(name="r", kind="number", low=-800, high=800, decimals=2, nullable=True),
    Column(name="t", kind="timestamp", low=0, high=10**13),
    Column(name="u", kind="timestamp", low=0, high=10**13, decimals=3),
)
EVERY: tuple[Constraint, ...] = (
    Combinations(
        columns=("city", "land", "open"),
        allowed=(("Paris", "FR", True), ("Lyon", "FR", False), ("Berlin", "other", True)),
    ),
    Order(columns=("x", "y", "z")),
    Order(columns=("t", "u"), strict=True),
    Sum(total="r", parts=("p", "q")),
)


def rows_of(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
    """Rows without any constraint."""
    q = rng.integers(-1000, 1000, rows)
    return {
        "city": rng.choice(np.array(["Paris", "Lyon", "Berlin", None], object), rows),
        "land": rng.choice(np.array(["FR", "DE"], object), rows),
        "open": rng.integers(-1, 2, rows).astype(np.int8),
        "x": np.where(rng.random(rows) < 0.1, np.nan, rng.gamma(2, 10, rows).clip(0, 100)),
        "y": np.where(rng.random(rows) < 0.1, np.nan, rng.normal(50, 20, rows).clip(0, 100)),
        "z": rng.gamma(2, 60, rows).clip(0, 20_000).astype(np.int64),
        "p": rng.integers(0, 41, rows),
        "q": q,
        "r": np.round(rng.normal(0, 300, rows).clip(-800, 800), 2),
        "t": rng.integers(0, 10**13, rows),
        "u": rng.integers(0, 10**10, rows) * 1000,
    }


def schema_of(*constraints: Constraint) -> Schema:
    return Schema(name="t", columns=COLUMNS, constraints=constraints)


def codec_of(schema: Schema, seed: int = 0) -> Codec:
    table = Table(schema=schema, columns=rows_of(np.random.default_rng(seed), 2000))
    return Codec.fit(table, schema)


def codes_of(codec: Codec, seed: int, rows: int = ROWS) -> np.ndarray:
    rng = np.random.default_rng(seed)
    sizes = codec.cardinalities
    return np.stack([rng.integers(0, k, rows) for k in sizes], axis=1).astype(np.int32)


@settings(max_examples=25)
@given(st.sets(st.sampled_from(range(len(EVERY))), min_size=1), st.integers(0, 100))
def test_what_is_made_keeps_every_constraint(which: set[int], seed: int) -> None:
    schema = schema_of(*(EVERY[i] for i in sorted(which)))
    codec = codec_of(schema)
    rules = Rules(codec)
    codes = codes_of(codec, seed)
    codes = np.ascontiguousarray(codes[rules.possible(codes)])
    table, kept = rules.decode(codes, key=KEY, stream=seed)
    for constraint in schema.constraints:
        assert not broken_rows(table, constraint).any(), constraint
    assert 0 < len(kept) <= len(codes)
    # All columns but the computed one keep their codes, and every value its bounds.
    found = codec.encode(table)
    same = [d for d in range(len(COLUMNS)) if d not in rules.computed]
    np.testing.assert_array_equal(found.codes[:, same], codes[kept][:, same])
    assert not any(found.clamped.values())


def test_impossible_means_that_no_draw_succeeds() -> None:
    schema = schema_of(*EVERY)
    codec, rules = codec_of(schema), Rules(codec_of(schema))
    codes = codes_of(codec, 1)
    impossible = np.ascontiguousarray(codes[~rules.possible(codes)])
    assert 0.3 < len(impossible) / len(codes) < 1
    for stream in range(5):
        table = codec.decode(impossible, key=KEY, stream=stream)
        broken = np.logical_or.reduce(
            [broken_rows(table, c) for c in schema.constraints if not isinstance(c, Sum)]
        )
        total = table.columns["p"] + table.columns["q"]
        # The total is computed, so what counts is whether it could be.
        beyond = (np.abs(total) > 800) & ~table.missing["q"] & ~table.missing["r"]
        late = broken | beyond
        assert late.all()


def test_rows_do_not_depend_on_how_they_are_cut() -> None:
    schema = schema_of(*EVERY[1:])
    codec = codec_of(schema)
    rules = Rules(codec)
    codes = codes_of(codec, 3)
    whole, kept = rules.decode(codes, key=KEY, stream=4)
    part, few = rules.decode(np.ascontiguousarray(codes[700:900]), key=KEY, stream=4, offset=700)
    assert [k for k in kept if 700 <= k < 900] == (few + 700).tolist()
    where = np.isin(kept, few + 700)
    for name in schema.names:
        np.testing.assert_array_equal(whole.take(where).columns[name], part.columns[name])


def test_values_follow_the_distribution_given_the_constraint() -> None:
    """Two uniform numbers in one bin, in order: the smaller one has mean 1/3, the larger 2/3."""
    columns = tuple(Column(name=name, kind="number", low=0, high=1) for name in ("a", "b"))
    schema = Schema(name="t", columns=columns, constraints=(Order(columns=("a", "b")),))
    rng = np.random.default_rng(0)
    plain = {name: rng.random(50_000) for name in ("a", "b")}
    codec = Codec.fit(Table(schema=schema, columns=plain), schema, max_bins=2)
    codes = np.zeros((20_000, 2), np.int32)
    table, kept = Rules(codec).decode(codes, key=KEY)
    assert len(kept) == len(codes)
    top = float(codec.bins["a"].cuts[0])
    assert abs(table.columns["a"].mean() - top / 3) < 0.01 * top
    assert abs(table.columns["b"].mean() - 2 * top / 3) < 0.01 * top


def test_only_rows_that_need_it_are_drawn_again() -> None:
    schema = schema_of(EVERY[1])
    codec = codec_of(schema)
    rules = Rules(codec)
    codes = codes_of(codec, 5)
    plain = codec.decode(codes, key=KEY)
    fine = ~broken_rows(plain, EVERY[1])
    table, kept = rules.decode(codes, key=KEY)
    both = np.intersect1d(np.flatnonzero(fine), kept)
    assert len(both) == fine.sum()
    for name in schema.names:
        np.testing.assert_array_equal(
            plain.columns[name][both], table.columns[name][np.searchsorted(kept, both)]
        )


@pytest.mark.parametrize("computed", ["total", "second"])
def test_sums_of_sums_and_of_decimals(computed: str) -> None:
    names = ("first", "second", "third")
    columns = (
        *(Column(name=n, kind="number", low=0, high=9, decimals=2) for n in names),
        Column(name="total", kind="number", low=0, high=20, decimals=2),
        Column(name="all", kind="number", low=0, high=25, decimals=2),
    )
    schema = Schema(
        name="t",
        columns=columns,
        constraints=(
            Sum(total="all", parts=("total", "third")),
            Sum(total="total", parts=("first", "second"), computed=computed),
        ),
    )
    rng = np.random.default_rng(2)
    plain = {n: np.round(rng.uniform(0, 9, 5000), 2) for n in names}
    plain["total"] = plain["first"] + plain["second"]
    plain["all"] = plain["total"] + plain["third"]
    codec = Codec.fit(Table(schema=schema, columns=plain), schema)
    rules = Rules(codec)
    codes = codec.encode(Table(schema=schema, columns=plain)).codes
    table, kept = rules.decode(codes, key=KEY)
    cents = {n: np.rint(table.columns[n] * 100).astype(int) for n in schema.names}
    assert (cents["total"] == cents["first"] + cents["second"]).all()
    assert (cents["all"] == cents["total"] + cents["third"]).all()
    assert all((np.round(table.columns[n], 2) == table.columns[n]).all() for n in schema.names)
    assert len(kept) > 0.95 * len(codes)


def test_cells_that_are_known_stay_and_another_one_is_computed() -> None:
    schema = schema_of(EVERY[3], EVERY[1])
    codec = codec_of(schema)
    rules = Rules(codec)
    codes = codes_of(codec, 8)
    table = codec.decode(codes, key=KEY)
    known = {name: np.zeros(ROWS, np.bool_) for name in schema.names}
    known["q"][:] = True  # p and r are known, z too: q follows, x and y are drawn
    known["x"][:] = known["y"][:] = True
    settled, kept = rules.settle(table, codes, key=KEY, stream=0, free=known)
    assert len(kept)
    for name in ("p", "r", "z"):
        np.testing.assert_array_equal(settled.columns[name], table.columns[name][kept])
    there = ~settled.missing["q"] & ~settled.missing["r"]
    gap = settled.columns["p"] + settled.columns["q"] - settled.columns["r"]
    assert (gap[there] == 0).all()
    assert not broken_rows(settled, EVERY[1]).any()
