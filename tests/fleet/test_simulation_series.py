"""Fleets of series in one process: how a series goes on is what comes out of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from edge_runtime.aggregator.config import (
    FusionSettings,
    GuardSettings,
    RoundSettings,
    RowSettings,
    TrainPlanSettings,
)
from edge_runtime.api import Generator
from edge_runtime.fleet.simulation import Simulation
from edge_runtime.schema import Column, Order, Schema, Sequence, broken_rows, read_table

CLEAR = Schema(
    name="tides",
    columns=(
        Column(name="fast", kind="boolean", condition=True),
        Column(name="buoy", kind="integer", low=0, high=99),
        Column(name="at", kind="number", low=0, high=1e6, unit="min"),
        Column(name="level", kind="number", low=-3, high=3),
        Column(name="crest", kind="number", low=-3, high=3),
    ),
    constraints=(Order(columns=("level", "crest")),),
    sequence=Sequence(lags=2, entity="buoy", order="at", every=10.0, static=("fast",)),
)


def tides(seed: int, rows: int) -> pd.DataFrame:
    """Two buoys; the level swings, twice as fast on one of them. Every twentieth is lost."""
    rng = np.random.default_rng(seed)
    frames = []
    for buoy in (0, 1):
        at = 10.0 * np.arange(rows)
        turn = 2 * np.pi * np.arange(rows) / (8 if buoy else 16) + rng.random()
        level = (np.sin(turn) + rng.normal(0, 0.1, rows)).clip(-3, 2.5)
        frame = pd.DataFrame({"fast": buoy == 1, "buoy": buoy, "at": at, "level": level})
        frame["crest"] = level + 0.5 * rng.random(rows)
        frames.append(frame[rng.random(rows) > 0.05])
    return pd.concat(frames)


def follows(levels: np.ndarray) -> float:
    """Correlation of a step with the one before it, levels float64 [windows, steps]."""
    before, after = levels[:, :-1].ravel(), levels[:, 1:].ravel()
    there = ~(np.isnan(before) | np.isnan(after))
    return float(np.corrcoef(before[there], after[there])[0, 1])


@pytest.mark.parametrize("epsilon", [None, 8.0])
def test_steps_follow_each_other_in_release_and_series(
    tmp_path: Path, epsilon: float | None
) -> None:
    """Large devices without privacy send rows; small ones under privacy counts alone."""
    devices, rows = (2, 900) if epsilon is None else (8, 300)
    fleet = Simulation(
        schema=CLEAR,
        devices={f"d{i:02}": tides(i, rows) for i in range(devices)},
        epsilon=epsilon,
        rounds=RoundSettings(count=2, quorum=devices),
        train=TrainPlanSettings(steps=200, expected_batch=64),
        rows=RowSettings(share=2.0, minimum=100, maximum=2000),
        fusion=FusionSettings(hidden=48, epochs=30, batch=256, max_seconds=600.0),
        guard=GuardSettings(rows=2000),
        directory=tmp_path / "fleet",
    )
    with fleet:
        bundle = fleet.run()
        kinds = [record.kind for record in fleet.workspace.catalogue.rounds()]
        assert kinds == ["census", *(["train"] * 2 if epsilon is None else ["measure"] * 2)]
        windows = fleet.workspace.rows_of_devices(bundle).values()
        assert sum(windows) == pytest.approx(devices * 2 * rows / 3, rel=0.1)
        release = fleet.release(tmp_path / "release", rows=1500)
    schema = Schema.load(release.path / "schema.json")
    table = read_table(release.data, schema, synthetic=True)
    assert table.rows == 3 * 1500
    statement = (release.path / "PRIVACY.md").read_text()
    assert "1,500 windows of 3 rows each in data.parquet" in statement
    assert ("a single reading is protected as two windows are" in statement) == bool(epsilon)
    assert not broken_rows(table, schema.constraints[0]).any()
    real = tides(99, 3000)
    for fast in (False, True):
        levels = table.columns["level"][table.columns["fast"] == fast].reshape(-1, 3)
        series = Generator(bundle).sample_series(60, 40, where={"fast": fast})
        drawn = series.columns["level"].reshape(60, 40)
        wanted = real[real["fast"] == fast].set_index("at")["level"].reindex(10.0 * np.arange(3000))
        exact = follows(wanted.to_numpy().reshape(1, -1))
        least = 0.75 if epsilon is None else 0.4
        assert follows(levels) > least * exact, fast
        assert follows(drawn) > least * exact, fast
