"""Work that is left wherever it can be: the same ledger in the end, and nothing twice."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest

from edge_runtime.device.bundles import BundleCache
from edge_runtime.device.outbox import Outbox
from edge_runtime.device.planbook import PlanBook
from edge_runtime.device.report import Reporter
from edge_runtime.device.schemas import offer_schema
from edge_runtime.device.store import Store
from edge_runtime.device.work import STORE_FILE, PlanRunner
from edge_runtime.generator import Bundle
from edge_runtime.messages import DeviceState, RowRequest, ScoreRequest
from edge_runtime.privacy import Ledger
from tests.device.test_moments import request_for


class Leaver:
    """Says that work is to be left at the first question that no process was left at before."""

    def __init__(self) -> None:
        self.reporter = Reporter(first=DeviceState(device="one", status="online"))
        #: function that asked, and how often it had asked in its process
        self.left: set[tuple[str, int]] = set()
        self.restart()

    def restart(self) -> None:
        self.asked: Counter[str] = Counter()
        self.leaving = False

    def __call__(self) -> bool:
        asker = sys._getframe(1)
        if asker.f_code.co_name == "go_on" and asker.f_back is not None:
            asker = asker.f_back
        name = asker.f_code.co_name
        self.asked[name] += 1
        place = (name, self.asked[name])
        if place not in self.left:
            self.left.add(place)
            self.leaving = True
        return self.leaving


@pytest.mark.parametrize("epsilon", [6.0, None], ids=["private", "without privacy"])
def test_work_is_left_at_every_question_once(
    device: Any, kit: Any, bundle: Bundle, epsilon: float | None
) -> None:
    device.epsilon = "8.0" if epsilon else '"none"'
    config = device.config()
    config.state_dir.mkdir()
    bundles = BundleCache(directory=config.state_dir / "bundles")
    bundles.put(bundle.digest, bundle.to_bytes())
    store = Store(config.state_dir / STORE_FILE)
    offer_schema(store, bundle.schema.to_json())
    plans = PlanBook(store)
    leaver = Leaver()

    def runner() -> PlanRunner:
        return PlanRunner(
            config=config,
            store=store,
            bundles=bundles,
            reporter=leaver.reporter,
            should_stop=leaver,
            on_bundle_wanted=lambda _: None,
        )

    def left_everywhere() -> None:
        processes = 0
        while plans.current() is not None:
            leaver.restart()
            work = runner()
            while work.once() == 0.0:
                pass
            processes += 1
            assert processes < 200

    private = epsilon is not None
    plans.offer(kit.census_plan(bundle.schema, epsilon=1.0 if private else None))
    left_everywhere()
    plans.offer(
        kit.train_plan(
            bundle,
            epsilon=epsilon,
            steps=12,
            holdout=0.4,
            score=ScoreRequest(share=0.1, clip_nats=20.0),
            moments=request_for(bundle, share=0.2),
            rows=RowRequest(share=3.0, minimum=100, maximum=6000),
        )
    )
    left_everywhere()

    asked = Counter(function for function, _ in leaver.left)
    # Rows that were held out in blocks of 512, the others in blocks of 256; tables; pieces of the
    # source, and to send.
    assert asked["clipped_losses"] == 2
    assert asked["sum_moments"] == 5
    assert asked["release_anchor"] == 3
    assert asked["census"] == 2
    assert asked["draw_rows"] == 1
    # One step more each time: 0 + 1 + 2 + 3 + 4 of the 12.
    assert asked["train_private"] == 5
    # Without privacy it is looked how close real rows lie to each other.
    assert ("spacings" in asked) == (not private)
    ledger = Ledger(
        store.connection, epsilon_limit=config.privacy.epsilon_limit, delta=config.privacy.delta
    )
    entries = ledger.entries()
    assert [entry.what for entry in entries] == ["census", "score", "anchor", "moments", "training"]
    assert all(entry.released for entry in entries)
    if epsilon is not None:
        assert ledger.epsilon_spent() <= epsilon
    kinds = [message.kind for message in Outbox(store, max_bytes=1 << 24).pending()]
    assert kinds[:4] == ["summary"] * 4
    assert set(kinds[4:]) == {"batch"}
    rows = sum(message.rows for message in Outbox(store, max_bytes=1 << 24).pending())
    assert np.isclose(rows, 3 * 0.6 * kit.ROWS, rtol=0.1)
    store.close()
