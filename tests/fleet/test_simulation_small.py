"""Fleets of devices too small to train: what is asked of them, and what comes out all the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from edge_runtime.aggregator import make_release, repeat_release, verify_release
from edge_runtime.aggregator.config import (
    FusionSettings,
    GuardSettings,
    RoundSettings,
    RowSettings,
    TrainPlanSettings,
)
from edge_runtime.aggregator.prior import ANCHOR_ROWS
from edge_runtime.device.config import TrainingConfig
from edge_runtime.errors import AggregatorError
from edge_runtime.fleet.simulation import Simulation
from edge_runtime.generator import open_engine, sample_codes
from edge_runtime.messages import decode_plan
from edge_runtime.schema import Column, Schema, read_table

SCHEMA = Schema.ordered(
    name="machines",
    columns=(
        Column(name="fault", kind="boolean", condition=True),
        Column(name="site", kind="category", values=("north", "south"), other=True),
        Column(name="load", kind="number", low=0.0, high=100.0, decimals=1),
    ),
)


def frame(seed: int, rows: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    fault = rng.random(rows) < 0.3
    load = np.clip(rng.normal(np.where(fault, 80.0, 30.0), 8.0), 0, 100)
    return pd.DataFrame(
        {
            "fault": fault,
            "site": rng.choice(["north", "south", "east"], rows, p=[0.6, 0.3, 0.1]),
            "load": load.round(1),
        }
    )


@pytest.fixture
def simulate(tmp_path: Path) -> Iterator[Callable[..., Simulation]]:
    made: list[Simulation] = []

    def make(**changes: Any) -> Simulation:
        simulation = Simulation(
            **{
                "schema": SCHEMA,
                "epsilon": 8.0,
                "rounds": RoundSettings(count=2, quorum=2),
                "train": TrainPlanSettings(steps=20, expected_batch=32),
                "rows": RowSettings(share=1.0, minimum=100, maximum=400),
                "fusion": FusionSettings(hidden=24, epochs=3, batch=256, max_seconds=600.0),
                "guard": GuardSettings(rows=2000),
                "directory": tmp_path / "fleet",
                **changes,
            }
        )
        made.append(simulation)
        return simulation

    yield make
    for simulation in made:
        simulation.close()


def same_files(one: Path, two: Path) -> None:
    names = sorted(p.name for p in one.iterdir())
    assert names == sorted(p.name for p in two.iterdir())
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_small_devices_are_asked_for_counts_alone_and_a_release_follows(
    simulate: Callable[..., Simulation], tmp_path: Path
) -> None:
    devices = {f"d{i:02}": frame(i) for i in range(20)}
    fleet = simulate(devices=devices)
    bundle = fleet.run()
    workspace = fleet.workspace
    assert [(r.kind, r.status) for r in workspace.catalogue.rounds()] == [
        ("census", "closed"),
        ("measure", "closed"),
        ("measure", "closed"),
    ]
    assert bundle.lineage.depth >= 1
    # The whole fleet is behind the generator, though no device has sent a row.
    assert bundle.lineage.devices == 20
    assert bundle.lineage.rows == pytest.approx(1200, rel=0.5)
    assert len(workspace.pool_rows().codes) == 0
    for device in fleet.devices.values():
        assert [entry.what for entry in device.entries()] == ["census", "anchor", "anchor"]
        # Nothing of the budget is left over for a training that nobody asked for.
        assert 7.9 < device.epsilon_spent <= 8.0
        assert device.rows_accepted == 0

    release = fleet.release(tmp_path / "one", rows=2000)
    assert verify_release(release.path) > 5
    assert release.facts["mode"] == "matched"
    assert release.facts["devices"] == 20
    schema = Schema.load(release.path / "schema.json")
    table = read_table(release.data, schema, synthetic=True)
    fault = table.columns["fault"] == 1
    load = np.asarray(table.columns["load"], float)
    real = pd.concat(devices.values())
    assert abs(fault.mean() - real["fault"].mean()) < 0.08
    # The signal of which no device has much.
    assert load[fault].mean() - load[~fault].mean() > 30
    engine = open_engine(bundle)
    codes = sample_codes(engine, 4000, key=b"\3" * 32)
    engine.close()
    assert codes[codes[:, 0] == 1, 2].mean() - codes[codes[:, 0] == 0, 2].mean() > 1

    lineage = json.loads((release.path / "lineage.json").read_text())["rows"]
    assert [(row["device"], row["round"], row["released"]) for row in lineage] == [
        (ANCHOR_ROWS, 0, 2000)
    ]
    page = (release.path / "report.html").read_text()
    assert ANCHOR_ROWS in page
    assert (release.facts["pooled_rows"], release.facts["rows_from_counts"]) == (0, 50_000)
    assert release.facts["rounds"] == []
    # Nobody is told that devices have sent rows.
    for name in ("report.html", "MODEL_CARD.md", "PRIVACY.md"):
        text = (release.path / name).read_text()
        assert "that 20 devices sent" not in text, name
        assert "devices' own networks" not in text, name
        assert "counts of 20 devices, which sent no rows" in text, name

    with pytest.raises(AggregatorError, match="counts alone; use --mode matched"):
        fleet.release(tmp_path / "no", mode="pool")
    assert not (tmp_path / "no").exists()
    balanced = fleet.release(tmp_path / "balanced", rows=1000, mode="balanced")
    half = read_table(balanced.data, schema, synthetic=True).columns["fault"]
    assert int((half == 1).sum()) == 500

    # From a directory that was closed and moved, byte for byte.
    fleet.close()
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "fleet" / "aggregator", moved)
    again = repeat_release(moved, release.facts["id"], tmp_path / "two")
    assert again.identical
    same_files(tmp_path / "one", tmp_path / "two")
    anew = make_release(moved, tmp_path / "three", 2000)
    same_files(tmp_path / "one", anew.path)


MEASURED = Schema.ordered(
    name="pumps",
    columns=(
        Column(name="state", kind="category", values=("calm", "worn", "blocked"), condition=True),
        Column(name="flow", kind="number", low=-10.0, high=10.0),
        Column(name="pressure", kind="number", low=-10.0, high=10.0, nullable=True),
        Column(name="noise", kind="number", low=-10.0, high=10.0),
        Column(name="site", kind="category", values=("north", "south")),
    ),
)


def measured(seed: int, rows: int = 150) -> pd.DataFrame:
    """Pumps whose flow and pressure rise together while calm and against each other when worn."""
    rng = np.random.default_rng(seed)
    state = rng.integers(0, 3, rows)
    turn = np.array([0.8, -0.8, 0.0])[state]
    flow, other = rng.normal(size=(2, rows))
    pressure = turn * flow + np.sqrt(1 - turn**2) * other
    pressure[rng.random(rows) < 0.2] = np.nan
    return pd.DataFrame(
        {
            "state": np.array(["calm", "worn", "blocked"])[state],
            "flow": flow,
            "pressure": pressure,
            "noise": rng.normal(size=rows) + np.array([0.0, 0.0, 2.0])[state],
            "site": np.where(rng.random(rows) < np.array([0.2, 0.5, 0.8])[state], "north", "south"),
        }
    )


def test_small_devices_with_measured_columns_send_sums_that_keep_how_they_vary(
    simulate: Callable[..., Simulation], tmp_path: Path
) -> None:
    fleet = simulate(
        schema=MEASURED,
        devices={f"d{i:02}": measured(i) for i in range(12)},
        rounds=RoundSettings(count=2, quorum=2, census_share=0.15),
    )
    fleet.run()
    plans = [decode_plan(record.plan.encode()) for record in fleet.workspace.catalogue.rounds()[1:]]
    first, second = (plan.moments for plan in plans)
    assert first is not None
    assert second is not None
    assert (first.order, first.given, first.columns) == (1, 0, (1, 2, 3))
    assert (second.order, second.groups, second.columns) == (2, 3, (1, 2, 3))
    # A name has no score: its pairs with the condition are counted.
    assert plans[0].anchor is not None
    assert (0, 4) in plans[0].anchor.tables
    assert plans[1].anchor is None
    for device in fleet.devices.values():
        whats = [entry.what for entry in device.entries()]
        assert whats == ["census", "anchor", "moments", "moments"]
        assert 7.9 < device.epsilon_spent <= 8.0

    release = fleet.release(tmp_path / "one", rows=6000)
    schema = Schema.load(release.path / "schema.json")
    table = read_table(release.data, schema, synthetic=True)
    state = np.asarray(table.columns["state"])
    there = ~table.missing["pressure"]
    assert 1 - there.mean() == pytest.approx(0.2, abs=0.08)
    together = {}
    for name in ("calm", "worn"):
        rows = (state == name) & there
        flow, pressure = (np.asarray(table.columns[c], float)[rows] for c in ("flow", "pressure"))
        together[name] = np.corrcoef(flow, pressure)[0, 1]
    assert together["calm"] > 0.3
    assert together["worn"] < -0.3
    noise = np.asarray(table.columns["noise"], float)
    assert noise[state == "blocked"].mean() - noise[state != "blocked"].mean() > 1.2
    north = np.asarray(table.columns["site"]) == "north"
    assert north[state == "blocked"].mean() - north[state == "calm"].mean() > 0.3

    again = repeat_release(fleet.workspace.data_dir, release.facts["id"], tmp_path / "two")
    assert again.identical


def test_moments_can_be_turned_off(simulate: Callable[..., Simulation]) -> None:
    fleet = simulate(
        schema=MEASURED,
        devices={f"d{i:02}": measured(i, rows=60) for i in range(8)},
        rounds=RoundSettings(count=2, quorum=2, moments="none"),
    )
    fleet.run()
    for record in fleet.workspace.catalogue.rounds():
        plan = decode_plan(record.plan.encode())
        assert plan.moments is None
    assert fleet.workspace.catalogue.rounds()[-1].kind == "measure"


def test_devices_of_middling_size_send_rows_and_the_counts_add_some(
    simulate: Callable[..., Simulation], tmp_path: Path
) -> None:
    devices = {f"d{i}": frame(i, 400) for i in range(4)}
    fleet = simulate(
        devices=devices,
        rounds=RoundSettings(count=1, quorum=4),
        guard=GuardSettings(rows=2000, limit=1.0, batches=False),
    )
    bundle = fleet.run()
    assert fleet.workspace.catalogue.rounds()[-1].kind == "train"
    pool = fleet.workspace.pool_rows()
    assert pool.devices == tuple(devices)
    share = fleet.workspace.prior_share
    assert 0.1 < share < 0.5
    assert bundle.metrics["pooled_rows"] == len(pool.codes)
    release = fleet.release(tmp_path / "one", rows=3000)
    rows = json.loads((release.path / "lineage.json").read_text())["rows"]
    released = {row["device"]: row["released"] for row in rows}
    assert set(released) == {*devices, ANCHOR_ROWS}
    assert (release.facts["pooled_rows"], release.facts["rows_from_counts"]) == (
        len(pool.codes),
        50_000,
    )
    words = (
        f"{len(pool.codes):,} that 4 devices sent and 50,000 drawn from the fleet's merged counts"
    )
    assert words in (release.path / "MODEL_CARD.md").read_text()
    assert words in (release.path / "PRIVACY.md").read_text()
    assert released[ANCHOR_ROWS] / 3000 == pytest.approx(share, abs=0.15)
    # What devices have sent is what the pool's own mode draws from.
    pure = fleet.release(tmp_path / "pure", rows=1000, mode="pool")
    rows = json.loads((pure.path / "lineage.json").read_text())["rows"]
    released = {row["device"]: row["released"] for row in rows}
    assert released[ANCHOR_ROWS] == 0
    assert sum(released.values()) == 1000
    assert pure.facts["rows_from_counts"] == 0
    assert "merged counts" not in (pure.path / "MODEL_CARD.md").read_text()


def test_several_conditions_and_a_numeric_one(
    simulate: Callable[..., Simulation], tmp_path: Path
) -> None:
    # A regression: yield is asked for, and so is the line, of which each device has one.
    schema = Schema.ordered(
        name="batches",
        columns=(
            Column(name="yield", kind="number", low=0.0, high=100.0, decimals=1, condition=True),
            Column(name="line", kind="category", values=("a", "b", "c"), condition=True),
            Column(name="heat", kind="number", low=0.0, high=50.0, decimals=1),
            Column(name="shift", kind="category", values=("day", "night")),
        ),
    )

    def rows(seed: int, count: int) -> pd.DataFrame:
        rng = np.random.default_rng(seed)
        heat = rng.uniform(5, 45, count)
        result = np.clip(2 * heat + rng.normal(0, 6, count), 0, 100)
        return pd.DataFrame(
            {
                "yield": result.round(1),
                "line": ["abc"[seed % 3]] * count,
                "heat": heat.round(1),
                "shift": rng.choice(["day", "night"], count, p=[0.7, 0.3]),
            }
        )

    devices = {f"d{i}": rows(i, 1500) for i in range(6)}
    fleet = simulate(
        schema=schema,
        devices=devices,
        rounds=RoundSettings(count=2, quorum=6, anchor_share=0.3),
        train=TrainPlanSettings(steps=60, expected_batch=200),
        guard=GuardSettings(rows=2000, limit=1.0),
        fusion=FusionSettings(hidden=32, epochs=4, batch=256, max_seconds=600.0, prior=0),
    )
    bundle = fleet.run()
    assert bundle.schema.conditions == (0, 1)
    anchor = fleet.workspace.anchor(bundle)
    assert anchor is not None
    # Each condition with every other column, and each column at least once.
    assert {c for table in anchor.tables for c in table} == {0, 1, 2, 3}
    pool = fleet.workspace.pool_rows()
    assert set(pool.round) == {1, 2}
    # A device sends rows of no line that it does not have, but for a few where noise says it has
    # some; balanced over lines that it does not know it would send a third.
    for index, name in enumerate(pool.devices):
        own = int(bundle.codec.code_of(1, "abc"[int(name[1:]) % 3]))
        assert (pool.codes[pool.device == index, 1] == own).mean() > 0.85, name
    release = fleet.release(tmp_path / "release", rows=3000)
    table = read_table(release.data, schema, synthetic=True)
    lines = np.asarray(table.columns["line"])
    for line in "abc":
        assert (lines == line).mean() == pytest.approx(1 / 3, abs=0.06)
    heat = np.asarray(table.columns["heat"], float)
    result = np.asarray(table.columns["yield"], float)
    # Noise is drawn anew each time: .33 to .63 in fifty runs, and 0 where nothing is learned (with
    # a standard deviation of .02).
    assert np.corrcoef(heat, result)[0, 1] > 0.15
    balanced = fleet.release(tmp_path / "balanced", rows=900, mode="balanced")
    assert balanced.rows == 900


def test_devices_of_fifty_rows_send_their_counts_in_a_training_round(
    simulate: Callable[..., Simulation], tmp_path: Path
) -> None:
    # Large devices set the plan; small ones answer with what they can and are no trouble.
    devices = {f"d{i}": frame(i, 2000) for i in range(3)} | {"small": frame(9, 50)}
    fleet = simulate(
        devices=devices,
        rounds=RoundSettings(count=1, quorum=4),
        training=TrainingConfig(minimum_rows=200),
    )
    bundle = fleet.run()
    (record,) = [r for r in fleet.workspace.catalogue.rounds() if r.round == 1]
    assert record.kind == "train"
    assert "4 of 4 devices answered" in record.reason or "published" in record.reason
    small = fleet.devices["small"]
    assert [entry.what for entry in small.entries()] == ["census", "anchor"]
    assert small.state.status == "idle"
    assert small.epsilon_spent < 8.0
    pool = fleet.workspace.pool_rows()
    assert "small" not in pool.devices
    anchor = fleet.workspace.anchor(bundle)
    assert anchor is not None
    assert anchor.devices == 4
    release = fleet.release(tmp_path / "release", rows=500)
    assert release.facts["devices"] == 3
