"""A fleet with constraints: they hold in its release and in what its generator draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from edge_runtime.aggregator.config import (
    FusionSettings,
    GuardSettings,
    RoundSettings,
    RowSettings,
    TrainPlanSettings,
)
from edge_runtime.api import Generator
from edge_runtime.fleet.simulation import Simulation
from edge_runtime.schema import (
    Column,
    Combinations,
    Order,
    Schema,
    Sum,
    broken_rows,
    read_table,
)

SCHEMA = Schema.ordered(
    name="orders",
    columns=(
        Column(name="late", kind="boolean", condition=True),
        Column(name="site", kind="category", values=("north", "south", "east")),
        Column(name="due", kind="integer", low=0, high=200),
        Column(name="done", kind="integer", low=0, high=260, nullable=True),
        Column(name="goods", kind="integer", low=0, high=500),
        Column(name="freight", kind="integer", low=0, high=60),
        Column(name="total", kind="integer", low=0, high=560),
    ),
    constraints=(
        Order(columns=("due", "done")),
        Sum(total="total", parts=("goods", "freight")),
        Combinations(
            columns=("late", "site"),
            allowed=((True, "north"), (False, "north"), (False, "south"), (True, "east")),
        ),
    ),
)


def frame(seed: int, rows: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    late = rng.random(rows) < 0.4
    site = np.where(late, rng.choice(["north", "east"], rows), rng.choice(["north", "south"], rows))
    due = rng.integers(0, 180, rows)
    done = due + np.where(late, rng.integers(10, 60, rows), rng.integers(0, 10, rows))
    goods, freight = rng.gamma(2, 60, rows).clip(0, 500).astype(int), rng.integers(0, 60, rows)
    return pd.DataFrame(
        {
            "late": late,
            "site": site,
            "due": due,
            "done": pd.array(np.where(rng.random(rows) < 0.1, -1, done), "Int64"),
            "goods": goods,
            "freight": freight,
            "total": goods + freight,
        }
    ).replace({"done": {-1: None}})


def test_release_and_generator_keep_the_constraints(tmp_path: Path) -> None:
    fleet = Simulation(
        schema=SCHEMA,
        devices={f"d{number}": frame(number, 1500) for number in range(3)},
        epsilon=8.0,
        rounds=RoundSettings(count=1, quorum=3),
        train=TrainPlanSettings(steps=40, expected_batch=64),
        rows=RowSettings(share=1.0, minimum=100, maximum=2000),
        fusion=FusionSettings(hidden=32, epochs=3, batch=256, max_seconds=600.0),
        guard=GuardSettings(rows=2000),
        directory=tmp_path / "fleet",
    )
    try:
        bundle = fleet.run()
        release = fleet.release(tmp_path / "release", rows=3000)
    finally:
        fleet.close()
    table = read_table(release.data, SCHEMA, synthetic=True)
    assert table.rows == 3000
    drawing = Generator(bundle).sample(2000)
    for constraint in SCHEMA.constraints:
        assert not broken_rows(table, constraint).any(), constraint
        assert not broken_rows(drawing, constraint).any(), constraint
    cost = release.facts["constraints"]
    # Devices have drawn again what could not be; rows from merged counts know of no constraint.
    assert cost["rows_from_counts_left_out"] > cost["pooled_rows_left_out"]
    assert drawing.synthetic is not None
    assert 0.1 < drawing.synthetic["acceptance"] < 1
