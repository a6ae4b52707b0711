"""A fleet of series: real processes over a real broker, sources that grow, a device that is killed.

Two machines write a reading a second each, now and then none. What must hold in the end: every
window of the files counts once, whatever happened in between; the release has whole windows; and
whoever reads any of it is told that the unit is a window.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from edge_runtime.aggregator import status, verify_release
from edge_runtime.api import Generator
from edge_runtime.errors import AggregatorError
from edge_runtime.fleet.broker import start_broker
from edge_runtime.messages import decode_summary
from edge_runtime.schema import Column, Schema, Sequence, read_table, to_windows
from tests.device.conftest import wait_for

FLEET, STEPS, DEVICES = "pumps", 3, ("one", "two")
UNIT = f"window of {STEPS} rows"
SCHEMA = Schema(
    name="pumps",
    columns=(
        Column(name="state", kind="category", values=("idle", "run"), condition=True),
        Column(name="pump", kind="integer", low=0, high=9),
        Column(name="at", kind="timestamp", low=0, high=1e12),
        Column(name="flow", kind="number", low=-5, high=5),
        Column(name="valve", kind="category", values=("open", "shut")),
    ),
    sequence=Sequence(lags=STEPS - 1, entity="pump", order="at", every=1.0, static=("state",)),
)


def readings(device: str, first: int, last: int) -> list[str]:
    """Lines of two pumps, seconds `first` to `last`; the flow wanders, faster while they run."""
    draw = random.Random(f"{device} {first}")
    lines, flow = [], [0.0, 0.0]
    for second in range(first, last):
        state = ("idle", "run")[second // 60 % 2]
        for pump in (0, 1):
            flow[pump] = 0.9 * flow[pump] + draw.gauss(0, 0.4 if state == "run" else 0.1)
            if draw.random() < 0.05:
                continue
            at = pd.Timestamp(second, unit="s", tz="UTC").isoformat()
            valve = "open" if flow[pump] > 0 else "shut"
            lines.append(f"{state},{pump},{at},{flow[pump]:.3f},{valve}\n")
    return lines


class Fleet:
    """The processes of the test; ended by the fixture."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = start_broker(folder / "broker")
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        SCHEMA.save(folder / "schema.json")

    def start(self, name: str, text: str = "") -> None:
        path = self.folder / f"{name}.toml"
        if text:
            path.write_text("\n".join(line.strip() for line in text.splitlines()))
        module = "aggregator" if name == "aggregator" else "device"
        with (self.folder / f"{name}.log").open("ab") as log:
            command = [sys.executable, "-m", f"edge_runtime.{module}", "--config", str(path)]
            self.running[name] = subprocess.Popen(command, stdout=log, stderr=log)

    def write(self, device: str, first: int, last: int) -> None:
        path = self.folder / f"{device}.csv"
        new = not path.exists()
        with path.open("a", encoding="utf-8") as file:
            file.write(",".join(SCHEMA.names) + "\n" if new else "")
            file.writelines(readings(device, first, last))

    def reached(self, phase: str) -> bool:
        ended = [name for name, process in self.running.items() if process.poll() is not None]
        assert not ended, (self.folder / f"{ended[0]}.log").read_text()[-3000:]
        try:
            found = status(self.folder / "aggregator")
        except AggregatorError:
            # Nothing is written yet.
            return False
        assert not found["totals"]["quarantined"], found
        return bool(found["phase"] in (phase, "done"))

    def windows(self, device: str) -> int:
        path = self.folder / device / "device.sqlite"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            (counted,) = database.execute("SELECT COUNT(counted) FROM windows").fetchone()
        return int(counted)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    yield made
    for process in made.running.values():
        process.terminate()
    for process in made.running.values():
        process.wait(30)
    made.broker.stop()


def expected_windows(path: Path) -> int:
    """Windows with half of their rows, but for the last one of each pump."""
    frame = pd.read_csv(path)
    since = pd.to_datetime(frame["at"], format="ISO8601") - pd.Timestamp(0, tz="UTC")
    slot = since // pd.Timedelta(seconds=1)
    rows = frame.groupby([frame["pump"], slot // STEPS, frame["state"]]).size()
    enough = rows[2 * rows >= STEPS]
    last = [max(key for key in rows.index if key[0] == pump) for pump in (0, 1)]
    return sum(key not in last for key in enough.index)


def test_a_fleet_of_series_from_growing_sources_to_a_release(fleet: Fleet) -> None:
    fleet.start(
        "aggregator",
        f"""
        fleet = {{ name = "{FLEET}", devices = {len(DEVICES)} }}
        broker = {{ port = {fleet.broker.port} }}
        data = {{ dir = "aggregator" }}
        schema = {{ path = "schema.json" }}
        privacy = {{ epsilon = 20.0 }}
        rounds = {{ count = 2, quorum = {len(DEVICES)}, deadline_s = 200 }}
        train = {{ steps = 200, expected_batch = 64 }}
        rows = {{ share = 1.0 }}
        fusion = {{ hidden = 48, epochs = 8, prior = 0.0 }}
        """,
    )
    for device in DEVICES:
        fleet.write(device, 0, 1000)
        fleet.start(
            device,
            f"""
            device = {{ id = "{device}", fleet = "{FLEET}", state_dir = "{device}" }}
            broker = {{ port = {fleet.broker.port} }}
            source = {{ path = "{device}.csv" }}
            privacy = {{ epsilon = 20.0 }}
            """,
        )
    wait_for("the census", lambda: fleet.reached("round"), timeout_s=60)
    fleet.running["one"].send_signal(signal.SIGKILL)
    fleet.running.pop("one").wait()
    fleet.write("one", 1000, 1200)
    fleet.start("one")
    wait_for("both rounds", lambda: fleet.reached("done"), timeout_s=120)

    assert fleet.windows("two") == expected_windows(fleet.folder / "two.csv")
    assert fleet.windows("one") == expected_windows(fleet.folder / "one.csv")
    check_messages(fleet.folder / "aggregator")
    release = fleet.folder / "aggregator" / "release"
    # It is written once the rounds are done, and appears as a whole.
    wait_for("the release", release.exists)
    check_release(release)


def check_messages(data: Path) -> None:
    with contextlib.closing(sqlite3.connect(data / "catalogue.sqlite")) as catalogue:
        found = catalogue.execute("SELECT kind, status, path FROM messages").fetchall()
    assert {status for _, status, _ in found} == {"accepted"}
    for kind, _, path in found:
        if kind in ("census", "anchor"):
            header, tables = decode_summary((data / path).read_bytes())
            assert header.privacy.unit == UNIT
            assert header.schema_digest == SCHEMA.learnt.digest
            if kind == "census":
                # Of a step, and the continuous flow in joined cells besides.
                assert len(tables) == 4


def check_release(folder: Path) -> None:
    verify_release(folder)
    facts = json.loads((folder / "release.json").read_text())
    assert (facts["unit"], facts["steps"], facts["privacy"]["unit"]) == (UNIT, STEPS, UNIT)
    for page in ("MODEL_CARD.md", "PRIVACY.md", "report.html"):
        assert UNIT in (folder / page).read_text(), page
    frame = pd.read_parquet(folder / "data.parquet")
    assert list(frame.columns) == ["state", "window", "step", "flow", "valve"]
    assert len(frame) == STEPS * facts["rows"]
    assert (frame["step"].to_numpy().reshape(-1, STEPS) == np.arange(STEPS)).all()
    assert (frame.groupby("window")["state"].nunique() == 1).all()
    assert 0.0 < frame["flow"].isna().mean() < 0.2, "gaps are there, as in the sources"
    schema = Schema.load(folder / "schema.json")
    table = read_table(folder / "data.parquet", schema, synthetic=True)
    again = to_windows(table, overlapping=False)
    assert (again.table.rows, again.left_out) == (facts["rows"], 0)
    generator = Generator.load(folder / "generator.bundle")
    series = generator.sample_series(20, 50, where={"state": "run"}).to_pandas()
    assert len(series) == 20 * 50
    assert set(series["state"]) == {"run"}
    assert series["flow"].between(-5, 5).sum() + series["flow"].isna().sum() == len(series)
