"""Averages of updates: who counts how much, what the server does with them, what it remembers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.aggregator.config import FusionSettings
from edge_runtime.aggregator.fusion import next_generator
from edge_runtime.aggregator.opening import open_workspace
from edge_runtime.aggregator.strategies import ClientUpdate, Material, find_strategy
from edge_runtime.aggregator.strategies.average import average_updates, server_step
from edge_runtime.aggregator.updates import read_state, write_state
from edge_runtime.errors import AggregatorError, ConfigError
from edge_runtime.generator import Bundle, Layout, Weights, initial_weights
from edge_runtime.messages import Plan
from edge_runtime.reception import Incoming

from .conftest import Kit, make_kit

LAYOUT = Layout(cardinalities=(3, 4), hidden=5)


def constant(value: float, layout: Layout = LAYOUT) -> Weights:
    return layout.unflatten(np.full(layout.parameters, value, np.float32))


def test_devices_weigh_by_their_rows() -> None:
    updates = [ClientUpdate("a", constant(1.0), 300.0), ClientUpdate("b", constant(-1.0), 100.0)]
    np.testing.assert_allclose(average_updates(updates, LAYOUT), 0.5)


def test_fedavg_takes_the_mean_and_fedadam_follows_its_paper() -> None:
    mean = np.array([0.5, -0.2, 0.0], np.float32)
    step, state = server_step(mean, {}, FusionSettings(server="avg", server_learning_rate=0.5))
    np.testing.assert_allclose(step, 0.5 * mean)
    assert state == {}
    # Algorithm 2 of Reddi et al. 2021, two rounds by hand.
    settings = FusionSettings(server="adam", server_learning_rate=0.1)
    m, v = np.zeros(3), np.full(3, 1e-6)
    held: dict[str, np.ndarray] = {}
    for delta in (mean, 2 * mean):
        m, v = 0.9 * m + 0.1 * delta, 0.99 * v + 0.01 * delta**2
        step, held = server_step(delta, held, settings)  # type: ignore[assignment]
        np.testing.assert_allclose(step, 0.1 * m / (np.sqrt(v) + 1e-3), rtol=1e-5)
    assert FusionSettings(server="adam").server_rate == 0.03
    assert FusionSettings(server="avg").server_rate == 1.0


def test_without_updates_there_is_nothing_to_average() -> None:
    material = Material(
        layout=LAYOUT,
        weights=initial_weights(LAYOUT, seed=0),
        codes=np.zeros((50, 2), np.int32),
        row_weights=np.ones(50, np.float32),
        held_out=np.zeros((10, 2), np.int32),
        anchor=None,
        seed=0,
    )

    def fuse(name: str) -> Weights:
        return find_strategy(name).fuse(
            material, FusionSettings(epochs=1), should_stop=lambda: False,
            on_progress=lambda _: None,
        ).weights  # fmt: skip

    with pytest.raises(AggregatorError, match="no device sent an update"):
        fuse("average")
    for a, b in zip(fuse("hybrid"), fuse("pool"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_state_that_is_damaged_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.state"
    write_state(path, {})
    assert not path.exists()
    assert read_state(path) == {}
    path.write_bytes(b"rubbish")
    with pytest.raises(AggregatorError, match="backup"):
        read_state(path)


# --- in the aggregator ---------------------------------------------------------------------------


@pytest.fixture
def averaging(tmp_path: Path) -> Iterator[Kit]:
    (tmp_path / "averaging").mkdir()
    made = make_kit(
        tmp_path / "averaging",
        rounds={"count": 3},
        fusion={"strategy": "average", "server": "adam", "server_learning_rate": 0.05},
    )
    yield made
    made.workspace.close()


def send(kit: Kit, device: str, plan: Plan, bundle: Bundle, value: float) -> str:
    delta = constant(value, bundle.layout)
    payload = kit.devices[device].update(plan, bundle, delta)
    (ack,) = kit.inbox.accept([Incoming(device, "summary", payload)])
    return ack.status


def fill(kit: Kit, plan: Plan, bundle: Bundle) -> None:
    for name, device in kit.devices.items():
        for data in device.batches(plan, bundle, 300, seed=plan.round):
            kit.inbox.accept([Incoming(name, "batch", data)])


def fuse(kit: Kit, bundle: Bundle, number: int) -> Bundle:
    workspace = kit.workspace
    anchor = workspace.anchor(bundle)
    assert anchor is not None
    outcome = next_generator(
        current=bundle,
        pool=workspace.pool_rows(),
        rows_of=workspace.rows_of_devices(bundle),
        anchor=anchor,
        reference=anchor,
        round_number=number,
        config=kit.config,
        privacy=workspace.privacy(),
        should_stop=lambda: False,
        on_progress=lambda _: None,
        updates=workspace.updates(bundle),
        state=workspace.state(bundle),
    )
    workspace.add_bundle(outcome.bundle, status="published", reason="", state=outcome.state)
    kit.planner.close(number, now_unix_s=1000.0 + number, reason="")
    return outcome.bundle


def test_the_planner_asks_for_updates_when_the_strategy_needs_them(
    kit: Kit, averaging: Kit
) -> None:
    assert kit.planner.make_plan(1, "a" * 64).update is None
    asked = averaging.planner.make_plan(1, "a" * 64).update
    assert asked is not None
    assert asked.clip_norm == averaging.config.fusion.update_clip
    assert averaging.planner.make_plan(0, None).update is None


def test_only_updates_of_the_generator_in_force_are_averaged(averaging: Kit) -> None:
    kit = averaging
    first = kit.census_round()
    one = kit.open(1, first)
    fill(kit, one, first)
    for name in kit.devices:
        kit.inbox.accept([Incoming(name, "summary", kit.devices[name].anchor(one, first))])
    assert send(kit, "a", one, first, 0.01) == "accepted"
    assert [u.device for u in kit.workspace.updates(first)] == ["a"]
    second = fuse(kit, first, 1)
    state = kit.workspace.state(second)
    assert set(state) == {"first_moment", "second_moment"}
    assert kit.workspace.state(first) == {}

    # Device b answers the first round only now: kept, acknowledged, and not averaged.
    assert send(kit, "b", one, first, 5.0) == "accepted"
    assert len(kit.workspace.updates(second)) == 0
    two = kit.open(2, second)
    assert send(kit, "a", two, second, 0.02) == "accepted"
    # The same bundle in force for a second round, as when the guard refused a candidate.
    kit.planner.close(2, now_unix_s=1002.0, reason="candidate rejected")
    three = kit.open(3, second)
    assert send(kit, "a", three, second, 0.04) == "accepted"
    assert send(kit, "b", three, second, 0.04) == "accepted"
    updates = list(kit.workspace.updates(second))
    assert [u.device for u in updates] == ["a", "a", "b"]
    # Device a holds three times as many rows, and counts once.
    np.testing.assert_allclose([u.weight for u in updates], [1500, 1500, 1000], rtol=0.01)
    assert [u.device for u in kit.workspace.updates(second)[1:]] == ["a", "b"]

    # What is fused after a restart is what would have been fused without one.
    third = fuse(kit, second, 3)
    reopened = open_workspace(kit.config.data_dir)
    held = reopened.state(third)
    mean = average_updates(reopened.updates(second), second.layout)
    step, expected = server_step(mean, reopened.state(second), kit.config.fusion)
    for name, moment in expected.items():
        np.testing.assert_array_equal(held[name], moment)
    moved = third.layout.flatten(third.weights) - second.layout.flatten(second.weights)
    np.testing.assert_allclose(moved, step, atol=1e-6)
    assert third.metrics["fusion.updates"] == 2.0
    reopened.close()


def test_an_unknown_strategy_ends_the_aggregator_at_its_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="average, hybrid, pool"):
        make_kit(tmp_path, fusion={"strategy": "magic"})
