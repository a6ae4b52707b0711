"""Rounds open, wait, end and go on after a restart as the catalogue says."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edge_runtime.aggregator.budget import rho_of
from edge_runtime.aggregator.config import load_config
from edge_runtime.aggregator.opening import create_workspace
from edge_runtime.aggregator.planner import Planner, Step
from edge_runtime.messages import DeviceState, decode_plan, encode_plan
from edge_runtime.reception import Incoming
from edge_runtime.schema import Column, Schema, Sequence, census_cells, census_schema

from .conftest import Kit, make_kit, write_config


def _state(device: str, status: str, plan_id: str = "", outbox: int = 0) -> DeviceState:
    return DeviceState(device=device, status=status, plan_id=plan_id, outbox=outbox)


def _step(kit: Kit, now: float, *states: DeviceState, bundle: str | None = None) -> Step:
    return kit.planner.step(
        now_unix_s=now, states={s.device: s for s in states}, bundle_digest=bundle
    )


ONLINE = (_state("a", "online"), _state("b", "online"))


def test_it_waits_for_a_quorum_then_asks_for_the_census(kit: Kit) -> None:
    step = _step(kit, 0.0, _state("a", "online"), _state("b", "offline"))
    assert (step.action, step.phase, step.reason) == ("wait", "waiting", "1 of 2 devices online")
    step = _step(kit, 1.0, *ONLINE)
    assert (step.action, step.phase) == ("open", "census")
    plan = step.plan
    assert plan is not None
    assert (plan.kind, plan.round, plan.train, plan.anchor) == ("census", 0, None, None)
    assert plan.census_sigma == kit.planner.schedule.census_sigma
    assert plan.epsilon_after == kit.planner.schedule.epsilon_after[0]
    # The plan is durable before it is published.
    assert kit.planner.current_plan == plan


def test_a_training_plan_asks_for_what_the_configuration_says(kit: Kit) -> None:
    plan = kit.planner.make_plan(2, "a" * 64)
    assert plan.epsilon_after == 8.0
    assert plan.train is not None
    assert plan.train.steps == kit.config.train.steps
    assert plan.rows is not None
    assert plan.rows.maximum == 4000
    assert plan.anchor is not None
    # The one condition column with each of the three others: all columns are covered.
    assert plan.anchor.tables == ((0, 1), (0, 2), (0, 3))


def test_windows_are_counted_from_step_to_step(tmp_path: Path) -> None:
    schema = Schema(
        name="series",
        columns=(
            Column(name="state", kind="boolean", condition=True),
            Column(name="at", kind="number", low=0, high=1e6),
            Column(name="x", kind="number", low=0, high=9),
            Column(name="y", kind="boolean"),
        ),
        sequence=Sequence(lags=2, order="at", every=1.0, static=("state",)),
    )
    config = load_config(write_config(tmp_path, schema))
    workspace = create_workspace(config)
    assert workspace.declared == schema
    planner = Planner(config=config, schema=workspace.schema, catalogue=workspace.catalogue)
    plan = planner.make_plan(1, "a" * 64)
    workspace.close()
    assert plan.schema_digest == schema.learnt.digest
    assert plan.anchor is not None
    # state, x@0, y@0, x@1, y@1, x@2, y@2
    assert plan.anchor.tables == ((0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6))
    # Three histograms of the columns of a step and one of x in joined cells; all three steps of a
    # window may fall into one cell of each.
    spent = len(census_cells(census_schema(schema.learnt))) * 3**2
    assert spent == 4 * 9
    whole = rho_of(8.0, 1e-5) * config.rounds.census_share
    assert planner.schedule.census_sigma == pytest.approx((spent / (2 * whole)) ** 0.5)


def test_pairs_and_the_anchor_can_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    kit = make_kit(tmp_path / "x", rounds={"pairs": "none"})
    plan = kit.planner.make_plan(1, "a" * 64)
    assert plan.anchor is not None
    assert plan.anchor.tables == ((0,), (1,), (2,), (3,))
    kit = make_kit(tmp_path / "y", rounds={"anchor_share": 0.0})
    assert kit.planner.make_plan(1, "a" * 64).anchor is None


def test_a_round_ends_when_everybody_has_answered(kit: Kit) -> None:
    plan = _step(kit, 1.0, *ONLINE).plan
    assert plan is not None
    a, b = kit.devices.values()
    kit.inbox.accept([Incoming("a", "summary", a.census(plan))])
    step = _step(kit, 2.0, *ONLINE)
    assert (step.action, step.reason) == ("wait", "1 of 2 devices answered")
    assert step.progress == 0.5
    kit.inbox.accept([Incoming("b", "summary", b.census(plan))])
    step = _step(kit, 3.0, *ONLINE)
    assert (step.action, step.phase, step.number) == ("fuse", "fusing", 0)
    # A restart while fusing fuses again.
    again = Planner(
        config=kit.config, schema=kit.workspace.schema, catalogue=kit.workspace.catalogue
    )
    step = again.step(now_unix_s=4.0, states={}, bundle_digest=None)
    assert (step.action, step.reason) == ("fuse", "2 of 2 devices answered")


def test_a_clock_put_back_over_a_restart_delays_a_deadline_once(kit: Kit) -> None:
    deadline_s = kit.config.rounds.deadline_s
    plan = _step(kit, 1e9, *ONLINE).plan
    assert plan is not None
    for device in kit.devices.values():
        kit.inbox.accept([Incoming(device.name, "summary", device.census(plan))])
    config = msgspec.structs.replace(
        kit.config, fleet=msgspec.structs.replace(kit.config.fleet, devices=3)
    )
    again = Planner(config=config, schema=kit.workspace.schema, catalogue=kit.workspace.catalogue)

    def action(now_unix_s: float) -> str:
        return again.step(now_unix_s=now_unix_s, states={}, bundle_digest=None).action

    assert action(1000.0) == "wait"
    assert action(999.0 + deadline_s) == "wait"
    assert action(1000.0 + deadline_s) == "fuse"


def test_all_parts_and_the_anchor_make_an_answer(kit: Kit) -> None:
    bundle = kit.census_round()
    plan = _step(kit, 1.0, *ONLINE, bundle=bundle.digest).plan
    assert plan is not None
    assert plan.bundle_digest == bundle.digest
    a, b = kit.devices.values()
    for device in (a, b):
        messages = device.batches(plan, bundle, 20, parts=3)
        for data in messages[:2]:
            kit.inbox.accept([Incoming(device.name, "batch", data)])
        assert _step(kit, 2.0).action == "wait"
        kit.inbox.accept([Incoming(device.name, "batch", messages[2])])
        assert _step(kit, 2.0).action == "wait"
        kit.inbox.accept([Incoming(device.name, "summary", device.anchor(plan, bundle))])
    assert _step(kit, 3.0).action == "fuse"


def test_a_device_may_say_that_it_has_done_or_declined(kit: Kit) -> None:
    plan = _step(kit, 1.0, *ONLINE).plan
    assert plan is not None
    # Still something to send, an answer to another plan, or gone: not an answer.
    for state in (
        _state("a", "idle", plan.id, outbox=1),
        _state("a", "idle", "f" * 32),
        _state("a", "offline", plan.id),
    ):
        assert _step(kit, 2.0, state).progress == 0.0
    kit.inbox.accept([Incoming("b", "summary", kit.devices["b"].census(plan))])
    step = _step(kit, 2.0, _state("a", "declined", plan.id))
    assert (step.action, step.progress) == ("wait", 0.5)
    assert "1 declined (a)" in step.reason
    assert "the quorum is 2" in step.reason
    step = _step(kit, 2.0, _state("a", "idle", plan.id))
    assert step.action == "fuse"


def test_the_deadline_needs_a_quorum(tmp_path: Path) -> None:
    kit = make_kit(tmp_path, fleet={"devices": 3}, rounds={"deadline_s": 60.0})
    plan = _step(kit, 100.0, *ONLINE).plan
    assert plan is not None
    first, second = _state("a", "idle", plan.id), _state("b", "idle", plan.id)
    step = _step(kit, 200.0, first)
    assert step.action == "wait"
    assert "waiting on" in step.reason
    assert _step(kit, 159.0, first, second).action == "wait"
    step = _step(kit, 161.0, first, second)
    assert step.action == "fuse"
    assert "by the deadline after 61 s" in step.reason


def test_an_unknown_fleet_size_waits_for_the_deadline(tmp_path: Path) -> None:
    kit = make_kit(tmp_path, fleet={"devices": 0}, rounds={"quorum": 1, "deadline_s": 60.0})
    plan = _step(kit, 100.0, *ONLINE).plan
    assert plan is not None
    states = (_state("a", "idle", plan.id), _state("b", "idle", plan.id))
    assert _step(kit, 159.0, *states).reason == "2 of ? devices answered"
    assert _step(kit, 160.0, *states).action == "fuse"


def test_after_the_last_round_everything_is_done(kit: Kit) -> None:
    bundle = kit.census_round()
    for number in (1, 2):
        step = _step(kit, float(number), bundle=bundle.digest)
        assert (step.action, step.number) == ("open", number)
        kit.planner.close(number, now_unix_s=number + 0.5, reason="tested")
    step = _step(kit, 9.0, bundle=bundle.digest)
    assert (step.action, step.phase, step.progress) == ("done", "done", 1.0)
    assert [r.status for r in kit.workspace.catalogue.rounds()] == ["closed"] * 3


def test_without_privacy_the_plans_say_so(tmp_path: Path) -> None:
    kit = make_kit(tmp_path, privacy={"epsilon": "none"})
    assert kit.planner.make_plan(0, None).epsilon_after is None
    assert kit.planner.make_plan(1, "a" * 64).epsilon_after is None


@pytest.mark.parametrize("number", [0, 1, 2])
def test_every_plan_of_the_schedule_is_a_valid_message(kit: Kit, number: int) -> None:
    plan = kit.planner.make_plan(number, "a" * 64)
    assert decode_plan(encode_plan(plan)) == plan
