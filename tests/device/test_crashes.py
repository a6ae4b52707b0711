"""A device that dies after every single commit: each durable state must lead to the same end."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np

from edge_runtime.device.bundles import BundleCache
from edge_runtime.device.outbox import Outbox
from edge_runtime.device.planbook import PlanBook
from edge_runtime.device.schemas import offer_schema
from edge_runtime.device.store import Store
from edge_runtime.device.work import STORE_FILE
from edge_runtime.generator import Bundle
from edge_runtime.messages import decode_batch, decode_summary
from edge_runtime.privacy import Ledger
from edge_runtime.schema import Schema

# Forks a worker again and again; each one is gone, without any cleaning up, right after its first
# commit that changed something. Prints how many were needed.
_CRASHER = """
import os, sqlite3, sys
from edge_runtime.device.bundles import BundleCache
from edge_runtime.device.config import load_config
from edge_runtime.device.planbook import PlanBook
from edge_runtime.device.report import Reporter
from edge_runtime.device.store import Store
from edge_runtime.device.work import STORE_FILE, Worker
from edge_runtime.messages import DeviceState

config = load_config(sys.argv[1])
path = config.state_dir / STORE_FILE
original = sqlite3.connect

class Dying(sqlite3.Connection):
    before = None
    def execute(self, statement, *values):
        if statement == "BEGIN IMMEDIATE":
            self.before = self.total_changes
        result = super().execute(statement, *values)
        if statement == "COMMIT" and self.total_changes > self.before:
            os._exit(9)
        return result
    def commit(self):
        changed = self.in_transaction and self.before is not None
        super().commit()
        if changed and self.total_changes > self.before:
            os._exit(9)

def child():
    sqlite3.connect = lambda *args, **options: original(*args, **options, factory=Dying)
    worker = Worker(
        config=config,
        reporter=Reporter(first=DeviceState(device="one", status="online")),
        bundles=BundleCache(directory=config.state_dir / "bundles"),
        on_news=lambda: os._exit(0 if done() else 1),
        on_bundle_wanted=lambda digest: os._exit(2),
    )
    worker.start()
    worker._thread.join()
    os._exit(3)

def done():
    sqlite3.connect = original
    return PlanBook(Store(path)).current() is None

for deaths in range(200):
    process = os.fork()
    if process == 0:
        child()
    _, status = os.waitpid(process, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        print(deaths)
        sys.exit(0)
    if code != 9:
        sys.exit(code or 4)
sys.exit(5)
"""


def crash_through(device: Any) -> int:
    result = subprocess.run(
        [sys.executable, "-c", _CRASHER, str(device.write_config())],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


def test_dying_after_every_commit_pays_once_and_releases_once(
    device: Any, kit: Any, schema: Schema, bundle: Bundle
) -> None:
    device.extra = "[training]\ncheckpoint_s = 0.0\ncheckpoint_steps = 40\n"
    config = device.config()
    config.state_dir.mkdir()
    BundleCache(directory=config.state_dir / "bundles").put(bundle.digest, bundle.to_bytes())
    store = Store(config.state_dir / STORE_FILE)
    offer_schema(store, schema.to_json())
    plans = PlanBook(store)

    plans.offer(kit.census_plan(schema, epsilon=1.0))
    # The schema, the spending, the release: each was the last thing one process did.
    assert crash_through(device) >= 3
    plans.offer(kit.train_plan(bundle, epsilon=6.0, steps=200))
    # Intake, both spendings, the anchor, four checkpoints, the rows.
    assert crash_through(device) >= 9

    ledger = Ledger(store.connection, epsilon_limit=8.0, delta=1e-5)
    entries = list(ledger.entries())
    assert [entry.what for entry in entries] == ["census", "anchor", "training"]
    assert all(entry.released for entry in entries)
    assert ledger.epsilon_spent() <= 6.0

    outbox = Outbox(store, max_bytes=1 << 24)
    waiting = outbox.pending()
    assert [message.sequence for message in waiting] == list(range(len(waiting)))
    headers, rows = [], []
    for message in waiting:
        payload = outbox.payload(message.sequence)
        assert payload is not None
        if message.kind == "summary":
            headers.append(decode_summary(payload)[0])
        else:
            header, codes = decode_batch(
                payload, cardinalities=bundle.codec.cardinalities, names=schema.names
            )
            headers.append(header)
            rows.append(codes)
    assert [header.kind for header in headers] == ["census", "anchor", *["batch"] * len(rows)]
    assert [header.part for header in headers[2:]] == list(range(1, len(rows) + 1))
    assert {header.parts for header in headers[2:]} == {len(rows)}
    assert [entry.message_id for entry in entries] == [header.id for header in headers[:3]]
    assert abs(sum(map(len, rows)) - 3 * kit.ROWS) < 3 * 60
    assert np.concatenate(rows).shape[1] == 4
    assert store.code_rows(bundle.codec.digest) == kit.ROWS
