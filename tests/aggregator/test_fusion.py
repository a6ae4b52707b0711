"""The candidate learns what the pool holds, is judged by the anchor, and says what it is."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.aggregator.anchor import Anchor, Table, census_anchor
from edge_runtime.aggregator.config import FusionSettings, GuardSettings
from edge_runtime.aggregator.fusion import (
    Outcome,
    first_generator,
    next_generator,
)
from edge_runtime.aggregator.guard import judge
from edge_runtime.aggregator.matching import match_pool
from edge_runtime.aggregator.strategies import STRATEGIES, Material, find_strategy
from edge_runtime.aggregator.strategies.pool import affordable_steps
from edge_runtime.aggregator.summaries import read_anchors
from edge_runtime.errors import AggregatorError, ConfigError
from edge_runtime.generator import Bundle, open_engine, sample_codes
from edge_runtime.reception import Incoming
from edge_runtime.training import make_step

from .conftest import Kit, make_kit


def _fuse(kit: Kit, bundle: Bundle, *, seconds: float = 30.0) -> Outcome:
    workspace = kit.workspace
    anchor = workspace.anchor(bundle)
    ends = time.monotonic() + seconds
    shown: list[float] = []
    outcome = next_generator(
        current=bundle,
        pool=workspace.pool_rows(),
        rows_of=workspace.rows_of_devices(bundle),
        anchor=anchor,
        reference=anchor or census_anchor(bundle.codec, workspace.censuses()),
        round_number=1,
        config=kit.config,
        privacy=workspace.privacy(),
        should_stop=lambda: time.monotonic() > ends,
        on_progress=shown.append,
    )
    assert shown == sorted(shown)
    assert not shown or 0 < shown[0] <= shown[-1] <= 1
    return outcome


def _late_by_hour(codes: np.ndarray) -> float:
    """How much later the last hours are than the first: what no single column shows."""
    late, hour = codes[:, 0] == 1, codes[:, 1]
    middle = np.median(hour)
    return float(late[hour > middle].mean() - late[hour <= middle].mean())


def test_the_first_generator_has_the_fleets_columns_and_nothing_else(kit: Kit) -> None:
    bundle = kit.census_round()
    assert (bundle.lineage.depth, bundle.lineage.round, bundle.lineage.devices) == (0, 0, 2)
    assert round(bundle.lineage.rows) == 4000  # the fixture's counts are exact
    engine = open_engine(bundle)
    codes = sample_codes(engine, 8000, key=b"\1" * 32)
    engine.close()
    reference = census_anchor(bundle.codec, kit.workspace.censuses())
    for table in reference.tables.values():
        assert table.total_variation(codes) < 0.1
    assert abs(_late_by_hour(codes)) < 0.08


def test_no_census_is_an_error_with_a_way_out(kit: Kit) -> None:
    with pytest.raises(AggregatorError, match="census"):
        first_generator(
            {}, schema=kit.workspace.schema, config=kit.config, privacy=kit.workspace.privacy()
        )


def test_fusion_learns_the_pool_and_tells_where_it_comes_from(kit: Kit) -> None:
    _, bundle = kit.filled(rows=3000)
    outcome = _fuse(kit, bundle)
    assert outcome.verdict.accepted, outcome.verdict.reason
    fused = outcome.bundle
    engine = open_engine(fused)
    codes = sample_codes(engine, 8000, key=b"\2" * 32)
    engine.close()
    pool = kit.workspace.pool_rows().codes
    assert _late_by_hour(pool) > 0.15
    assert abs(_late_by_hour(codes) - _late_by_hour(pool)) < 0.08
    # Device a holds three quarters of the rows although both sent equally many.
    origin = [int(fused.codec.code_of(2, name)) for name in ("EWR", "JFK")]
    shares = np.bincount(codes[:, 2], minlength=5)[origin] / len(codes)
    np.testing.assert_allclose(shares, [0.75, 0.25], atol=0.06)

    lineage = fused.lineage
    assert (lineage.parent, lineage.depth, lineage.round) == (bundle.digest, 1, 1)
    assert lineage.devices == 2
    assert round(lineage.rows) == 4000
    assert lineage.privacy["epsilon"] == 0.1
    figures = fused.metrics
    assert figures["validation_nll"] < figures["validation_nll.before"]
    assert figures["pooled_rows"] == 6000
    assert {f"total_variation.{n}" for n in fused.schema.names} < set(figures)
    # The figures are measured on what is shipped: recomputed here they agree.
    anchor = kit.workspace.anchor(bundle)
    assert anchor is not None
    for column, name in enumerate(fused.schema.names):
        table = anchor.one_way(column)
        assert table is not None
        again = table.total_variation(codes)
        assert abs(again - figures[f"total_variation.{name}"]) < 0.04
    assert "Epsilon 0.1" in fused.card


def test_without_privacy_the_bundle_says_so(tmp_path: Path) -> None:
    kit = make_kit(tmp_path, privacy={"epsilon": "none"})
    bundle = kit.census_round()
    assert bundle.lineage.privacy["epsilon"] is None
    assert "WITHOUT PRIVACY" in bundle.card


def test_a_collapsed_pool_is_rejected_by_the_anchor(tmp_path: Path) -> None:
    # Without its first line of defence, which sets such batches aside.
    kit = make_kit(tmp_path, guard={"batches": False})
    bundle = kit.census_round()
    plan = kit.open(1, bundle)
    for device in kit.devices.values():
        # Every row alike: what collapse looks like.
        codes = np.tile(bundle.codec.encode(device.table.take(np.array([0]))).codes, (1500, 1))
        kit.inbox.accept(
            [
                Incoming(device.name, "batch", device.batch(plan, bundle, codes)),
                Incoming(device.name, "summary", device.anchor(plan, bundle)),
            ]
        )
    outcome = _fuse(kit, bundle)
    assert not outcome.verdict.accepted
    assert "hour is " in outcome.verdict.reason
    assert outcome.verdict.total_variation["hour"] > outcome.verdict.allowed["hour"]


def test_time_is_bounded(kit: Kit) -> None:
    _, bundle = kit.filled(rows=4000)
    began = time.monotonic()
    _fuse(kit, bundle, seconds=0.0)
    assert time.monotonic() - began < 20


def test_too_few_rows_are_an_error(kit: Kit) -> None:
    bundle = kit.census_round()
    with pytest.raises(AggregatorError, match="too few"):
        _fuse(kit, bundle)


def test_the_pool_is_thinned_to_its_bound(tmp_path: Path) -> None:
    kit = make_kit(tmp_path, fusion={"max_rows": 300, "epochs": 1}, rounds={"anchor_share": 0.0})
    _, bundle = kit.filled(rows=500)
    assert _fuse(kit, bundle).bundle.metrics["pooled_rows"] == 1000


def test_raking_brings_the_pool_to_the_anchor(kit: Kit) -> None:
    bundle = kit.census_round()
    plan = kit.open(1, bundle)
    rng = np.random.default_rng(0)
    for device in kit.devices.values():
        codes = bundle.codec.encode(device.table).codes.copy()
        # The device has smoothed away that lateness follows the hour.
        codes[:, 0] = rng.permutation(codes[:, 0])
        kit.inbox.accept(
            [
                Incoming(device.name, "batch", device.batch(plan, bundle, codes)),
                Incoming(device.name, "summary", device.anchor(plan, bundle)),
            ]
        )
    pool = kit.workspace.pool_rows()
    rows_of = kit.workspace.rows_of_devices(bundle)
    anchor = kit.workspace.anchor(bundle)
    lost, kept = (
        match_pool(pool, rows_of, anchor, raked=raked, conditions=bundle.schema.conditions)
        for raked in (False, True)
    )
    # Without tables of three columns rows keep the outcomes that they were sent with.
    assert lost.outcome is None
    assert kept.outcome is None
    late, hour = pool.codes[:, 0] == 1, pool.codes[:, 1]
    gap = [
        np.average(late[hour > 8], weights=w[hour > 8])
        - np.average(late[hour <= 8], weights=w[hour <= 8])
        for w in (lost.weights, kept.weights)
    ]
    assert abs(gap[0]) < 0.05
    assert gap[1] > 0.15


def test_a_late_devices_rows_come_from_its_anchor(kit: Kit) -> None:
    plan, bundle = kit.filled()
    late = kit.devices["a"]
    late.name = "c"
    kit.inbox.accept([Incoming("c", "summary", late.anchor(plan, bundle))])
    rows = kit.workspace.rows_of_devices(bundle)
    assert {d: round(n) for d, n in rows.items()} == {"a": 3000, "b": 1000, "c": 3000}


def test_a_damaged_summary_is_reported(kit: Kit) -> None:
    _, bundle = kit.filled()
    record = kit.workspace.catalogue.messages(kind="anchor")[0]
    (kit.config.data_dir / record.path).write_bytes(b"damaged")
    with pytest.raises(AggregatorError, match="restore"):
        read_anchors(kit.config.data_dir, [record], bundle.codec.cardinalities)


def _judge(candidate: float, current: float, **changes: float):
    """Columns of two codes, of which the first has these shares; the anchor has one half."""
    rows = 10_000

    def draw(share: float) -> np.ndarray:
        return (np.arange(rows) >= share * rows).astype(np.int32)[:, None]

    anchor = Anchor({(0,): Table((0,), np.array([5e5, 5e5]), 0.0)}, 3)
    return judge(
        candidate=draw(candidate),
        current=draw(current),
        anchor=anchor,
        names=["x"],
        settings=GuardSettings(),
        nll=changes.get("nll", 1.0),
        current_nll=1.0,
    )


def test_the_guard_allows_a_limit_and_never_much_worse_than_before() -> None:
    assert _judge(0.5, 0.5).accepted
    assert _judge(0.59, 0.5).accepted
    verdict = _judge(0.65, 0.5)
    assert not verdict.accepted
    assert verdict.pairs is None
    assert abs(verdict.total_variation["x"] - 0.15) < 1e-9
    # A published generator that is already far off may be followed by one a little worse only.
    assert _judge(0.74, 0.7).accepted
    assert not _judge(0.79, 0.7).accepted
    assert not _judge(0.5, 0.5, nll=1.2).accepted
    assert "finite" in _judge(0.5, 0.5, nll=math.nan).reason


def test_the_anchors_noise_widens_what_is_allowed() -> None:
    exact = Table((0,), np.array([5e3, 5e3]), 0.0)
    noisy = Table((0,), np.array([5e3, 5e3]), 1000.0**2)
    assert noisy.error > exact.error + 0.05


def test_strategies_are_found_by_name() -> None:
    for name in STRATEGIES:
        assert find_strategy(name).name == name
    with pytest.raises(ConfigError, match="pool"):
        find_strategy("magic")


def test_steps_are_chosen_to_fit_the_time(kit: Kit) -> None:
    bundle = kit.census_round()
    codes = np.tile(bundle.codec.encode(kit.devices["a"].table).codes, (40, 1))
    material = Material(
        layout=bundle.layout,
        weights=bundle.weights,
        codes=codes,
        row_weights=np.ones(len(codes), np.float32),
        held_out=codes[:100],
        anchor=None,
        seed=0,
    )
    step = make_step(bundle.layout)

    def steps(seconds: float, epochs: int) -> int:
        settings = FusionSettings(batch=512, epochs=epochs, max_seconds=seconds)
        return affordable_steps(material, settings, step)

    assert steps(1e6, 2) == 2 * -(-len(codes) // 512)
    assert 1 < steps(2.0, 10_000) < 10_000 * 235
    assert steps(1e-9, 5) == 1


def test_training_keeps_to_its_seconds_with_a_finished_schedule(tmp_path: Path) -> None:
    kit = make_kit(tmp_path, fusion={"epochs": 100_000, "patience": 100_000, "max_seconds": 1.5})
    _, bundle = kit.filled(rows=2000)
    began = time.monotonic()
    outcome = _fuse(kit, bundle, seconds=60.0)
    assert time.monotonic() - began < 15
    assert outcome.bundle.metrics["fusion.steps"] > 10
    assert outcome.verdict.nll < outcome.verdict.current_nll
