"""Copies of real rows are replaced, ordinary rows stay; the distance is what the page says."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge_runtime.device.closeness import Distance, replace_close, spacing
from edge_runtime.generator import Bundle
from edge_runtime.schema import Codec, Column, Schema, Table, read_table

CATEGORIES = tuple("abcdef")


def make_table(rows: int, seed: int, *, wide: bool = True) -> Table:
    rng = np.random.default_rng(seed)
    columns = [
        Column(name="kind", kind="category", values=CATEGORIES),
        Column(name="on", kind="boolean", nullable=True),
    ]
    values: dict[str, npt.NDArray[np.generic]] = {
        "kind": rng.choice(np.array(CATEGORIES, object), rows, p=[0.4, 0.2, 0.2, 0.1, 0.05, 0.05]),
        "on": rng.integers(-1, 2, rows).astype(np.int8),
    }
    if wide:
        for d in range(8):
            columns.append(Column(name=f"x{d}", kind="number", low=0.0, high=1.0, nullable=True))
            x = rng.random(rows)
            x[rng.random(rows) < 0.05] = np.nan
            values[f"x{d}"] = x
    return Table(schema=Schema(name="t", columns=tuple(columns)), columns=values)


@pytest.fixture(scope="module")
def codec() -> Codec:
    table = make_table(4000, 1)
    return Codec.fit(table, table.schema)


def codes_of(codec: Codec, rows: int, seed: int) -> npt.NDArray[np.int32]:
    return codec.encode(make_table(rows, seed, wide=len(codec.cardinalities) > 2)).codes


def slow_distance(codec: Codec, a: npt.NDArray[np.int32], b: npt.NDArray[np.int32]) -> float:
    """The definition, one value at a time."""
    total = 0.0
    for x, y, k, column in zip(a, b, codec.cardinalities, codec.schema.columns, strict=True):
        values = k - column.nullable
        if not column.numeric or values in (x, y):
            total += float(x != y)
        else:
            total += abs(int(x) - int(y)) / (values - 1)
    return total


def test_the_distance_is_gowers_on_codes(codec: Codec) -> None:
    rows, real = codes_of(codec, 12, 2), codes_of(codec, 40, 3)
    real[5] = rows[3]
    expected = [min(slow_distance(codec, a, b) for b in real) for a in rows]
    found = Distance(codec).nearest(rows, real)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found[3] == 0
    own = Distance(codec).spacings(np.arange(40), real)
    others = [
        min(slow_distance(codec, a, b) for j, b in enumerate(real) if j != i)
        for i, a in enumerate(real)
    ]
    np.testing.assert_allclose(own, others, rtol=1e-5)
    assert np.isinf(Distance(codec).nearest(rows, real[:0])).all()


def test_copies_are_replaced_and_a_perfect_generator_hardly_notices(codec: Codec) -> None:
    real, fresh = codes_of(codec, 3000, 4), codes_of(codec, 1000, 5)
    limit = spacing(real, Distance(codec))
    assert limit > 0
    perfect = replace_close(fresh, real=real, codec=codec, redraw=lambda at: fresh[at])
    # Fresh rows of the same distribution fall below the quantile as often as real ones do.
    assert 0.002 < perfect.close / 1000 < 0.03

    copied = fresh.copy()
    copied[::4] = real[:250]
    spare = itertools.count(100)
    asked: list[npt.NDArray[np.intp]] = []

    def redraw(at: npt.NDArray[np.intp]) -> npt.NDArray[np.int32]:
        asked.append(at)
        return codes_of(codec, len(at), next(spare))

    made = replace_close(copied, real=real, codec=codec, redraw=redraw)
    assert set(range(0, 1000, 4)) <= set(asked[0].tolist())
    assert 250 < made.close < 330
    assert made.left_out == 0
    assert made.codes.shape == copied.shape
    assert made.codes.dtype == np.int32
    assert Distance(codec).nearest(made.codes, real).min() >= limit
    kept = np.setdiff1d(np.arange(1000), asked[0])
    np.testing.assert_array_equal(made.codes[kept], copied[kept])  # the others stay in place


def test_a_generator_that_only_copies_ends(codec: Codec) -> None:
    real = codes_of(codec, 500, 6)
    calls: list[int] = []

    def redraw(at: npt.NDArray[np.intp]) -> npt.NDArray[np.int32]:
        calls.append(len(at))
        return real[at]

    made = replace_close(real[:100], real=real, codec=codec, redraw=redraw)
    assert (len(made.codes), made.close, made.left_out) == (0, 100, 100)
    assert calls == [100] * 8


def test_equal_rows_are_ordinary_in_a_table_of_few_distinct_rows() -> None:
    table = make_table(2000, 7, wide=False)
    codec = Codec.fit(table, table.schema)
    real = codec.encode(table).codes
    assert spacing(real, Distance(codec)) == 0.0
    fresh = codes_of(codec, 300, 8)

    def never(at: npt.NDArray[np.intp]) -> npt.NDArray[np.int32]:
        raise AssertionError(f"{len(at)} rows were dropped")

    for rows in (real, real[:1], real[:0]):
        made = replace_close(fresh, real=rows, codec=codec, redraw=never)
        assert (made.close, made.left_out) == (0, 0)
        np.testing.assert_array_equal(made.codes, fresh)


@pytest.mark.parametrize("private", [True, False])
def test_only_without_privacy_does_a_device_look_for_copies(  # noqa: PLR0917 - fixtures
    private: bool,
    open_shop: Callable[..., Any],
    kit: SimpleNamespace,
    device: Any,
    schema: Schema,
    bundle: Bundle,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # No two rows have the same codes, so that real rows lie apart from each other.
    lines = kit.make_rows(4000, seed=3)
    codes = bundle.codec.encode(read_table(kit.write_csv(device.source, lines), schema)).codes
    first = np.sort(np.unique(codes, axis=0, return_index=True)[1])[:400]
    kit.write_csv(device.source, [lines[i] for i in first])
    real = codes[first]
    assert spacing(real, Distance(bundle.codec)) > 0

    epsilon = 8.0 if private else None
    caplog.set_level(logging.INFO)
    shop = open_shop(epsilon="8.0" if private else '"none"')
    shop.settled(shop.give(kit.census_plan(schema, epsilon=2.0 if private else None)))
    plan = shop.give(kit.train_plan(bundle, epsilon=epsilon))
    assert shop.settled(plan).status == "done"
    made = np.concatenate([codes for _, codes in shop.batches()])
    assert abs(len(made) - 3 * len(real)) < 3 * 60
    near = Distance(bundle.codec).nearest(made, real)
    if private:
        # Rows equal to real ones are as frequent as chance makes them; that they all were missing
        # would tell which are real.
        assert (near == 0).mean() > 0.02
        assert "drawn again" not in caplog.text
        return
    assert near.min() >= spacing(real, Distance(bundle.codec))
    assert "WITHOUT PRIVACY: " in caplog.text
    found = re.search(r"(\d+) of (\d+) .* drawn again, (\d+) of them in vain", caplog.text)
    assert found is not None
    close, asked, in_vain = map(int, found.groups())
    assert (asked - in_vain, 0 < close < asked, in_vain <= 5) == (len(made), True, True)
    # What was drawn again kept its condition.
    assert np.mean(made[:, 0] == 1) == pytest.approx(np.mean(real[:, 0] == 1), abs=0.01)
    offsets = [header.extra["offset"] for header, _ in shop.batches()]
    assert offsets == [4096 * part for part in range(len(offsets))]
