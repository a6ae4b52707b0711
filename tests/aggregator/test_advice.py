"""What a fusion tells the next plan: the interactions that the pool shows, and who is too small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_runtime.aggregator.advice import Advice, give_advice, read_advice
from edge_runtime.aggregator.sizing import prior_share
from edge_runtime.messages import decode_plan, encode_plan
from edge_runtime.reception import Incoming

from .conftest import Kit, make_kit

LATE, HOUR, ORIGIN, DELAY = range(4)


def parity_pool(directory: Path, strength: float = 0.8, **changes: dict[str, Any]) -> Kit:
    """A round in which lateness follows the parity of hour and origin: no pair shows it."""
    kit = make_kit(directory, **{"guard": {"batches": False}, **changes})
    bundle = kit.census_round()
    plan = kit.open(1, bundle)
    rng = np.random.default_rng(0)
    for device in kit.devices.values():
        codes = rng.integers(0, bundle.codec.cardinalities, (4000, 4)).astype(np.int32)
        odd = (codes[:, HOUR] + codes[:, ORIGIN]) % 2
        codes[:, LATE] = rng.random(4000) < 0.5 + strength * (odd - 0.5)
        (ack,) = kit.inbox.accept(
            [Incoming(device.name, "batch", device.batch(plan, bundle, codes))]
        )
        assert ack.status == "accepted"
    return kit


def advise(kit: Kit) -> Advice:
    bundle = kit.workspace.bundle()
    assert bundle is not None
    advice = give_advice(kit.workspace, bundle, kit.config)
    assert read_advice(kit.workspace.catalogue) == advice
    return advice


def tables(kit: Kit, number: int) -> tuple[tuple[int, ...], ...]:
    plan = kit.planner.make_plan(number, "a" * 64)
    assert decode_plan(encode_plan(plan)) == plan
    assert plan.anchor is not None
    return plan.anchor.tables


def say(kit: Kit, **fields: Any) -> None:
    """Put advice into the catalogue as the latest fusion's."""
    encoded = msgspec.json.encode(Advice(**fields)).decode()
    kit.workspace.catalogue.put("advice", encoded)


def test_the_second_round_counts_what_the_pool_points_at(tmp_path: Path) -> None:
    kit = parity_pool(tmp_path)
    assert read_advice(kit.workspace.catalogue) == Advice()
    advice = advise(kit)
    assert [round(rows) for rows in advice.rows_of] == [3000, 1000]
    assert advice.interactions[0] == (LATE, HOUR, ORIGIN)
    assert len(advice.interactions) <= kit.config.rounds.interactions
    found = tables(kit, 2)
    assert (LATE, HOUR, ORIGIN) in found
    # All columns are counted, and what the interaction contains is not paid for twice.
    assert {column for table in found for column in table} == {0, 1, 2, 3}
    assert (LATE, HOUR) not in found
    assert (LATE, ORIGIN) not in found
    # The first round of a fleet has no pool to go by: only pairs, whatever is known from before.
    assert tables(kit, 1) == ((0, 1), (0, 2), (0, 3))


def test_a_pool_that_shows_nothing_may_have_lost_it(tmp_path: Path) -> None:
    kit = parity_pool(tmp_path, 0.0)
    # A few tables are asked for in any case.
    assert sorted(advise(kit).interactions) == [(0, 1, 2), (0, 1, 3), (0, 2, 3)]
    assert {column for table in tables(kit, 2) for column in table} == {0, 1, 2, 3}


def test_interactions_can_be_limited_and_turned_off(tmp_path: Path) -> None:
    for most in (0, 1, 2):
        (tmp_path / str(most)).mkdir()
        kit = parity_pool(tmp_path / str(most), rounds={"interactions": most})
        assert len(advise(kit).interactions) == most
    kit.workspace.close()
    (tmp_path / "off").mkdir()
    kit = parity_pool(tmp_path / "off", rounds={"interactions": 0})
    advise(kit)
    assert tables(kit, 2) == ((0, 1), (0, 2), (0, 3))


def test_beyond_a_few_there_are_as_many_as_their_noise_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_runtime.aggregator.advice._FEW", 1)
    found = {}
    for epsilon in (0.5, 8.0):
        (tmp_path / str(epsilon)).mkdir()
        kit = parity_pool(
            tmp_path / str(epsilon),
            privacy={"epsilon": epsilon},
            fusion={"prior": 0.0, "bins": 6},
        )
        found[epsilon] = advise(kit).interactions
    assert 1 <= len(found[0.5]) < len(found[8.0])
    assert found[0.5][0] == (LATE, HOUR, ORIGIN)
    assert len(found[8.0]) == 3
    assert found[8.0][0] == (LATE, HOUR, ORIGIN)


def test_single_columns_are_asked_for_where_pairs_are_not_wanted(tmp_path: Path) -> None:
    kit = parity_pool(tmp_path, rounds={"pairs": "none"})
    assert advise(kit).interactions == ()
    assert tables(kit, 2) == ((0,), (1,), (2,), (3,))


def test_a_pool_of_few_rows_points_nowhere(kit: Kit) -> None:
    kit.filled(rows=100)
    assert advise(kit).interactions == ()


@pytest.mark.parametrize("interactions", [(), ((0, 1, 2),), ((0, 2, 3), (0, 1, 3))])
def test_every_column_stays_covered(kit: Kit, interactions: tuple[tuple[int, ...], ...]) -> None:
    say(kit, rows_of=(3000.0, 1000.0), interactions=interactions)
    found = tables(kit, 2)
    assert {column for table in found for column in table} == {0, 1, 2, 3}
    assert set(interactions) <= set(found)
    assert len(set(found)) == len(found)


def test_the_share_of_rows_from_the_counts_is_kept_for_releases(tmp_path: Path) -> None:
    kit = make_kit(tmp_path, privacy={"epsilon": 1.0})
    kit.filled(rows=100)
    assert kit.workspace.prior_share == 0.0
    advice = advise(kit)
    share = prior_share(kit.config, advice.rows_of)
    assert share > 0.3
    assert kit.workspace.prior_share == share


def test_small_devices_under_privacy_are_asked_for_counts_alone(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    kit = make_kit(tmp_path / "a")
    say(kit, rows_of=(50.0,) * 10)
    for number in (1, 2):
        plan = kit.planner.make_plan(number, "a" * 64)
        assert decode_plan(encode_plan(plan)) == plan
        assert plan.kind == "measure"
        assert (plan.train, plan.rows, plan.update) == (None, None, None)
        assert plan.anchor is not None
        # Nothing else is to be paid for.
        assert plan.anchor.share == 1.0
        assert {column for table in plan.anchor.tables for column in table} == {0, 1, 2, 3}
        assert plan.epsilon_after == kit.planner.schedule.epsilon_after[number]
    assert kit.planner.make_plan(0, None).kind == "census"

    (tmp_path / "b").mkdir()
    scored = make_kit(tmp_path / "b", rounds={"score_share": 0.2, "holdout": 0.1})
    say(scored, rows_of=(50.0,) * 10)
    plan = scored.planner.make_plan(1, "a" * 64)
    assert plan.kind == "measure"
    assert plan.anchor is not None
    assert plan.score is not None
    assert plan.anchor.share + plan.score.share == pytest.approx(1.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"privacy": {"epsilon": "none"}},
        {"rounds": {"anchor_share": 0.0}},
        {"fusion": {"prior": 0.0}},
        # Averages are of updates, which counts alone do not make.
        {"fusion": {"strategy": "average"}},
    ],
)
def test_others_are_asked_to_train(tmp_path: Path, changes: dict[str, dict[str, Any]]) -> None:
    kit = make_kit(tmp_path, **changes)
    say(kit, rows_of=(50.0,) * 10)
    plan = kit.planner.make_plan(1, "a" * 64)
    assert plan.kind == "train"
    assert plan.train is not None
    assert (plan.update is not None) == (kit.config.fusion.strategy == "average")
    say(kit, rows_of=(50_000.0,) * 10)
    assert kit.planner.make_plan(1, "a" * 64).kind == "train"


def test_counts_take_more_of_the_budget_of_smaller_devices(kit: Kit) -> None:
    shares = []
    for rows in (400.0, 3000.0, 1e6):
        say(kit, rows_of=(rows,) * 10)
        plan = kit.planner.make_plan(1, "a" * 64)
        assert plan.kind == "train"
        assert plan.anchor is not None
        shares.append(plan.anchor.share)
    assert shares == sorted(shares, reverse=True)
    assert shares[1] == pytest.approx(0.5)
    assert shares[2] == 0.15
