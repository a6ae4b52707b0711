"""Scores, updates and tables from devices: what is taken, what is set aside, what it says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edge_runtime.aggregator.summaries import read_scores
from edge_runtime.errors import AggregatorError
from edge_runtime.generator import Bundle, Weights
from edge_runtime.messages import AnchorRequest, Plan, ScoreRequest, UpdateRequest, update_norm
from edge_runtime.reception import Incoming

from .conftest import Kit, make_inbox

ASKED: dict[str, Any] = {
    "anchor": AnchorRequest(share=0.1, tables=((0, 1, 2), (3,))),
    "score": ScoreRequest(share=0.05, clip_nats=20.0),
    "update": UpdateRequest(clip_norm=1.0),
    "holdout": 0.2,
}


def delta_of(bundle: Bundle, scale: float = 0.001) -> Weights:
    flat = np.random.default_rng(0).normal(0, scale, bundle.layout.parameters)
    return bundle.layout.unflatten(flat.astype(np.float32))


def send(kit: Kit, *payloads: bytes, device: str = "a") -> list[tuple[str, str]]:
    acks = kit.inbox.accept([Incoming(device, "summary", payload) for payload in payloads])
    return [(ack.status, ack.reason) for ack in acks]


def anchor_extra(kit: Kit) -> dict[str, float]:
    return {"sigma": kit.devices["a"].sigma, "holdout": 0.2}


def test_what_was_asked_for_is_read_back(kit: Kit) -> None:
    bundle = kit.census_round()
    plan = kit.open(1, bundle, **ASKED)
    a = kit.devices["a"]
    a.sigma = 512.0
    assert (
        send(
            kit,
            a.score(plan, bundle, nats=7.5, rows=300),
            a.update(plan, bundle, delta_of(bundle)),
            a.anchor(plan, bundle, extra=anchor_extra(kit)),
        )
        == [("accepted", "")] * 3
    )
    catalogue, data_dir = kit.workspace.catalogue, kit.config.data_dir

    (score,) = read_scores(data_dir, catalogue.messages(kind="score"))
    assert (score.device, score.round, score.bundle_digest) == ("a", 1, bundle.digest)
    assert (score.sigma_rows, score.clip_nats) == (0.5, 20.0)
    assert abs(score.rows - 300) < 3
    assert abs(score.nats - 2250) < 3 * 20

    (update,) = kit.workspace.updates(bundle)
    assert (update.device, round(update.weight)) == ("a", 3000)
    sent = delta_of(bundle)
    assert update_norm(Weights(*(x - y for x, y in zip(sent, update.delta, strict=True)))) < 0.02

    anchor = kit.workspace.anchor(bundle)
    assert anchor is not None
    assert list(anchor.tables) == [(3,), (0, 1, 2)]
    # Counts leave out the held-out fifth and are scaled up to all rows: the fixture counts all.
    assert anchor.tables[3,].variance == pytest.approx((512 / 0.8) ** 2)
    # Nothing of this is rows for the pool.
    assert catalogue.messages(kind="batch") == []


Make = Callable[[Kit, Plan, Bundle], bytes]


def _score(**changes: Any) -> Make:
    return lambda kit, plan, bundle: kit.devices["a"].score(
        plan, bundle, nats=5.0, rows=100, **changes
    )


def _update(**changes: Any) -> Make:
    return lambda kit, plan, bundle: kit.devices["a"].update(
        plan, bundle, delta_of(bundle), **changes
    )


def _anchor(**changes: Any) -> Make:
    return lambda kit, plan, bundle: kit.devices["a"].anchor(plan, bundle, **changes)


def _other_tables(kit: Kit, plan: Plan, bundle: Bundle) -> bytes:
    class Other:
        anchor = AnchorRequest(share=0.1, tables=((0,), (3,)))
        id, round, bundle_digest = plan.id, plan.round, plan.bundle_digest

    return kit.devices["a"].anchor(Other(), bundle, extra=anchor_extra(kit))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_score(bundle_digest="4" * 64), "about bundle 444444444444"),
        (_update(bundle_digest="4" * 64), "about bundle 444444444444"),
        (_score(extra={"sigma": 0.0, "clip_nats": 50.0}), "clip_nats is 50.0"),
        (_update(extra={"clip_norm": 9.0}), "clip_norm is 9.0"),
        (_anchor(extra={"sigma": 0.0}), "holdout is 0.0"),
        (_other_tables, "other tables"),
        (_score(round=3), "round 3"),
    ],
)
def test_what_was_not_asked_for_is_set_aside(kit: Kit, make: Make, reason: str) -> None:
    bundle = kit.census_round()
    plan = kit.open(1, bundle, **ASKED)
    ((status, why),) = send(kit, make(kit, plan, bundle))
    assert (status, reason in why) == ("quarantined", True), why


@pytest.mark.parametrize("kind", ["score", "update"])
def test_a_kind_that_no_plan_names_is_set_aside(kit: Kit, kind: str) -> None:
    bundle = kit.census_round()
    asked = kit.open(1, bundle, **ASKED)
    kit.planner.close(1, now_unix_s=1002.0, reason="")
    plain = kit.open(2, bundle)
    make = _score if kind == "score" else _update
    payload = make(plan_id=plain.id, round=2)(kit, asked, bundle)
    ((status, why),) = send(kit, payload)
    assert (status, why) == ("quarantined", f"its plan asks for no {kind}")


def test_a_second_score_of_a_plan_does_not_count(kit: Kit) -> None:
    bundle = kit.census_round()
    plan = kit.open(1, bundle, **ASKED)
    make = _score()
    first, second = (send(kit, make(kit, plan, bundle))[0] for _ in range(2))
    assert first == ("accepted", "")
    assert second[0] == "quarantined"
    assert "a second score" in second[1]


def test_an_update_needs_a_network_to_change(kit: Kit) -> None:
    bundle = kit.census_round()
    plan = kit.open(1, bundle, **ASKED)
    inbox = make_inbox(kit.workspace)
    inbox.use_codec(bundle.codec)
    (ack,) = inbox.accept([Incoming("a", "summary", _update()(kit, plan, bundle))])
    assert (ack.status, "no generator" in ack.reason) == ("refused", True)


def test_a_damaged_file_is_an_error_with_a_way_out(kit: Kit) -> None:
    bundle = kit.census_round()
    plan = kit.open(1, bundle, **ASKED)
    send(kit, _score()(kit, plan, bundle), _update()(kit, plan, bundle))
    catalogue, data_dir = kit.workspace.catalogue, kit.config.data_dir
    for kind in ("score", "update"):
        (record,) = catalogue.messages(kind=kind)
        (data_dir / record.path).write_bytes(b"rubbish")
    with pytest.raises(AggregatorError, match="backup"):
        read_scores(data_dir, catalogue.messages(kind="score"))
    with pytest.raises(AggregatorError, match="backup"):
        list(kit.workspace.updates(bundle))


def test_a_device_has_answered_when_all_that_was_asked_is_there(kit: Kit) -> None:
    bundle = kit.census_round()
    measure = {**ASKED, "kind": "measure", "train": None, "rows": None, "update": None}
    plan = kit.open(1, bundle, **measure)

    def action() -> str:
        return kit.planner.step(now_unix_s=1010.0, states={}, bundle_digest=bundle.digest).action

    for name in ("a", "b"):
        device = kit.devices[name]
        anchor = device.anchor(plan, bundle, extra=anchor_extra(kit))
        assert send(kit, anchor, device=name) == [("accepted", "")]
        assert action() == "wait"
        assert send(kit, device.score(plan, bundle, nats=5.0, rows=10), device=name) == [
            ("accepted", "")
        ]
    assert action() == "fuse"
