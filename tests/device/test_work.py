"""The worker with real files, store, ledger, training and engine; only the link is left out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edge_runtime.device.budget import counts_cost
from edge_runtime.generator import Bundle, open_engine, sample_codes
from edge_runtime.messages import (
    RowRequest,
    TrainRequest,
    UpdateRequest,
)
from edge_runtime.privacy import round_sigma
from edge_runtime.schema import Schema, census_cells, census_counts, read_table
from tests.device.shop import Shop


@pytest.fixture
def exact(device: Any, schema: Schema) -> list[np.ndarray]:
    return [np.asarray(c) for c in census_counts(read_table(device.source, schema), schema)]


def test_the_census_is_noisy_paid_and_enqueued(
    open_shop: Callable[..., Shop], schema: Schema, exact: list[np.ndarray]
) -> None:
    shop = open_shop()
    plan = shop.give(shop.kit.census_plan(schema, epsilon=1.0))
    assert shop.settled(plan).status == "done"
    (header, tensors) = shop.summaries()["census"]
    sigma = float(header.extra["sigma"])
    noise = np.concatenate([tensors[f"census.{i}"] - counts for i, counts in enumerate(exact)])
    assert np.std(noise) == pytest.approx(sigma, rel=0.1)
    assert abs(np.mean(noise)) < 4 * sigma / noise.size**0.5
    assert header.privacy.epsilon == pytest.approx(1.0, rel=2e-3)
    assert header.privacy.mechanism == "discrete-gaussian"
    assert (header.plan_id, header.round, header.codec_digest) == (plan.id, 0, "")
    (entry,) = shop.entries()
    assert entry.released
    assert entry.message_id == header.id
    assert shop.reporter.state.epsilon_spent == pytest.approx(1.0, rel=2e-3)


def test_the_same_plan_again_releases_nothing_more(
    open_shop: Callable[..., Shop], schema: Schema
) -> None:
    shop = open_shop()
    plan = shop.give(shop.kit.census_plan(schema))
    shop.settled(plan)
    first = shop.payloads("summary")
    shop.give(plan)
    other = shop.give(shop.kit.census_plan(schema, epsilon=2.0))
    shop.settled(other)
    assert shop.payloads("summary")[:1] == first
    assert len(shop.entries()) == 2


def test_a_census_paid_for_before_a_crash_is_not_paid_again(
    open_shop: Callable[..., Shop], schema: Schema
) -> None:
    shop = open_shop()
    plan = shop.kit.census_plan(schema)
    sigma = round_sigma(123.0)
    shop.ledger.spend(
        key=f"{plan.id}/census",
        what="census",
        rdp=counts_cost(sigma=sigma, sensitivity_squared=len(census_cells(schema))),
        details={"round": 0, "sigma": str(sigma)},
    )
    shop.give(plan)
    assert shop.settled(plan).status == "done"
    assert len(shop.entries()) == 1
    assert shop.summaries()["census"][0].extra["sigma"] == 123.0


def test_prescribed_census_noise_is_used_or_declined(
    open_shop: Callable[..., Shop], schema: Schema
) -> None:
    shop = open_shop()
    plan = shop.give(shop.kit.census_plan(schema, epsilon=1.0, census_sigma=20.0))
    assert shop.settled(plan).status == "done"
    assert shop.summaries()["census"][0].extra["sigma"] == 20.0
    spent = shop.ledger.epsilon_spent()
    for sigma, words in ((1.0, "ceiling"), (0.0, "without noise")):
        plan = shop.give(shop.kit.census_plan(schema, epsilon=2.0, census_sigma=sigma))
        settled = shop.settled(plan)
        assert settled.status == "declined"
        assert words in settled.reason
    assert shop.ledger.epsilon_spent() == spent
    shop.kit.wait_for("declined state", lambda: shop.reporter.state.status == "declined")
    assert shop.reporter.state.plan_id == plan.id


def test_a_training_plan_gives_rows_and_anchor_within_the_ceiling(
    open_shop: Callable[..., Shop], schema: Schema, bundle: Bundle, device: Any
) -> None:
    shop = open_shop()
    shop.settled(shop.give(shop.kit.census_plan(schema, epsilon=1.0)))
    plan = shop.give(shop.kit.train_plan(bundle, epsilon=6.0))
    assert shop.settled(plan).status == "done"

    batches = shop.batches()
    assert [header.part for header, _ in batches] == [1, 2]
    assert {header.parts for header, _ in batches} == {2}
    assert {header.depth for header, _ in batches} == {1}
    assert {header.bundle_digest for header, _ in batches} == {bundle.digest}
    assert len({header.seed for header, _ in batches}) == 1
    codes = np.concatenate([codes for _, codes in batches])
    rows = shop.kit.ROWS
    assert abs(len(codes) - 3 * rows) < 3 * 60
    # Clamped to the noisy histogram of the condition, which is close to the real one.
    real = bundle.codec.encode(read_table(device.source, schema)).codes
    assert np.mean(codes[:, 0] == 1) == pytest.approx(np.mean(real[:, 0] == 1), abs=0.03)

    header, tensors = shop.summaries()["anchor"]
    assert set(tensors) == {"table.0.1", "table.2", "table.3"}
    sigma = float(header.extra["sigma"])
    for column in (2, 3):
        counts = np.bincount(real[:, column], minlength=bundle.codec.cardinalities[column])
        noise = tensors[f"table.{column}"] - counts
        assert np.abs(noise).max() < 6 * sigma
        assert noise.any()
    pairs = np.zeros((2, 24), dtype=np.int64)
    np.add.at(pairs, (real[:, 0], real[:, 1]), 1)
    assert np.abs(tensors["table.0.1"] - pairs).max() < 6 * sigma

    assert [entry.what for entry in shop.entries()] == ["census", "anchor", "training"]
    assert all(entry.released for entry in shop.entries())
    assert 5.98 < shop.ledger.epsilon_spent() <= 6.0
    assert batches[0][0].privacy.epsilon == shop.ledger.epsilon_spent()
    assert shop.store.load_checkpoint(plan.id) is None


def test_weights_that_fail_their_check_give_rows_of_the_bundle(
    open_shop: Callable[..., Shop], bundle: Bundle
) -> None:
    """One step of a length that no network survives: the weights are numbers, their rows none."""
    shop = open_shop()
    wild = TrainRequest(steps=1, expected_batch=64, clip_norm=1.0, learning_rate=1e30)
    plan = shop.give(shop.kit.train_plan(bundle, train=wild, update=UpdateRequest(clip_norm=1.0)))
    entry = shop.settled(plan)
    assert entry.status == "done"
    assert "failed their check" in entry.reason
    assert "rows from the bundle's own" in entry.reason
    (header, codes), *_ = shop.batches()
    assert header.extra["weights"] == "bundle"
    assert header.extra["worst_error"] == bundle.quantised.worst_error
    assert not shop.updates()
    clamp = {0: codes[:, 0].astype(np.int32)}
    engine = open_engine(bundle)
    again = sample_codes(engine, len(codes), key=bytes.fromhex(header.seed), clamp=clamp)
    np.testing.assert_array_equal(codes, again)


def test_training_learns_what_the_device_has(
    open_shop: Callable[..., Shop], schema: Schema, bundle: Bundle, device: Any
) -> None:
    """Late flights are late in the day: only a trained network connects the two columns."""
    shop = open_shop(epsilon="100.0")
    plan = shop.give(shop.kit.train_plan(bundle, epsilon=60.0, steps=400))
    assert shop.settled(plan).status == "done"
    codes = np.concatenate([codes for _, codes in shop.batches()])
    gap = codes[codes[:, 0] == 1, 1].mean() - codes[codes[:, 0] == 0, 1].mean()
    assert gap > 5.0  # 9 hours in the real rows, 0 in the untrained bundle


def test_told_to_stop_it_saves_itself_and_the_next_one_resumes(
    open_shop: Callable[..., Shop], bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="edge_runtime.device")
    shop = open_shop(extra="[training]\ncheckpoint_steps = 20\n")
    plan = shop.give(shop.kit.train_plan(bundle, epsilon=6.0, steps=1500))
    shop.kit.wait_for("some progress", lambda: shop.reporter.state.progress > 0.1)
    assert shop.reporter.state.status == "training"
    assert shop.worker.stop(timeout_s=10.0)
    assert shop.store.load_checkpoint(plan.id) is not None
    entries = shop.entries()
    assert [entry.released for entry in entries] == [True, False]
    shop.restart()
    assert shop.settled(plan, timeout_s=60.0).status == "done"
    assert "resumed at step" in caplog.text
    assert [entry.key for entry in shop.entries()] == [entry.key for entry in entries]
    assert [header.kind for header, _ in shop.batches()] == ["batch"] * len(shop.batches())
    assert len(shop.payloads("summary")) == 1


def test_a_damaged_checkpoint_begins_again_without_paying(
    open_shop: Callable[..., Shop], bundle: Bundle
) -> None:
    shop = open_shop(extra="[training]\ncheckpoint_steps = 20\n")
    plan = shop.give(shop.kit.train_plan(bundle, epsilon=6.0, steps=400))
    shop.kit.wait_for("some progress", lambda: shop.reporter.state.progress > 0.1)
    shop.worker.stop(timeout_s=10.0)
    entries = shop.entries()
    shop.store.save_checkpoint(plan.id, b"damaged")
    shop.restart()
    assert shop.settled(plan, timeout_s=60.0).status == "done"
    assert [entry.key for entry in shop.entries()] == [entry.key for entry in entries]


def test_too_few_rows_give_counts_only(
    open_shop: Callable[..., Shop], schema: Schema, bundle: Bundle, device: Any
) -> None:
    shop = open_shop()
    shop.kit.write_csv(device.source, shop.kit.make_rows(3))
    shop.settled(shop.give(shop.kit.census_plan(schema, epsilon=2.0)))
    settled = shop.settled(shop.give(shop.kit.train_plan(bundle)))
    assert settled.status == "done"
    assert "counts only" in settled.reason
    assert shop.batches() == []
    assert [entry.what for entry in shop.entries()] == ["census", "anchor"]


def test_an_empty_source_is_measured_like_any_other(
    open_shop: Callable[..., Shop], schema: Schema, bundle: Bundle, device: Any
) -> None:
    shop = open_shop(extra="[training]\nminimum_rows = 1\n")
    shop.kit.write_csv(device.source, [])
    assert shop.settled(shop.give(shop.kit.census_plan(schema, epsilon=1.0))).status == "done"
    # The noisy count is at least 1 whatever the noise: the device must train on nothing.
    plan = shop.kit.train_plan(bundle, update=UpdateRequest(clip_norm=1.0))
    settled = shop.settled(shop.give(plan))
    assert settled.status == "done"
    assert [entry.what for entry in shop.entries()] == ["census", "anchor", "training"]
    assert len(shop.updates()) == 1
    # No condition stands out, except by chance once in twenty runs.
    assert bool(shop.batches()) != ("no synthetic rows" in settled.reason)


def test_without_privacy_everything_says_so(
    open_shop: Callable[..., Shop],
    schema: Schema,
    bundle: Bundle,
    exact: list[np.ndarray],
    caplog: pytest.LogCaptureFixture,
) -> None:
    shop = open_shop(epsilon='"none"')
    shop.settled(shop.give(shop.kit.census_plan(schema, epsilon=None)))
    plan = shop.give(shop.kit.train_plan(bundle, epsilon=None))
    assert shop.settled(plan).status == "done"
    header, tensors = shop.summaries()["census"]
    for column, counts in enumerate(exact):
        np.testing.assert_array_equal(tensors[f"census.{column}"], counts)
    assert header.privacy.epsilon is None
    assert header.privacy.mechanism == "none"
    assert {header.privacy.epsilon for header, _ in shop.batches()} == {None}
    assert "WITHOUT PRIVACY" in caplog.text
    assert not shop.reporter.state.private
    assert shop.reporter.state.epsilon_spent is None
    # No later noise can make the sum a number again.
    settled = shop.settled(shop.give(shop.kit.train_plan(bundle, epsilon=6.0)))
    assert settled.status == "declined"
    assert "WITHOUT PRIVACY" in settled.reason


def test_a_device_without_limit_keeps_a_private_plan_private(
    open_shop: Callable[..., Shop], schema: Schema
) -> None:
    shop = open_shop(epsilon='"none"')
    shop.settled(shop.give(shop.kit.census_plan(schema, epsilon=1.0)))
    header, _ = shop.summaries()["census"]
    assert header.privacy.epsilon == pytest.approx(1.0, rel=2e-3)


def test_no_more_rows_than_the_outbox_can_hold(
    open_shop: Callable[..., Shop], bundle: Bundle
) -> None:
    shop = open_shop(extra="[limits]\noutbox_bytes = 65536\n")
    rows = RowRequest(share=1000.0, minimum=1, maximum=10**9)
    plan = shop.give(shop.kit.train_plan(bundle, rows=rows))
    assert shop.settled(plan).status == "done"
    assert sum(len(codes) for _, codes in shop.batches()) == 65536 // 16
