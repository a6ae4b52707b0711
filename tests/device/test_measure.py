"""Tables, scores, held-out rows, updates and conditions of a plan, by the real worker."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_runtime.device.anchor import check_tables, count_table
from edge_runtime.device.budget import counts_cost, share_after
from edge_runtime.device.holdout import HOLDOUT_KEY, held_out
from edge_runtime.device.released import Released
from edge_runtime.device.schemas import offer_schema
from edge_runtime.device.score import SCORE_SENSITIVITY_SQUARED, clipped_losses
from edge_runtime.device.store import Store
from edge_runtime.errors import PlanError
from edge_runtime.generator import Bundle, Layout, Lineage, build_bundle, initial_weights
from edge_runtime.generator.reference import nll
from edge_runtime.messages import (
    SCORE_UNITS,
    AnchorRequest,
    Plan,
    RowRequest,
    ScoreRequest,
    UpdateRequest,
    update_norm,
)
from edge_runtime.privacy import round_sigma, to_epsilon
from edge_runtime.schema import Codec, Schema, read_table
from tests.device.shop import Shop

SCORE = ScoreRequest(share=0.05, clip_nats=20.0)


def measure_plan(shop: Shop, bundle: Bundle, **changes: Any) -> Plan:
    parts: dict[str, Any] = {
        "kind": "measure", "train": None, "rows": None, "anchor": None, "score": None, **changes
    }  # fmt: skip
    return shop.give(shop.kit.train_plan(bundle, **parts))


def real_codes(device: Any, bundle: Bundle) -> np.ndarray:
    return bundle.codec.encode(read_table(device.source, bundle.schema)).codes


# --- tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [(1,), (0, 2), (0, 1, 3), (0, 1, 2, 3)])
def test_tables_of_any_width_are_counted(columns: tuple[int, ...]) -> None:
    cardinalities = (2, 5, 3, 4)
    codes = np.random.default_rng(0).integers(0, cardinalities, (500, 4)).astype(np.int32)
    counts = count_table(codes, columns, cardinalities)
    expected = np.zeros([cardinalities[d] for d in columns], np.int64)
    np.add.at(expected, tuple(codes[:, d] for d in columns), 1)
    np.testing.assert_array_equal(counts, expected)
    assert counts.dtype == np.int64
    assert count_table(codes[:0], columns, cardinalities).sum() == 0


def test_tables_that_no_message_holds_are_declined() -> None:
    check_tables([(0, 1)], (1000, 1000))
    with pytest.raises(PlanError, match="2000000 cells"):
        check_tables([(0, 1), (1, 2)], (1000, 1000, 1000))
    with pytest.raises(PlanError, match="column 2"):
        check_tables([(0, 2)], (2, 2))


def test_a_measure_plan_counts_and_scores_and_nothing_else(
    open_shop: Callable[..., Shop], bundle: Bundle, device: Any
) -> None:
    shop = open_shop()
    anchor = AnchorRequest(share=0.7, tables=((0, 1, 2), (3,)))
    score = ScoreRequest(share=0.3, clip_nats=20.0)
    plan = measure_plan(shop, bundle, anchor=anchor, score=score, holdout=0.2)
    assert shop.settled(plan).status == "done"
    assert shop.batches() == []
    assert [e.what for e in shop.entries()] == ["score", "anchor"]
    assert all(e.released for e in shop.entries())
    # The shares add up to the whole: the ceiling is used up.
    assert 5.98 < shop.ledger.epsilon_spent() <= 6.0

    real = real_codes(device, bundle)
    held = held_out(shop.store, len(real), 0.2)
    assert 0.12 < held.mean() < 0.28
    header, tensors = shop.summaries()["anchor"]
    assert header.extra["holdout"] == 0.2
    assert set(tensors) == {"table.0.1.2", "table.3"}
    sigma = float(header.extra["sigma"])
    counted = count_table(real[~held], (0, 1, 2), bundle.codec.cardinalities)
    noise = tensors["table.0.1.2"] - counted
    assert np.std(noise) == pytest.approx(sigma, rel=0.2)

    header, tensors = shop.summaries()["score"]
    assert (header.bundle_digest, header.extra["clip_nats"]) == (bundle.digest, 20.0)
    losses, count = tensors["score"] / SCORE_UNITS
    rows_sigma = float(header.extra["sigma"]) / SCORE_UNITS
    assert abs(count - held.sum()) < 6 * rows_sigma
    exact = np.minimum(nll(bundle.weights, bundle.layout, real[held]), 20.0).sum() / 20.0
    assert abs(losses - exact) < 6 * rows_sigma + 1


def test_shares_are_of_the_plans_budget(open_shop: Callable[..., Shop], bundle: Bundle) -> None:
    """What score and anchor cost is their share of the room, whichever was paid before."""
    shop = open_shop()
    plan = shop.give(shop.kit.train_plan(bundle, score=SCORE, holdout=0.1))
    assert shop.settled(plan).status == "done"
    score, anchor, training = shop.entries()
    assert [e.what for e in (score, anchor, training)] == ["score", "anchor", "training"]
    assert score.rdp is not None
    assert anchor.rdp is not None
    np.testing.assert_allclose(anchor.rdp / score.rdp, 0.1 / 0.05, rtol=2e-3)
    whole = score.rdp / 0.05
    assert to_epsilon(whole, 1e-5) == pytest.approx(6.0, rel=2e-3)
    assert 5.98 < shop.ledger.epsilon_spent() <= 6.0
    assert share_after(0.5, earlier=0.5) == 1.0


def test_a_score_paid_for_before_a_crash_is_not_paid_again(
    open_shop: Callable[..., Shop], bundle: Bundle
) -> None:
    shop = open_shop()
    plan = shop.kit.train_plan(
        bundle, kind="measure", train=None, rows=None, anchor=None, score=SCORE, holdout=0.1
    )
    sigma = round_sigma(5000.0)
    shop.ledger.spend(
        key=f"{plan.id}/score",
        what="score",
        rdp=counts_cost(sigma=sigma, sensitivity_squared=SCORE_SENSITIVITY_SQUARED),
        details={"round": 1, "sigma": str(sigma)},
    )
    # Paid: the limit is not asked again, even if it has become lower meanwhile.
    shop.worker.stop()
    low = open_shop(epsilon="0.001")
    low.give(plan)
    assert low.settled(plan).status == "done"
    assert len(low.entries()) == 1
    assert low.summaries()["score"][0].extra["sigma"] == 5000.0
    # The same plan after a restart releases nothing more.
    low.restart()
    assert len(low.payloads("summary")) == 1


# --- scores --------------------------------------------------------------------------------------


def test_a_row_has_the_same_loss_in_any_company(bundle: Bundle, device: Any) -> None:
    codes = real_codes(device, bundle)[:200]

    def losses(rows: np.ndarray, clip: float = 30.0) -> np.ndarray:
        return clipped_losses(rows, bundle.weights, bundle.layout, clip_nats=clip)

    whole = losses(codes)
    np.testing.assert_array_equal(losses(codes[1:]), whole[1:])
    np.testing.assert_array_equal(losses(codes[::-1].copy()), whole[::-1])
    exact = nll(bundle.weights, bundle.layout, codes) / 30.0 * SCORE_UNITS
    assert np.abs(whole - exact).max() < 0.51
    clipped = losses(codes, clip=1.0)
    assert clipped.max() == SCORE_UNITS
    broken = bundle.weights._replace(b3=np.full_like(bundle.weights.b3, np.nan))
    found = clipped_losses(codes, broken, bundle.layout, clip_nats=30.0)
    assert (found == SCORE_UNITS).all()


# --- held-out rows -------------------------------------------------------------------------------


def test_the_same_rows_are_held_out_for_ever(tmp_path: Path) -> None:
    store = Store(tmp_path / "device.sqlite")
    assert not held_out(store, 1000, 0.0).any()
    assert store.get(HOLDOUT_KEY) is None
    first = held_out(store, 1000, 0.2)
    assert 0.13 < first.mean() < 0.27
    store.close()
    again = Store(tmp_path / "device.sqlite")
    np.testing.assert_array_equal(held_out(again, 1000, 0.2), first)
    # New rows change nothing for old ones, and a larger share only adds rows.
    np.testing.assert_array_equal(held_out(again, 1500, 0.2)[:1000], first)
    assert held_out(again, 1000, 0.4)[first].all()
    other = Store(tmp_path / "other.sqlite")
    assert (held_out(other, 1000, 0.2) != first).any()
    again.close()
    other.close()


def test_held_out_rows_are_never_trained_on(
    open_shop: Callable[..., Shop], bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_runtime.device import train as train_module  # noqa: PLC0415 - the module is patched

    seen: list[np.ndarray] = []
    whole = train_module.train_private

    def watching(weights: Any, codes: np.ndarray, **rest: Any) -> Any:
        seen.append(codes.copy())
        return whole(weights, codes, **rest)

    monkeypatch.setattr(train_module, "train_private", watching)
    shop = open_shop()
    plan = shop.give(shop.kit.train_plan(bundle, score=SCORE, holdout=0.3))
    assert shop.settled(plan).status == "done"
    stored = shop.store.read_codes(bundle.codec.digest).codes
    held = held_out(shop.store, len(stored), 0.3)
    np.testing.assert_array_equal(seen[0], stored[~held])
    # The sampling rate follows from the noisy count of those rows.
    settings = shop.ledger.find(f"{plan.id}/training")
    assert settings is not None
    assert settings.details["rows_public"] == pytest.approx((~held).sum(), rel=0.1)


def test_a_source_that_begins_again_draws_anew(
    open_shop: Callable[..., Shop], bundle: Bundle, device: Any
) -> None:
    shop = open_shop()
    plan = measure_plan(shop, bundle, score=SCORE, holdout=0.2)
    assert shop.settled(plan).status == "done"
    secret = shop.store.get(HOLDOUT_KEY)
    with device.source.open("a") as file:
        file.write("true,12,EWR,100.0\n" * 20)
    plan = measure_plan(shop, bundle, epsilon=7.0, score=SCORE, holdout=0.2)
    assert shop.settled(plan).status == "done"
    assert shop.store.get(HOLDOUT_KEY) == secret
    shop.kit.write_csv(device.source, shop.kit.make_rows(300, seed=8))
    plan = measure_plan(shop, bundle, epsilon=7.5, score=SCORE, holdout=0.2)
    assert shop.settled(plan).status == "done"
    assert shop.store.get(HOLDOUT_KEY) not in (None, secret)


# --- updates -------------------------------------------------------------------------------------


def test_an_update_comes_with_the_rows_and_costs_nothing_more(
    open_shop: Callable[..., Shop], bundle: Bundle
) -> None:
    shop = open_shop()
    request = UpdateRequest(clip_norm=0.5)
    plan = shop.give(shop.kit.train_plan(bundle, update=request))
    assert shop.settled(plan).status == "done"
    ((header, delta),) = shop.updates()
    assert 0.45 < update_norm(delta) <= 0.5 * (1 + 1e-6)
    assert header.extra["clip_norm"] == 0.5
    assert (header.bundle_digest, header.depth) == (bundle.digest, 0)
    batch, _ = shop.batches()[0]
    assert header.privacy == batch.privacy
    assert [e.what for e in shop.entries()] == ["anchor", "training"]
    # What was released first settles the entry.
    assert shop.entries()[-1].message_id == batch.id


# --- conditions ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide_bundle(kit: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Two condition columns, of which the second is a number: conditioned on its codes."""
    narrow = kit.make_schema("two-conditions")
    columns = [
        msgspec.structs.replace(column, condition=column.name in ("late", "hour"))
        for column in narrow.columns
    ]
    schema = Schema.ordered(name="two-conditions", columns=tuple(columns))
    assert schema.conditions == (0, 1)
    path = kit.write_csv(
        tmp_path_factory.mktemp("wide") / "public.csv", kit.make_rows(3000, seed=9)
    )
    codec = Codec.fit(read_table(path, schema), schema)
    layout = Layout(cardinalities=codec.cardinalities, hidden=32)
    return build_bundle(
        schema,
        codec,
        layout,
        initial_weights(layout, seed=1),
        lineage=Lineage(parent=None, depth=0, round=0, devices=1, rows=3000.0, privacy={}),
    )


def use(shop: Shop, bundle: Bundle) -> None:
    shop.bundle = bundle
    offer_schema(shop.store, bundle.schema.to_json())
    shop.bundles.put(bundle.digest, bundle.to_bytes())


def test_several_conditions_follow_the_noisy_counts(
    open_shop: Callable[..., Shop], wide_bundle: Bundle, device: Any
) -> None:
    shop = open_shop()
    use(shop, wide_bundle)
    anchor = AnchorRequest(share=0.5, tables=((0, 1, 2), (1, 3)))
    rows = RowRequest(share=3.0, minimum=100, maximum=6000)
    plan = shop.give(shop.kit.train_plan(wide_bundle, anchor=anchor, rows=rows, steps=5))
    assert shop.settled(plan).status == "done"
    codes = np.concatenate([codes for _, codes in shop.batches()])
    real = real_codes(device, wide_bundle)
    sizes = wide_bundle.codec.cardinalities
    sent = count_table(codes, (0, 1), sizes) / len(codes)
    held = count_table(real, (0, 1), sizes) / len(real)
    # Five steps of training could not have taught it: the untrained network is 0.4 away.
    assert 0.5 * np.abs(sent - held).sum() < 0.12


def test_conditions_without_counts_are_left_to_the_network(
    open_shop: Callable[..., Shop], wide_bundle: Bundle
) -> None:
    shop = open_shop()
    use(shop, wide_bundle)
    anchor = AnchorRequest(share=0.2, tables=((0,), (1, 3)))
    plan = shop.give(shop.kit.train_plan(wide_bundle, anchor=anchor, steps=5))
    assert shop.settled(plan).status == "done"
    released = Released(store=shop.store, schema=wide_bundle.schema, codec=wide_bundle.codec)
    assert [condition.own.counts.size for condition in released.conditions()] == [2]
    assert shop.batches()


def test_counts_of_earlier_plans_serve_later_ones(
    open_shop: Callable[..., Shop], wide_bundle: Bundle
) -> None:
    """A plan may ask for other tables than those that hold the conditions."""
    shop = open_shop()
    use(shop, wide_bundle)
    first = AnchorRequest(share=0.9, tables=((0, 1),))
    plan = measure_plan(shop, wide_bundle, epsilon=2.0, anchor=first, holdout=0.25)
    assert shop.settled(plan).status == "done"
    for epsilon in (3.0, 4.0):
        other = AnchorRequest(share=0.9, tables=((2, 3),))
        plan = measure_plan(shop, wide_bundle, epsilon=epsilon, anchor=other)
        assert shop.settled(plan).status == "done"
    released = Released(store=shop.store, schema=wide_bundle.schema, codec=wide_bundle.codec)
    joint = released.marginal((0, 1))
    assert joint is not None
    own, later = released.conditions()
    assert (own.joint, later.given) == (None, (0,))
    # Scaled up by the rows that were held out then; so the row count fits, too.
    assert joint.counts.sum() == pytest.approx(shop.kit.ROWS, rel=0.15)
    rows = released.rows()
    assert rows is not None
    assert rows == pytest.approx(shop.kit.ROWS, rel=0.1)
    assert released.marginal((1, 2)) is None
    # A marginal of the table carries the noise of all cells that were added up.
    assert own.own.sigma == pytest.approx(joint.sigma * wide_bundle.codec.cardinalities[1] ** 0.5)
    for number in range(5):
        many = AnchorRequest(share=0.5, tables=((3,),))
        plan = measure_plan(shop, wide_bundle, epsilon=5.0 + 0.1 * number, anchor=many)
        assert shop.settled(plan).status == "done"
    # Only the last few are kept.
    kept = Released(store=shop.store, schema=wide_bundle.schema, codec=wide_bundle.codec)
    assert kept.marginal((0, 1)) is None


def test_a_wish_for_what_the_device_never_saw_sends_no_rows(
    open_shop: Callable[..., Shop], bundle: Bundle, device: Any
) -> None:
    shop = open_shop()
    on_time = [row for row in shop.kit.make_rows(1500) if row[0] == "false"]
    shop.kit.write_csv(device.source, on_time)

    def ask(epsilon: float, **clamp: Any) -> Plan:
        rows = RowRequest(share=1.0, minimum=100, maximum=400, **clamp)
        plan = shop.kit.train_plan(bundle, epsilon=epsilon, rows=rows, steps=5)
        return shop.give(plan)

    # One device in forty would see a late flight in the noise; its true counts never would.
    exact = AnchorRequest(share=0.9, tables=((0,),))
    shop.settled(measure_plan(shop, bundle, epsilon=4.0, anchor=exact))
    plan = ask(5.0, clamp="wish", wish=(0.0, 1.0))
    settled = shop.settled(plan)
    assert settled.status == "done"
    assert "counts only" in settled.reason
    assert shop.batches() == []
    # Nothing was paid for a training whose rows could not be sent.
    assert [e.what for e in shop.entries()] == ["anchor", "anchor"]
    # The reason is kept, also when the plan comes again.
    shop.restart()
    shop.kit.wait_for("the reason shown", lambda: "counts only" in shop.reporter.state.reason)
    plan = ask(6.0, clamp="wish", wish=(0.1, 1.0))
    assert shop.settled(plan).status == "done"
    codes = np.concatenate([codes for _, codes in shop.batches()])
    assert set(codes[:, 0]) == {0}


def test_nothing_of_a_score_is_logged(
    open_shop: Callable[..., Shop], bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="edge_runtime.device")
    shop = open_shop()
    plan = measure_plan(shop, bundle, score=SCORE, holdout=0.2)
    assert shop.settled(plan).status == "done"
    stored = shop.store.read_codes(bundle.codec.digest).codes
    held = int(held_out(shop.store, len(stored), 0.2).sum())
    assert str(held) not in caplog.text
    assert "bundle scored" in caplog.text
