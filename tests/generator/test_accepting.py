"""Wishes and constraints: the same distribution as plain rejection, at a rate that is said."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from edge_runtime.errors import SamplingError
from edge_runtime.generator import (
    Bundle,
    Drawing,
    Layout,
    build_bundle,
    nll,
    open_engine,
    sample_codes,
)
from edge_runtime.generator.conditional import leading_given, log_probabilities
from edge_runtime.schema import (
    Codec,
    Column,
    Combinations,
    Constraint,
    Order,
    Schema,
    Sum,
    Table,
    broken_rows,
)

from .conftest import lineage, strong_weights

KEY = bytes(range(32))


def shop(*constraints: Constraint, rare: int | None = None) -> Bundle:
    """Untrained weights with strong dependence: they know nothing of the constraints.

    The last column hardly ever has the code `rare`.
    """
    schema = Schema(
        name="shop",
        columns=(
            Column(name="kind", kind="category", values=("a", "b", "c"), condition=True),
            Column(name="rush", kind="boolean", condition=True),
            Column(name="weekday", kind="integer", low=1, high=7),
            Column(name="price", kind="integer", low=0, high=3000),
            Column(name="tax", kind="integer", low=0, high=500, nullable=True),
            Column(name="total", kind="integer", low=0, high=3500),
            Column(name="paid", kind="integer", low=0, high=4000),
        ),
        constraints=constraints,
    )
    rng = np.random.default_rng(1)
    n = 3000
    price = rng.gamma(2, 300, n).clip(0, 3000).astype(np.int64)
    tax = (price // 7).clip(0, 500)
    table = Table(
        schema=schema,
        columns={
            "kind": rng.choice(np.array(["a", "b", "c"], object), n),
            "rush": rng.integers(0, 2, n).astype(np.int8),
            "weekday": rng.integers(1, 8, n),
            "price": price,
            "tax": tax,
            "total": price + tax,
            "paid": price + tax + rng.integers(0, 300, n),
        },
    )
    codec = Codec.fit(table, schema, max_bins=12)
    layout = Layout(codec.cardinalities, 24)
    weights = strong_weights(layout, strength=2.0)
    if rare is not None:
        weights.b3[layout.offsets[6] + rare] -= 14
    return build_bundle(schema, codec, layout, weights, lineage=lineage())


PLACES = Combinations(columns=("kind", "rush"), allowed=(("a", True), ("a", False), ("b", True)))
ADDED = Sum(total="total", parts=("price", "tax"))
PAID = Order(columns=("total", "paid"))


@pytest.fixture(scope="module")
def free() -> Bundle:
    return shop()


def drawing(
    bundle: Bundle, rows: int, wished: Mapping[int, int] | None = None, engine: str = "auto"
) -> Drawing:
    return Drawing(
        bundle,
        open_engine(bundle, engine=engine),
        rows=rows,
        key=KEY,
        wished=wished or {},
        wish="the wish",
        mark={"bundle": bundle.digest},
    )


def drawn(*arguments: object, **options: str) -> Table:
    return Table.concat(list(drawing(*arguments, **options)))  # type: ignore[arg-type]


def distance(a: np.ndarray, b: np.ndarray, size: int) -> float:
    p, q = (np.bincount(c, minlength=size) / len(c) for c in (a, b))
    return float(np.abs(p - q).sum() / 2)


def test_the_integer_network_is_as_likely_as_the_float_one(free: Bundle) -> None:
    codes = sample_codes(open_engine(free), 3000, key=KEY)
    ours = -log_probabilities(free.quantised.tensors, free.layout, codes).sum(axis=1)
    theirs = nll(free.weights, free.layout, codes)
    assert abs(float(np.mean(ours - theirs))) < 0.02


@pytest.mark.parametrize("wished", [{1: 1}, {0: 2}, {0: 1, 2: 3}, {2: 6}, {3: 4}])
def test_leading_columns_follow_the_exact_conditional(free: Bundle, wished: dict[int, int]) -> None:
    """The distributions of forced rows and of rejected ones agree, for every column."""
    leading = leading_given(free.quantised.tensors, free.layout, wished)
    assert leading.codes.shape[1] == max(wished) + 1
    everything = sample_codes(open_engine(free), 400_000, key=bytes(32))
    met = np.logical_and.reduce([everything[:, c] == k for c, k in wished.items()])
    rejected = everything[met]
    assert abs(met.mean() - leading.probability) < 5 * np.sqrt(met.mean() / len(met))
    assert len(rejected) > 2000
    made = drawing(free, 40_000, wished)
    table = Table.concat(list(made))
    assert made.acceptance is None  # nothing was rejected
    codes = free.codec.encode(table).codes
    assert len(codes) == 40_000
    for column, size in enumerate(free.layout.cardinalities):
        if column in wished:
            assert set(codes[:, column]) == {wished[column]}
            continue
        noise = np.sqrt(size / 4) * (len(rejected) ** -0.5 + len(codes) ** -0.5)
        assert distance(codes[:, column], rejected[:, column], size) < noise, column


def test_a_wish_too_far_back_is_met_by_rejection_at_a_stated_rate(free: Bundle) -> None:
    column = 6
    everything = sample_codes(open_engine(free), 100_000, key=bytes(32))
    code = int(np.bincount(everything[:, column]).argmax())
    share = float((everything[:, column] == code).mean())
    made = drawing(free, 5000, {column: code, 0: 1})
    table = Table.concat(list(made))
    codes = free.codec.encode(table).codes
    assert set(codes[:, column]) == {code}
    assert set(codes[:, 0]) == {1}
    assert made.acceptance == made.accepted / made.drawn
    only = drawing(free, 5000, {column: code})
    list(only)
    assert only.acceptance is not None
    assert abs(only.acceptance - share) < 0.02


@pytest.mark.parametrize("engine", ["kernel", "onnx", "numpy"])
def test_rows_depend_on_neither_number_nor_engine(engine: str) -> None:
    bundle = shop(PLACES, ADDED, PAID)
    whole = drawn(bundle, 3000, {3: 2})
    part = drawn(bundle, 700, {3: 2}, engine=engine)
    for name in bundle.schema.names:
        np.testing.assert_array_equal(whole.take(slice(0, 700)).columns[name], part.columns[name])


@pytest.mark.parametrize("constraints", [(PLACES,), (ADDED,), (PAID,), (PLACES, ADDED, PAID)])
def test_constraints_hold_in_every_row(constraints: tuple[Constraint, ...]) -> None:
    bundle = shop(*constraints)
    made = drawing(bundle, 20_000)
    table = Table.concat(list(made))
    assert table.rows == 20_000
    for constraint in constraints:
        assert not broken_rows(table, constraint).any()
    assert made.acceptance is not None
    # What is computed, or leads the table, is right by construction; an order has to be met.
    assert (made.acceptance < 1) == (PAID in constraints)
    assert made.acceptance > 0.05
    # The same bundle without constraints breaks them: the test can fail.
    plain = drawn(shop(), 20_000)
    assert all(broken_rows(plain, constraint).mean() > 0.05 for constraint in constraints)


def test_combinations_keep_the_distribution_of_the_allowed() -> None:
    bundle = shop(PLACES)
    codes = bundle.codec.encode(drawn(bundle, 40_000)).codes
    everything = sample_codes(open_engine(bundle), 100_000, key=bytes(32))
    allowed = (everything[:, 0] == 0) | ((everything[:, 0] == 1) & (everything[:, 1] == 1))
    for column, size in enumerate(bundle.layout.cardinalities):
        assert distance(codes[:, column], everything[allowed][:, column], size) < 0.02


def test_a_wish_for_a_computed_column_is_held_against_what_was_computed() -> None:
    bundle = shop(ADDED)
    code = bundle.codec.code_of(5, 700)
    table = drawn(bundle, 500, {5: code})
    assert set(bundle.codec.encode(table).codes[:, 5]) == {code}
    assert not broken_rows(table, ADDED).any()


def test_leading_wishes_respect_combinations_without_rejection() -> None:
    bundle = shop(PLACES)
    made = drawing(bundle, 2000, {1: 0})  # not in a rush: kind can only be a
    table = Table.concat(list(made))
    assert set(table.columns["kind"]) == {"a"}
    assert made.acceptance == 1.0
    with pytest.raises(SamplingError, match=r"no row with the wish can keep .* kind, rush"):
        drawing(bundle, 10, {0: 2})


def test_what_is_too_rare_is_said_with_rate_and_ways_out() -> None:
    with pytest.raises(SamplingError) as caught:
        list(drawing(shop(rare=4), 100_000, {6: 4}))
    said = str(caught.value)
    assert "rows drawn" in said
    assert "meet the wish" in said
    assert "100,000 asked for" in said
    assert "declare the column as a condition" in said
    strict = Order(columns=("paid", "total"), strict=True)
    never = shop(ADDED, PAID, strict)
    with pytest.raises(SamplingError, match=r"keep the schema's constraints.*paid < total.*loosen"):
        list(drawing(never, 100_000))


def test_no_rows_and_negative_rows(free: Bundle) -> None:
    assert drawn(free, 0).rows == 0
    assert drawn(shop(PAID), 0).rows == 0
    with pytest.raises(SamplingError, match="-1"):
        drawing(free, -1)
