"""What the schema rules out is not learnt, however many pooled rows show it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.aggregator.anchor import census_anchor
from edge_runtime.aggregator.config import (
    AggregatorConfig,
    DataSettings,
    FleetSettings,
    PrivacySettings,
    SchemaSettings,
)
from edge_runtime.aggregator.fusion import Outcome, _rows_of_pool, next_generator
from edge_runtime.aggregator.matching import match_pool
from edge_runtime.aggregator.pool import PoolRows
from edge_runtime.errors import AggregatorError
from edge_runtime.generator import open_engine, sample_codes
from edge_runtime.schema import Codec, Column, Combinations, Order, Rules, Schema

from .conftest import Kit
from .test_outcome import CARDINALITIES, count, draw, without_outcome

#: a third of the rows break it: what the devices of this fleet send was checked by nobody
LONG = Order(columns=("hour", "delay"))


def test_rows_that_cannot_keep_the_constraints_are_not_learnt(bound: Callable[..., Kit]) -> None:
    kit = bound(LONG)
    _, bundle = kit.filled(rows=3000)
    outcome = _fuse(kit)
    engine = open_engine(outcome.bundle)
    drawn = sample_codes(engine, 8000, key=b"\3" * 32)
    engine.close()
    rules = Rules(bundle.codec)
    broken = [
        float((~rules.possible(codes)).mean()) for codes in (kit.workspace.pool_rows().codes, drawn)
    ]
    assert broken[0] > 0.2
    # If they were not left out it would be as many as in the pool (.37). By the noise of the counts
    # it was .03 to .18 in 24 runs.
    assert broken[1] < 0.75 * broken[0]
    assert outcome.bundle.metrics["pooled_rows"] == 6000


def test_a_pool_without_a_possible_row_says_why(bound: Callable[..., Kit]) -> None:
    kit = bound(Combinations(columns=("late", "origin"), allowed=((True, "other"),)))
    kit.filled(rows=100)
    with pytest.raises(AggregatorError, match="cannot keep the schema's constraints"):
        _fuse(kit)


def test_new_outcomes_keep_the_constraints(tmp_path: Path) -> None:
    """The outcome is drawn from counts that know of no constraint."""
    outcome = Column(name="y", kind="boolean", condition=True)
    others = [
        Column(name=name, kind="category", values=tuple(f"{name}{k}" for k in range(size)))
        for name, size in zip("abc", CARDINALITIES[1:], strict=True)
    ]
    allowed = tuple((y, c) for y in (False, True) for c in others[2].values if y or c != "c0")
    rule = Combinations(columns=("y", "c"), allowed=allowed)
    schema = Schema(name="parity", columns=(outcome, *others), constraints=(rule,))
    rules = Rules(Codec(schema=schema, bins={}))
    codes = without_outcome(6000, seed=1)
    codes = codes[rules.possible(codes)]
    pool = PoolRows(
        codes=codes,
        device=np.zeros(len(codes), np.int32),
        devices=("a",),
        round=np.ones(len(codes), np.int32),
        lot=np.linspace(0.0, 1.0, len(codes), dtype=np.float32),
    )
    anchor = count(draw(20_000, seed=2, strength=0.6)[0])
    matched = match_pool(pool, {"a": 6000.0}, anchor, raked=True, conditions=(0,))
    assert matched.outcome is not None
    every = np.arange(len(codes))
    assert not rules.possible(matched.take(codes, every, key=bytes(32))).all()
    config = AggregatorConfig(
        fleet=FleetSettings(name="f"),
        data=DataSettings(dir=str(tmp_path)),
        schema=SchemaSettings(path="schema.json"),
        privacy=PrivacySettings(epsilon=8.0),
    )
    rows = _rows_of_pool(pool, {"a": 6000.0}, anchor, (0,), config, rules=rules, seed=1)
    for found in (rows.codes, rows.held_out):
        assert len(found)
        assert rules.possible(found).all()
        # Outcomes are new all the same: they follow the parity that the pool does not know.
        odd = (found[:, 1] + found[:, 2]) % 2 == 1
        assert found[odd, 0].mean() > found[~odd, 0].mean() + 0.3


def _fuse(kit: Kit) -> Outcome:
    workspace = kit.workspace
    bundle = workspace.bundle()
    assert bundle is not None
    anchor = workspace.anchor(bundle)
    return next_generator(
        current=bundle,
        pool=workspace.pool_rows(),
        rows_of=workspace.rows_of_devices(bundle),
        anchor=anchor,
        reference=anchor or census_anchor(bundle.codec, workspace.censuses()),
        round_number=1,
        config=kit.config,
        privacy=workspace.privacy(),
        should_stop=lambda: False,
        on_progress=lambda share: None,
    )
