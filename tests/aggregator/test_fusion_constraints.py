"""What the schema rules out is not learnt, however many pooled rows show it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edge_runtime.aggregator.anchor import census_anchor
from edge_runtime.aggregator.fusion import Outcome, next_generator
from edge_runtime.errors import AggregatorError
from edge_runtime.generator import open_engine, sample_codes
from edge_runtime.schema import Combinations, Order, Rules

from .conftest import Kit

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
    assert broken[1] < 0.4 * broken[0]
    assert outcome.bundle.metrics["pooled_rows"] == 6000


def test_a_pool_without_a_possible_row_says_why(bound: Callable[..., Kit]) -> None:
    kit = bound(Combinations(columns=("late", "origin"), allowed=((True, "other"),)))
    kit.filled(rows=100)
    with pytest.raises(AggregatorError, match="cannot keep the schema's constraints"):
        _fuse(kit)


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
