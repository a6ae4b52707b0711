"""A plan goes to a part of the fleet first, widens by itself and stops by itself."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import msgspec
import pytest

from edge_runtime.aggregator.config import load_config
from edge_runtime.aggregator.planner import Planner, Step
from edge_runtime.aggregator.rollout import decide
from edge_runtime.aggregator.showing import rollout_of
from edge_runtime.errors import ConfigError
from edge_runtime.messages import DeviceState, Plan, in_rollout
from edge_runtime.schema import Schema

from .conftest import Kit, make_kit, write_config

DEVICES = [f"board-{number}" for number in range(200)]
STAGES = {"rollout": [0.1, 0.5, 1.0], "quorum": 150}


@pytest.fixture
def staged(tmp_path: Path) -> Kit:
    return make_kit(tmp_path, rounds=STAGES, fleet={"devices": len(DEVICES)})


def look(
    kit: Kit, plan: Plan, *, idle: Collection[str] = (), declined: Collection[str] = (),
    now_unix_s: float = 2.0, planner: Planner | None = None,
) -> Step:  # fmt: skip
    states = {}
    for device in DEVICES:
        status = "idle" if device in idle else "declined" if device in declined else "online"
        states[device] = DeviceState(
            device=device, status=status,  # type: ignore[arg-type]
            plan_id=plan.id if status != "online" else "",
        )  # fmt: skip
    planner = planner or kit.planner
    return planner.step(now_unix_s=now_unix_s, states=states, bundle_digest="a" * 64)


def first_round(kit: Kit) -> Plan:
    """Open round 1 without a census: it is the stages that are looked at."""
    step = kit.planner._open(1, 1.0, "a" * 64)
    assert step.plan is not None
    return step.plan


def cohort(plan: Plan) -> set[str]:
    return {device for device in DEVICES if in_rollout(plan, device)}


def test_shares_are_nested_differ_from_plan_to_plan_and_are_kept(staged: Kit) -> None:
    plan = first_round(staged)
    assert plan.rollout == 0.1
    sizes = []
    before: set[str] = set()
    for share in (0.1, 0.25, 0.5, 1.0):
        now = cohort(msgspec.structs.replace(plan, rollout=share))
        assert before <= now
        before = now
        sizes.append(len(now))
    assert sizes[-1] == len(DEVICES)
    assert 3 <= sizes[0] <= 45
    assert 62 <= sizes[2] <= 138
    another = msgspec.structs.replace(plan, id="0" * 32)
    assert cohort(another) != cohort(plan)


def test_it_widens_as_the_first_ones_report_success(staged: Kit) -> None:
    plan = first_round(staged)
    first = sorted(cohort(plan))
    step = look(staged, plan, idle=set(first[: len(first) // 2 - 1]))
    assert (step.action, step.reason.startswith("plan for 0.1 of the fleet; ")) == ("wait", True)
    step = look(staged, plan, idle=set(first))
    assert (step.action, step.plan and step.plan.rollout) == ("open", 0.5)
    assert step.plan == staged.planner.current_plan
    assert step.plan.id == plan.id
    half = cohort(step.plan)
    step = look(staged, plan, idle=half)
    assert step.plan is not None
    assert step.plan.rollout == 1.0
    assert rollout_of(staged.workspace.catalogue) == {"rollout": 1.0, "rollout_stopped": False}


def test_it_stops_as_the_first_ones_report_failure_and_stays_stopped(staged: Kit) -> None:
    plan = first_round(staged)
    first = cohort(plan)
    bad = set(sorted(first)[: len(first) // 10 + 1])
    step = look(staged, plan, declined=bad)
    assert step.action == "wait"
    assert step.reason.startswith(
        f"rollout stopped at 0.1 of the fleet: {len(bad)} of {len(bad)} reports are failures"
    )
    assert sorted(bad)[0] in step.reason
    # Later successes change nothing, nor does a restart.
    assert look(staged, plan, idle=first).reason == step.reason
    assert staged.planner.current_plan == plan
    assert rollout_of(staged.workspace.catalogue) == {"rollout": 0.1, "rollout_stopped": True}


def test_a_first_report_that_is_a_failure_does_not_stop_it_alone(staged: Kit) -> None:
    plan = msgspec.structs.replace(first_round(staged), rollout=0.5)

    def stops(failed: int, done: int, *, late: bool = False) -> bool:
        first = sorted(cohort(plan))
        return bool(
            decide(
                plan, steps=(0.5, 1.0), most_failures=0.1, known=DEVICES,
                answered=first[failed : failed + done], declined=first[:failed], late=late,
            ).stop
        )  # fmt: skip

    assert not stops(1, 0)
    assert not stops(5, 60)
    assert stops(20, 0), "more than a tenth of all that may report"
    assert stops(8, 60), "more than a tenth of those that have, once it is judged by them"
    assert stops(1, 0, late=True)


def test_a_stopped_one_is_not_closed_by_the_deadline(tmp_path: Path) -> None:
    kit = make_kit(tmp_path, rounds=STAGES | {"quorum": 1}, fleet={"devices": len(DEVICES)})
    plan = first_round(kit)
    first = cohort(plan)
    bad = set(sorted(first)[: len(first) // 2])
    step = look(kit, plan, idle=first - bad, declined=bad)
    assert step.reason.startswith("rollout stopped")
    later = look(kit, plan, idle=first - bad, declined=bad, now_unix_s=1e9)
    assert (later.action, later.reason) == ("wait", step.reason)
    assert kit.workspace.catalogue.rounds()[-1].status == "open"


def test_every_stage_has_the_deadline_to_itself(tmp_path: Path) -> None:
    kit = make_kit(tmp_path, rounds=STAGES | {"quorum": 1, "rollout": [0.1, 0.3, 0.6, 1.0]})
    plan = first_round(kit)
    one = {min(cohort(plan))}
    assert look(kit, plan, idle=one).action == "wait"
    late = 10 * kit.config.rounds.deadline_s
    step = look(kit, plan, idle=one, now_unix_s=late)
    assert (step.action, step.plan and step.plan.rollout) == ("open", 0.3)
    # The others had no time yet; nor have they had any right after a restart.
    assert look(kit, plan, idle=one, now_unix_s=late + 1).action == "wait"
    again = Planner(
        config=kit.config, schema=kit.workspace.schema, catalogue=kit.workspace.catalogue
    )
    assert look(kit, plan, idle=one, now_unix_s=late + 2, planner=again).action == "wait"
    step = look(kit, plan, idle=one, now_unix_s=2 * late + 2, planner=again)
    assert (step.action, step.plan and step.plan.rollout) == ("open", 0.6)


def test_failures_of_others_do_not_count(staged: Kit) -> None:
    plan = first_round(staged)
    outside = set(DEVICES) - cohort(plan)
    step = look(staged, plan, idle=cohort(plan), declined=outside)
    assert step.plan is not None
    assert step.plan.rollout == 0.5


def test_the_census_and_a_fleet_without_stages_go_to_all(kit: Kit, staged: Kit) -> None:
    assert kit.planner.make_plan(1, "a" * 64).rollout == 1.0
    census = staged.planner._open(0, 1.0, None).plan
    assert census is not None
    assert census.rollout == 1.0


def test_devices_that_the_plan_brought_down_keep_it_from_widening(staged: Kit) -> None:
    plan = first_round(staged)
    first = cohort(plan)

    def at(known: set[str], answered: set[str], *, late: bool = False) -> float | None:
        return decide(
            plan, steps=(0.1, 1.0), most_failures=0.1, known=known, answered=answered,
            declined=set(), late=late,
        ).share  # fmt: skip

    assert at(set(DEVICES), set()) is None
    assert at(set(DEVICES), set(), late=True) is None
    assert at(set(DEVICES), {min(first)}, late=True) == 1.0
    assert at(set(DEVICES) - first, set()) == 1.0, "nobody is in so small a share"


def test_without_stages_in_the_configuration_a_stopped_one_goes_to_its_end(staged: Kit) -> None:
    plan = first_round(staged)
    look(staged, plan, declined=cohort(plan))
    config = msgspec.structs.replace(
        staged.config, rounds=msgspec.structs.replace(staged.config.rounds, rollout=(1.0,))
    )
    planner = Planner(
        config=config, schema=staged.workspace.schema, catalogue=staged.workspace.catalogue
    )
    states = {
        device: DeviceState(
            device=device, plan_id=plan.id, status="idle" if device in cohort(plan) else "online"
        )
        for device in DEVICES
    }
    step = planner.step(now_unix_s=3.0, states=states, bundle_digest="a" * 64)
    assert step.plan is not None
    assert step.plan.rollout == 1.0


@pytest.mark.parametrize(
    "rounds", [{"rollout": [0.5]}, {"rollout": [0.0, 1.0]}, {"rollout": [0.5, 0.5, 1.0]},
               {"rollout": []}, {"rollout_failures": 1.0}],
)  # fmt: skip
def test_impossible_stages(tmp_path: Path, kit: Kit, rounds: dict[str, object]) -> None:
    schema: Schema = kit.workspace.schema
    (tmp_path / "x").mkdir()
    with pytest.raises(ConfigError, match="rollout"):
        load_config(write_config(tmp_path / "x", schema, rounds=rounds))
