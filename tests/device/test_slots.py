"""Two slots: a bundle proves itself before it is used, and what was used before stays."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_runtime.device.agent import Agent
from edge_runtime.device.bundles import BundleCache
from edge_runtime.device.planbook import PlanBook
from edge_runtime.device.schemas import offer_schema
from edge_runtime.device.slots import load_slots
from edge_runtime.device.store import Store
from edge_runtime.device.work import STORE_FILE
from edge_runtime.generator import Bundle, build_bundle, initial_weights
from edge_runtime.messages import Plan, RowRequest, new_id
from tests.device.shop import Shop


def other(bundle: Bundle, seed: int) -> Bundle:
    return build_bundle(
        bundle.schema, bundle.codec, bundle.layout, initial_weights(bundle.layout, seed=seed),
        lineage=bundle.lineage,
    )  # fmt: skip


def broken(bundle: Bundle) -> Bundle:
    """Its engine draws other rows than its float weights do."""
    likely = bundle.weights.b3 + np.linspace(-3, 3, len(bundle.weights.b3), dtype=np.float32)
    return replace(bundle, weights=bundle.weights._replace(b3=likely))


def sample(bundle: Bundle, **changes: Any) -> Plan:
    return Plan(
        fleet="tests", id=new_id(), round=1, kind="sample", schema_digest=bundle.schema.digest,
        bundle_digest=bundle.digest, epsilon_after=8.0, delta=1e-5, deadline_s=60.0, quorum=1,
        rows=RowRequest(share=1.0, minimum=10, maximum=20), **changes,
    )  # fmt: skip


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_good_bundles_move_from_slot_to_slot(
    open_shop: Callable[..., Shop], bundle: Bundle
) -> None:
    shop = open_shop()
    bundles = [bundle, other(bundle, 5), other(bundle, 6)]
    for each in bundles:
        shop.bundles.put(each.digest, each.to_bytes())
        assert shop.settled(shop.give(sample(each))).status == "done"
    slots = load_slots(shop.store)
    assert (slots.current, slots.previous) == (bundles[2].digest, bundles[1].digest)
    state = shop.reporter.state
    assert (state.bundle, state.previous_bundle) == (slots.current, slots.previous)
    # Back to the earlier one, as when the aggregator's guard takes a generator back.
    assert shop.settled(shop.give(sample(bundles[1]))).status == "done"
    assert load_slots(shop.store).kept == {bundles[1].digest, bundles[2].digest}
    assert not list((shop.config.state_dir / "bundles").glob("*.trials"))


@pytest.mark.parametrize("kind", ["engine", "bytes"])
def test_a_bundle_that_fails_its_trial_is_given_up_and_the_one_before_stays(
    open_shop: Callable[..., Shop], bundle: Bundle, kind: str
) -> None:
    shop = open_shop()
    assert shop.settled(shop.give(sample(bundle))).status == "done"
    data = broken(bundle).to_bytes() if kind == "engine" else b"no bundle"
    shop.bundles.put(digest_of(data), data)
    for _ in range(2):  # the second time it is not even fetched
        plan = msgspec.structs.replace(sample(bundle), bundle_digest=digest_of(data))
        entry = shop.settled(shop.give(plan))
        assert entry.status == "failed"
        assert f"bundle {digest_of(data)[:12]} failed its trial: " in entry.reason
    slots = load_slots(shop.store)
    assert slots.current == bundle.digest == shop.reporter.state.bundle
    assert list(slots.refused) == [digest_of(data)]
    assert not shop.bundles.has(digest_of(data))
    assert shop.settled(shop.give(sample(bundle))).status == "done"


def test_another_release_tries_again(open_shop: Callable[..., Shop], bundle: Bundle) -> None:
    shop = open_shop()
    refused = {"refused": {bundle.digest: "as an older release found"}, "software": "0.0.1"}
    shop.store.put("bundle.slots", json.dumps(refused).encode())
    assert shop.settled(shop.give(sample(bundle))).status == "done"


def test_outside_the_share_of_a_rollout_a_device_waits_until_it_is_wider(
    open_shop: Callable[..., Shop], bundle: Bundle
) -> None:
    shop = open_shop()
    plan = sample(bundle, rollout=1e-9)
    shop.give(plan)
    shop.waiting("for the rollout to reach this device (1e-09 of the fleet so far)")
    wider = msgspec.structs.replace(plan, rollout=1.0)
    # Nothing but the share may change under the same id.
    assert not shop.plans.offer(msgspec.structs.replace(wider, quorum=2))
    assert shop.settled(shop.give(wider)).status == "done"
    assert not shop.plans.offer(plan), "a share never shrinks"


# Runs plans in a process that kills itself before its n-th step, as `kill -9` would.
_KILLED = """
import os, signal, sys
from pathlib import Path
at, seen = int(sys.argv[2]), 0

def step(call):
    def counted(*arguments, **named):
        global seen
        seen += 1
        if seen == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **named)
    return counted

from edge_runtime.device import bundles, slots, work
from edge_runtime.device.config import load_config
from edge_runtime.device.report import Reporter
from edge_runtime.device.store import Store
from edge_runtime.messages import DeviceState

config = load_config(sys.argv[1])
store = Store(config.state_dir / work.STORE_FILE)
cache = bundles.BundleCache(directory=config.state_dir / "bundles")
runner = work.PlanRunner(
    config=config, store=store, bundles=cache,
    reporter=Reporter(first=DeviceState(device="one", status="online")),
    should_stop=lambda: False, on_bundle_wanted=lambda digest: print("wanted", digest),
)
os.fsync, Path.unlink = step(os.fsync), step(Path.unlink)
slots.self_check, slots.sample_codes = step(slots.self_check), step(slots.sample_codes)
slots._put = step(slots._put)
cache.load, cache.prune = step(cache.load), step(cache.prune)
cache.end_trial = step(cache.end_trial)
while runner.once() is not None:
    pass
print("steps", seen)
"""


def run_killed(config: Path, at: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _KILLED, str(config), str(at)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_killed_at_every_step_of_a_switch_it_has_the_old_or_the_new(
    device: Any, kit: SimpleNamespace, bundle: Bundle
) -> None:
    config = device.write_config()
    device.config().state_dir.mkdir()
    new = other(bundle, 5)
    store = Store(device.state_dir / STORE_FILE)
    cache = BundleCache(directory=device.state_dir / "bundles")
    offer_schema(store, bundle.schema.to_json())
    plans = PlanBook(store)
    kills = 0
    for at in range(1, 40):
        # Begin each time with the old bundle in use and a plan about the new one.
        start = {"current": bundle.digest, "software": load_slots(store).software}
        store.put("bundle.slots", json.dumps(start).encode())
        for each in (bundle, new):
            cache.put(each.digest, each.to_bytes())
        plans.offer(sample(new))
        first = run_killed(config, at)
        if first.returncode == 0:
            break
        assert first.returncode == -signal.SIGKILL, first.stderr
        kills += 1
        slots = load_slots(store)
        assert slots.current in (bundle.digest, new.digest)
        assert cache.has(bundle.digest)
        assert cache.has(new.digest)
        again = run_killed(config, 0)
        assert again.returncode == 0, again.stderr
        slots = load_slots(store)
        assert (slots.current, slots.previous) == (new.digest, bundle.digest)
        latest = plans.latest()
        assert latest is not None
        assert latest.status == "done"
        left = {path.suffix for path in (device.state_dir / "bundles").iterdir()}
        assert left == {".bundle"}
    assert kills >= 6, kills
    store.close()


def test_a_bundle_that_takes_the_agent_down_is_given_up(device: Any, bundle: Bundle) -> None:
    config = device.write_config()
    device.config().state_dir.mkdir()
    store = Store(device.state_dir / STORE_FILE)
    cache = BundleCache(directory=device.state_dir / "bundles")
    offer_schema(store, bundle.schema.to_json())
    plans = PlanBook(store)
    new = other(bundle, 5)
    start = {"current": bundle.digest, "software": load_slots(store).software}
    store.put("bundle.slots", json.dumps(start).encode())
    for each in (bundle, new):
        cache.put(each.digest, each.to_bytes())
    plans.offer(sample(new))
    # The third step is the engine's check, after the trial was noted and the bundle loaded.
    for _ in range(3):
        assert run_killed(config, 3).returncode == -signal.SIGKILL
    assert run_killed(config, 0).returncode == 0
    latest = plans.latest()
    assert latest is not None
    assert latest.status == "failed"
    assert "the agent ended 3 times while it was tried" in latest.reason
    slots = load_slots(store)
    assert slots.current == bundle.digest
    assert {path.suffix for path in (device.state_dir / "bundles").iterdir()} == {".bundle"}
    store.close()


def test_a_trial_that_an_operator_ends_does_not_count(
    device: Any, kit: SimpleNamespace, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.write_config()
    config = device.config()
    config.state_dir.mkdir()
    store = Store(config.state_dir / STORE_FILE)
    offer_schema(store, bundle.schema.to_json())
    PlanBook(store).offer(sample(bundle))
    store.close()
    cache = BundleCache(directory=config.state_dir / "bundles")
    cache.put(bundle.digest, bundle.to_bytes())
    begun, end = threading.Event(), threading.Event()

    def slow_check(*_: Any, **__: Any) -> None:
        begun.set()
        end.wait(60)

    monkeypatch.setattr("edge_runtime.device.slots.self_check", slow_check)
    monkeypatch.setattr("edge_runtime.device.agent._WORK_ENDS_S", 0.1)
    agent = Agent(config)
    thread = threading.Thread(target=agent.run)
    thread.start()
    try:
        assert begun.wait(60)
        trials = config.state_dir / "bundles" / f"{bundle.digest}.trials"
        assert trials.exists()
        agent.stop()
        thread.join(60)
        assert not trials.exists()
    finally:
        end.set()
        agent.stop()
        thread.join(60)
        kit.wait_for("the work ends", lambda: not agent._worker.alive)
