"""A fleet of real processes over a real broker, with a device and the broker killed half-way.

Three devices share the arrests table (5,226 rows, 8 columns), each with its own years. What must
hold in the end: every message that a device ever numbered is in the catalogue exactly once, every
batch is in the pool exactly once, and no ledger is below what was released or above its limit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklego.datasets import load_arrests

from edge_runtime.aggregator import status, verify_release
from edge_runtime.api import Generator
from edge_runtime.fleet.broker import BROKERS, Broker, find_broker, start_broker
from edge_runtime.messages import Link, Topics
from edge_runtime.schema import Schema

EPSILON = 8.0
ROUNDS = 2
YEARS = {"north": (1997, 1999), "middle": (2000, 2000), "south": (2001, 2002)}
#: A slow machine shared with other tests needs a few minutes at the most.
PATIENCE_S = 240.0


class Process:
    """One child process with its log."""

    def __init__(self, folder: Path, module: str, config: Path) -> None:
        self.log = folder / f"{config.stem}.log"
        self._command = [sys.executable, "-m", module, "--config", str(config)]
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()

    def stop(self) -> int:
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(30)


class Wire:
    """Everything that crosses the broker, as an outsider sees it."""

    def __init__(self, port: int, topics: Topics) -> None:
        self.seen: list[tuple[str, bytes]] = []
        self._changed = threading.Condition()
        self._link = Link(
            host="127.0.0.1",
            port=port,
            client_id="outsider",
            topics=[f"er/v1/{topics.fleet}/#"],
            on_message=self._on_message,
        )
        self._link.start()
        self._link.wait_connected(30)

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        with self._changed:
            self.seen.append((topic, payload))
            self._changed.notify_all()

    def wait(self, wanted: Callable[[str, bytes], bool], what: str, fleet: Fleet) -> None:
        start, deadline = 0, time.monotonic() + PATIENCE_S
        with self._changed:
            while True:
                fresh, start = self.seen[start:], len(self.seen)
                if any(wanted(topic, payload) for topic, payload in fresh):
                    return
                fleet.check_alive()
                assert time.monotonic() < deadline, f"never saw {what}; {fleet.tails()}"
                self._changed.wait(1.0)

    def close(self) -> None:
        self._link.close()


class Fleet:
    """The broker, the aggregator and the devices of one test."""

    def __init__(self, folder: Path, broker: Broker) -> None:
        self.folder, self.broker = folder, broker
        self.topics = Topics("arrests")
        frame = load_arrests(as_frame=True)
        self.schema = Schema.infer(frame, name="arrests", conditions=("released",))
        self.schema.save(folder / "schema.json")
        self.rows = {
            name: frame[frame.year.between(first, last)] for name, (first, last) in YEARS.items()
        }
        self.wire = Wire(broker.port, self.topics)
        self.processes: dict[str, Process] = {}
        self.data = folder / "aggregator"

    def start(self) -> None:
        self.processes["aggregator"] = Process(
            self.folder,
            "edge_runtime.aggregator",
            self._write(
                "aggregator",
                f"""
                seed = 5
                fleet = {{ name = "arrests", devices = {len(self.rows)} }}
                broker = {{ port = {self.broker.port} }}
                data = {{ dir = "aggregator" }}
                schema = {{ path = "schema.json" }}
                privacy = {{ epsilon = {EPSILON}, delta = 1e-5 }}
                rounds = {{ count = {ROUNDS}, quorum = {len(self.rows)}, deadline_s = 200 }}
                train = {{ steps = 800, expected_batch = 96, learning_rate = 1e-2 }}
                rows = {{ share = 1.0, minimum = 100, maximum = 4000 }}
                fusion = {{ hidden = 64, epochs = 10, max_seconds = 20 }}
                """,
            ),
        )
        for name, rows in self.rows.items():
            rows.to_csv(self.folder / f"{name}.csv", index=False)
            config = self._write(
                name,
                f"""
                device = {{ id = "{name}", fleet = "arrests", state_dir = "{name}" }}
                broker = {{ port = {self.broker.port}, ack_timeout_s = 5.0 }}
                source = {{ path = "{name}.csv" }}
                privacy = {{ epsilon = {EPSILON}, delta = 1e-5 }}
                training = {{ checkpoint_s = 0.2, checkpoint_steps = 10 }}
                """,
            )
            self.processes[name] = Process(self.folder, "edge_runtime.device", config)

    def _write(self, name: str, text: str) -> Path:
        path = self.folder / f"{name}.toml"
        path.write_text("\n".join(line.strip() for line in text.splitlines()))
        return path

    def check_alive(self) -> None:
        for name, process in self.processes.items():
            assert process.popen.poll() is None, f"{name} ended: {process.log.read_text()[-3000:]}"

    def tails(self) -> str:
        return "\n".join(
            f"--- {name}\n{process.log.read_text()[-1500:]}"
            for name, process in self.processes.items()
        )

    def database(self, device: str) -> sqlite3.Connection:
        (file,) = (self.folder / device).glob("*.sqlite")
        return sqlite3.connect(f"file:{file}?mode=ro", uri=True)

    def wait_for_empty_outbox(self, device: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        with contextlib.closing(self.database(device)) as database:
            while database.execute("SELECT COUNT(*) FROM outbox").fetchone()[0]:
                self.check_alive()
                assert time.monotonic() < deadline, f"{device} still waits; {self.tails()}"
                time.sleep(0.05)

    def stop(self) -> None:
        with contextlib.suppress(Exception):
            self.wire.close()
        for process in self.processes.values():
            if process.popen.poll() is None:
                process.kill()
        self.broker.stop()


@pytest.fixture(params=BROKERS)
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    if find_broker(request.param) is None:
        (pytest.fail if "CI" in os.environ else pytest.skip)(f"{request.param} is not installed")
    broker = start_broker(tmp_path / "broker", name=request.param)
    running = Fleet(tmp_path, broker)
    try:
        yield running
    finally:
        running.stop()


def _is_training(device: str) -> Callable[[str, bytes], bool]:
    def check(topic: str, payload: bytes) -> bool:
        if not topic.endswith(f"/up/{device}/state") or not payload:
            return False
        state = json.loads(payload)
        return state["status"] == "training" and 0 < state["progress"] < 1

    return check


def _phase(phase: str) -> Callable[[str, bytes], bool]:
    def check(topic: str, payload: bytes) -> bool:
        return topic.endswith("/down/all/status") and json.loads(payload)["phase"] == phase

    return check


def test_killed_device_and_broker_lose_and_double_nothing(fleet: Fleet) -> None:
    fleet.start()
    fleet.wire.wait(_is_training("south"), "south in training", fleet)
    fleet.processes["south"].kill()
    # What the killed device has spent must still be in its ledger when it comes back.
    with contextlib.closing(fleet.database("south")) as database:
        spent_before = database.execute("SELECT COUNT(*) FROM ledger_entries").fetchone()[0]
    assert spent_before >= 2, "the census and the training run are paid for before they begin"
    fleet.processes["south"].start()

    fleet.wire.wait(lambda topic, _: topic.endswith("/batch"), "a batch", fleet)
    fleet.broker.kill()
    fleet.broker.restart()

    fleet.wire.wait(_phase("done"), "the end of all rounds", fleet)
    _check_exactly_once(fleet)
    _check_ledgers(fleet, spent_before)
    _check_release(fleet)
    for name, process in list(fleet.processes.items()):
        assert process.stop() == 0, f"{name}: {process.log.read_text()[-2000:]}"


def _check_exactly_once(fleet: Fleet) -> None:
    with contextlib.closing(sqlite3.connect(fleet.data / "catalogue.sqlite")) as catalogue:
        messages = catalogue.execute(
            "SELECT device, sequence, id, kind, status, rows, path FROM messages"
        ).fetchall()
    assert {message[4] for message in messages} == {"accepted"}
    for device in fleet.rows:
        sequences = sorted(message[1] for message in messages if message[0] == device)
        assert sequences == list(range(len(sequences))), f"{device}: {sequences}"
        # census, two batches at least, two anchors
        assert len(sequences) >= 1 + 2 * ROUNDS
        # An acknowledgement that the broker took to its grave is asked for again after a while.
        fleet.wait_for_empty_outbox(device)
    batches = {message[2]: message for message in messages if message[3] == "batch"}
    rows: Counter[str] = Counter()
    for path in (fleet.data / "pool").rglob("*.parquet"):
        named = {batch[2] for batch in batches.values() if fleet.data / batch[6] == path}
        found = Counter(pq.ParquetFile(path).read(columns=["message"])["message"].to_pylist())
        assert found.keys() == named
        rows += found
    assert rows == {identity: batch[5] for identity, batch in batches.items()}
    assert status(fleet.data)["totals"]["rows"] == sum(message[5] for message in batches.values())


def _check_ledgers(fleet: Fleet, spent_before: int) -> None:
    for device in fleet.rows:
        with contextlib.closing(fleet.database(device)) as database:
            keys = [row[0] for row in database.execute("SELECT key FROM ledger_entries")]
        assert len(keys) == len(set(keys))
        # The killed device spent no more often than those that ran through.
        assert len(keys) == 1 + 2 * ROUNDS, f"{device}: {keys}"
    assert spent_before <= 1 + 2 * ROUNDS
    for device, state in status(fleet.data)["devices"].items():
        assert 0.9 * EPSILON < state["epsilon_spent"] <= EPSILON, f"{device}: {state}"


def _check_release(fleet: Fleet) -> None:
    folder = fleet.data / "release"
    verify_release(folder)
    rows = pd.read_parquet(folder / "data.parquet")
    real = pd.concat(fleet.rows.values())
    assert set(rows.columns) == set(real.columns)
    for column in ("released", "colour", "employed", "year"):
        synthetic, true = (t[column].value_counts(normalize=True) for t in (rows, real))
        assert synthetic.sub(true, fill_value=0).abs().sum() / 2 < 0.08, column
    drawn = Generator.load(folder / "generator.bundle").sample(500, where={"released": "No"})
    assert set(drawn.to_pandas()["released"]) == {"No"}
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split(maxsplit=1)
        assert hashlib.sha256((folder / name.lstrip("*")).read_bytes()).hexdigest() == digest
