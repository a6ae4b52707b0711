"""A device's synthetic rows can keep the constraints; of its real rows nothing is told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_runtime.device.rows import Redraw
from edge_runtime.device.schemas import offer_schema
from edge_runtime.generator import Bundle, build_bundle, open_engine, sample_codes
from edge_runtime.schema import Codec, Combinations, Rules, Schema
from tests.device.shop import Shop
from tests.device.test_sample import foreign, sample_plan

#: late flights never leave from LGA
NEVER = (True, "LGA")
PLACES = Combinations(
    columns=("late", "origin"),
    allowed=tuple(
        (late, origin)
        for late in (True, False)
        for origin in ("EWR", "JFK", "LGA", "other")
        if (late, origin) != NEVER
    ),
)


@pytest.fixture
def bound(bundle: Bundle) -> Bundle:
    """The untrained bundle, of a schema with a constraint that it knows nothing of."""
    schema = msgspec.structs.replace(bundle.schema, constraints=(PLACES,))
    codec = Codec(schema=schema, bins=bundle.codec.bins)
    return build_bundle(schema, codec, bundle.layout, bundle.weights, lineage=bundle.lineage)


@pytest.fixture
def open_bound(
    device: Any, kit: SimpleNamespace, bound: Bundle
) -> Iterator[Callable[..., tuple[Shop, Schema]]]:
    shops: list[Shop] = []

    def make(*, rows: list[list[str]]) -> tuple[Shop, Schema]:
        kit.write_csv(device.source, rows)
        shop = Shop(device, kit, bound)
        shops.append(shop)
        offer_schema(shop.store, bound.schema.to_json())
        shop.bundles.put(bound.digest, bound.to_bytes())
        return shop, bound.schema

    yield make
    for shop in shops:
        shop.end()


def unbroken(kit: SimpleNamespace) -> list[list[str]]:
    return [row for row in kit.make_rows(kit.ROWS) if not (row[0] == "true" and row[2] == "LGA")]


def test_rows_that_cannot_keep_the_constraints_are_drawn_again(
    open_bound: Callable[..., tuple[Shop, Schema]], kit: SimpleNamespace, bound: Bundle
) -> None:
    shop, schema = open_bound(rows=unbroken(kit))
    shop.settled(shop.give(kit.census_plan(schema, epsilon=1.0)))
    plan = shop.give(kit.train_plan(bound, epsilon=6.0))
    assert shop.settled(plan).status == "done"
    batches = shop.batches()
    codes = np.concatenate([codes for _, codes in batches])
    assert Rules(bound.codec).possible(codes).all()
    (drawn,) = {header.extra["drawn"] for header, _ in batches}
    # Each of its own noisy counts' conditions is kept: what was drawn again had the same one.
    assert len(codes) < drawn < 2 * len(codes)
    assert 0.15 < np.mean(codes[:, 0] == 1) < 0.45


def test_rows_of_a_packed_graph_keep_the_constraints_too(
    open_bound: Callable[..., tuple[Shop, Schema]], kit: SimpleNamespace, bound: Bundle
) -> None:
    shop, _ = open_bound(rows=unbroken(kit))
    packed = foreign(bound.codec)
    shop.bundles.put(packed.digest, packed.to_bytes())
    plan = sample_plan(shop, packed)
    assert shop.settled(plan).status == "done"
    batches = shop.batches()
    codes = np.concatenate([codes for _, codes in batches])
    assert len(codes) == 5000
    assert Rules(packed.codec).possible(codes).all()
    (drawn,) = {header.extra["drawn"] for header, _ in batches}
    assert 5000 < drawn < 10_000
    assert shop.entries() == []


def test_real_rows_that_break_a_constraint_are_rows_like_others_and_nothing_tells_of_them(
    open_bound: Callable[..., tuple[Shop, Schema]],
    kit: SimpleNamespace,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    rows = kit.make_rows(kit.ROWS)
    broken = len(rows) - len(unbroken(kit))
    shop, schema = open_bound(rows=rows)
    plan = shop.give(kit.census_plan(schema, epsilon=4.0))
    assert shop.settled(plan).status == "done"
    _, tensors = shop.summaries()["census"]
    late = next(cells for cells in tensors.values() if len(cells) == 2)
    # None is left out: without those that break it, there were clearly fewer.
    assert abs(late.sum() - len(rows)) < broken / 3
    assert len(shop.entries()) == 1
    assert "constraint" not in caplog.text + shop.reporter.state.reason


def test_redrawing_keeps_conditions_never_repeats_and_ends(bound: Bundle) -> None:
    engine = open_engine(bound)
    rules = Rules(bound.codec)
    clamp = {0: np.ones(500, np.int32)}
    key = bytes(32)
    redraw = Redraw(engine, rules, key=key, clamp=clamp, offset=500)
    everyone = np.arange(500)
    codes = sample_codes(engine, 500, key=key, clamp=clamp)
    before = codes.copy()
    fine = rules.possible(before)
    assert 0 < fine.sum() < 500
    made = redraw.made_possible(codes, everyone)
    assert rules.possible(made).all()
    assert (made[:, 0] == 1).all()
    np.testing.assert_array_equal(made[fine], before[fine])
    drawn = redraw.drawn
    again = redraw(everyone)
    assert rules.possible(again).all()
    assert redraw.drawn >= drawn + 500
    assert (again != made).any(axis=1).mean() > 0.9

    # A condition that no row can have ends all the same.
    schema = msgspec.structs.replace(
        bound.schema,
        constraints=(
            Combinations(columns=("late", "origin"), allowed=((False, "EWR"), (False, "JFK"))),
        ),
    )
    never = Rules(Codec(schema=schema, bins=bound.codec.bins))
    stuck = Redraw(engine, never, key=key, clamp=clamp, offset=500)
    assert not never.possible(stuck.made_possible(made[:20], everyone[:20])).any()
    assert stuck.drawn == 20 * 32
