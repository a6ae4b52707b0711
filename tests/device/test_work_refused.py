"""The worker and plans that it must decline, put off or give up."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_runtime.device import work as work_module
from edge_runtime.device.bundles import BundleCache
from edge_runtime.device.report import Reporter
from edge_runtime.device.schemas import offer_schema
from edge_runtime.device.work import STORE_FILE, PlanRunner, Worker
from edge_runtime.generator import Bundle
from edge_runtime.messages import (
    AnchorRequest,
    DeviceState,
    RowRequest,
)
from edge_runtime.schema import Schema
from tests.device.shop import Shop

WISH_OF_THREE: dict[str, Any] = {"clamp": "wish", "wish": (1.0, 2.0, 3.0)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epsilon": 9.0}, "limit"),
        ({"epsilon": None}, "WITHOUT PRIVACY"),
        ({"delta": 1e-3}, "delta"),
        ({"anchor": AnchorRequest(share=0.1, tables=((0, 9),))}, "column 9"),
        ({"rows": RowRequest(share=1.0, minimum=1, maximum=9, **WISH_OF_THREE)}, "3 codes"),
        ({"anchor": None}, "no counts yet"),
    ],
)
def test_what_the_device_must_not_do_is_declined_and_costs_nothing(
    open_shop: Callable[..., Shop], bundle: Bundle, changes: dict[str, Any], words: str
) -> None:
    shop = open_shop()
    plan = shop.give(shop.kit.train_plan(bundle, **changes))
    settled = shop.settled(plan)
    assert settled.status == "declined"
    assert words in settled.reason
    assert shop.entries() == []
    assert len(shop.outbox) == 0


def test_a_raised_limit_is_noticed_after_a_restart(
    open_shop: Callable[..., Shop], schema: Schema
) -> None:
    shop = open_shop(epsilon="0.5")
    plan = shop.give(shop.kit.census_plan(schema, epsilon=1.0))
    assert shop.settled(plan).status == "declined"
    shop.worker.stop()
    again = open_shop(epsilon="1.0")
    again.restart()
    shop.kit.wait_for("plan done", lambda: again.plans.latest().status == "done")  # type: ignore[union-attr]


def test_a_ceiling_that_is_used_up_declines_the_next_plan(
    open_shop: Callable[..., Shop], schema: Schema
) -> None:
    shop = open_shop()
    shop.settled(shop.give(shop.kit.census_plan(schema, epsilon=3.0)))
    spent = shop.ledger.epsilon_spent()
    settled = shop.settled(shop.give(shop.kit.census_plan(schema, epsilon=2.5)))
    assert settled.status == "declined"
    assert "already spent" in settled.reason
    assert shop.ledger.epsilon_spent() == spent


def test_a_missing_bundle_is_asked_for(open_shop: Callable[..., Shop], bundle: Bundle) -> None:
    shop = open_shop(with_bundle=False)
    plan = shop.give(shop.kit.train_plan(bundle))
    shop.waiting("bundle")
    assert set(shop.wanted) == {bundle.digest}
    assert shop.entries() == []
    # A newer plan takes its place while nothing was paid.
    newer = shop.give(shop.kit.train_plan(bundle))
    shop.bundles.put(bundle.digest, bundle.to_bytes())
    shop.worker.wake()
    assert shop.settled(newer).status == "done"
    assert {entry.key.split("/")[0] for entry in shop.entries()} == {newer.id}
    assert plan.id != newer.id


def test_a_plan_about_another_schema_waits(open_shop: Callable[..., Shop], schema: Schema) -> None:
    shop = open_shop()
    plan = shop.kit.census_plan(shop.kit.make_schema("other"))
    shop.give(plan)
    shop.waiting("schema")
    offer_schema(shop.store, shop.kit.make_schema("other").to_json())
    shop.worker.wake()
    assert shop.settled(plan).status == "done"


def test_a_refused_schema_declines_its_plans(
    open_shop: Callable[..., Shop], schema: Schema
) -> None:
    shop = open_shop()
    shop.settled(shop.give(shop.kit.census_plan(schema)))
    other = shop.kit.make_schema("other")
    offer_schema(shop.store, other.to_json())
    settled = shop.settled(shop.give(shop.kit.census_plan(other, epsilon=2.0)))
    assert settled.status == "declined"
    assert "accept_new_schema" in settled.reason
    assert len(shop.entries()) == 1


def test_a_source_that_cannot_be_read_costs_nothing_and_is_tried_again(
    open_shop: Callable[..., Shop], schema: Schema, device: Any, caplog: pytest.LogCaptureFixture
) -> None:
    shop = open_shop()
    whole = device.source.read_bytes()
    device.source.write_bytes(whole + b"true,noon-4711,EWR,100.0\n")
    plan = shop.give(shop.kit.census_plan(schema))
    state = shop.waiting("source")
    assert "hour" not in state.reason
    assert shop.entries() == []
    assert "'hour'" in caplog.text
    assert "4711" not in caplog.text
    device.source.write_bytes(whole)
    assert shop.settled(plan).status == "done"


def test_a_disk_that_refuses_postpones_the_plan(
    open_shop: Callable[..., Shop], schema: Schema, caplog: pytest.LogCaptureFixture
) -> None:
    shop = open_shop()
    runner = PlanRunner(
        config=shop.config,
        store=shop.store,
        bundles=shop.bundles,
        reporter=shop.reporter,
        should_stop=lambda: False,
        on_bundle_wanted=shop.wanted.append,
    )
    plan = shop.kit.census_plan(schema)
    shop.plans.offer(plan)
    shop.store.connection.execute("PRAGMA query_only = ON")
    for _ in range(2):
        assert runner.once() == shop.config.source.poll_s
    # Told here and not to the fleet: a full disk depends on the number of rows.
    assert "readonly" in caplog.text
    assert shop.reporter.state.reason == ""
    shop.store.connection.execute("PRAGMA query_only = OFF")
    latest = shop.plans.latest()
    assert latest is not None
    assert latest.status == "new"
    assert runner.once() == 0.0
    assert [entry.released for entry in shop.entries()] == [True]


def test_a_full_outbox_postpones_before_anything_is_paid(
    open_shop: Callable[..., Shop], bundle: Bundle
) -> None:
    shop = open_shop(extra="[limits]\noutbox_bytes = 65536\n")
    filler = os.urandom(64_000)
    with shop.store.transaction():
        shop.outbox.add(
            sequence=shop.outbox.next_sequence(), id="0" * 32, kind="batch", payload=filler
        )
    plan = shop.give(shop.kit.train_plan(bundle, anchor=None))
    settled = shop.settled(plan)
    assert settled.status == "declined"  # no counts yet: the census is missing
    plan = shop.give(shop.kit.train_plan(bundle))
    shop.waiting("outbox")
    assert "training" not in [entry.what for entry in shop.entries()]
    shop.outbox.settle(sha256=hashlib.sha256(filler).hexdigest(), status="accepted")
    shop.worker.wake()
    assert shop.settled(plan).status == "done"


def test_an_internal_error_fails_the_plan_and_not_the_device(
    open_shop: Callable[..., Shop],
    schema: Schema,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a row with 4711")

    shop = open_shop()
    with monkeypatch.context() as patch:
        patch.setattr(work_module, "run_census", broken)
        plan = shop.give(shop.kit.census_plan(schema))
        settled = shop.settled(plan)
    assert settled.status == "failed"
    assert f"RuntimeError at {Path(__file__).name}" in settled.reason
    assert "4711" not in caplog.text + settled.reason
    plan = shop.give(shop.kit.census_plan(schema))
    assert shop.settled(plan).status == "done"


def test_a_store_that_cannot_be_opened_ends_the_worker(
    device: Any, kit: SimpleNamespace, bundle: Bundle, tmp_path: Path
) -> None:
    config = device.config()
    config.state_dir.mkdir()
    (config.state_dir / STORE_FILE).write_bytes(b"rubbish" * 1000)
    reporter = Reporter(first=DeviceState(device="one", status="online"))
    news: list[int] = []
    worker = Worker(
        config=config,
        reporter=reporter,
        bundles=BundleCache(directory=tmp_path / "b"),
        on_news=lambda: news.append(1),
        on_bundle_wanted=lambda _: None,
    )
    worker.start()
    kit.wait_for("failure", lambda: worker.failure)
    assert news
    assert worker.stop(timeout_s=5.0)
