"""A device's own work and the aggregator's own fusion, message by message, for every strategy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.aggregator.fusion import Outcome, first_generator, next_generator
from edge_runtime.aggregator.strategies import STRATEGIES
from edge_runtime.device.bundles import BundleCache
from edge_runtime.device.config import load_config
from edge_runtime.device.outbox import Outbox
from edge_runtime.device.planbook import PlanBook
from edge_runtime.device.report import Reporter
from edge_runtime.device.schemas import offer_schema
from edge_runtime.device.store import Store
from edge_runtime.device.work import STORE_FILE, Worker
from edge_runtime.generator import Bundle
from edge_runtime.messages import DeviceState, Plan
from edge_runtime.reception import Incoming
from edge_runtime.schema import write_table
from tests.aggregator.conftest import Kit, make_kit, make_table
from tests.aggregator.live import wait_for


class Site:
    """A real worker over rows of the aggregator's schema; messages are carried by hand."""

    def __init__(self, directory: Path, kit: Kit) -> None:
        directory.mkdir()
        schema = kit.workspace.schema
        write_table(make_table(schema, 1500, seed=7), directory / "rows.csv")
        path = directory / "device.toml"
        path.write_text(
            f"""
            [device]
            id = "a"
            fleet = "{kit.config.fleet.name}"
            state_dir = "state"
            [source]
            path = "rows.csv"
            [privacy]
            epsilon = 8.0
            """
        )
        config = load_config(path)
        config.state_dir.mkdir()
        self.kit = kit
        self.store = Store(config.state_dir / STORE_FILE)
        self.plans = PlanBook(self.store)
        self.outbox = Outbox(self.store, max_bytes=1 << 24)
        self.bundles = BundleCache(directory=config.state_dir / "bundles")
        offer_schema(self.store, schema.to_json())
        self.worker = Worker(
            config=config,
            reporter=Reporter(first=DeviceState(device="a", status="online")),
            bundles=self.bundles,
            on_news=lambda: None,
            on_bundle_wanted=lambda _: None,
        )
        self.worker.start()

    def answer(self, plan: Plan, bundle: Bundle | None = None) -> None:
        """Let the worker carry out a plan, and the aggregator take all that it sends."""
        if bundle is not None:
            self.bundles.put(bundle.digest, bundle.to_bytes())
        self.plans.offer(plan)
        self.worker.wake()

        def settled() -> str | None:
            latest = self.plans.latest()
            done = latest is not None and latest.plan == plan and latest.status != "new"
            return latest.status if done and latest and latest.status != "running" else None

        assert wait_for(settled, "the plan is never done") == "done"
        for message in self.outbox.pending():
            payload = self.outbox.payload(message.sequence)
            assert payload is not None
            (ack,) = self.kit.inbox.accept([Incoming("a", message.kind, payload)])
            assert ack.status == "accepted", ack.reason
            self.outbox.settle(sha256=ack.sha256, status=ack.status)


@pytest.fixture(params=sorted(STRATEGIES))
def kit(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kit]:
    made = make_kit(
        tmp_path,
        fusion={"strategy": request.param},
        train={"steps": 60, "expected_batch": 64},
        rows={"minimum": 800},
    )
    yield made
    made.workspace.close()


def fuse(kit: Kit, bundle: Bundle, number: int) -> Outcome:
    workspace = kit.workspace
    anchor = workspace.anchor(bundle)
    assert anchor is not None
    return next_generator(
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


def test_a_private_device_feeds_every_strategy(kit: Kit, tmp_path: Path) -> None:
    site = Site(tmp_path / "site", kit)
    try:
        site.answer(kit.open(0))
        workspace = kit.workspace
        bundle = first_generator(
            workspace.censuses(),
            schema=workspace.schema,
            config=kit.config,
            privacy=workspace.privacy(),
        )
        workspace.add_bundle(bundle, status="published", reason="")
        kit.inbox.use_codec(bundle.codec, bundle.layout)
        kit.planner.close(0, now_unix_s=1.0, reason="")
        plan = kit.open(1, bundle)
        site.answer(plan, bundle)
        asked = STRATEGIES[kit.config.fusion.strategy].needs_updates
        assert len(workspace.updates(bundle)) == int(asked)
        # The release draws from the pool whatever the strategy makes of it.
        assert len(workspace.pool_rows().codes) >= 800
        outcome = fuse(kit, bundle, 1)
        assert outcome.verdict.nll < outcome.verdict.current_nll
        assert outcome.bundle.metrics.get("fusion.updates", 0.0) == float(asked)
    finally:
        assert site.worker.stop(timeout_s=20.0)
        site.store.close()
