"""A small mixed table whose truth is known, and poorer copies of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from edge_runtime.evaluation import Frame
from edge_runtime.schema import Column, Schema

SCHEMA = Schema(
    name="machines",
    columns=(
        Column(name="fault", kind="boolean", condition=True, nullable=True),
        Column(name="site", kind="category", values=("north", "south"), other=True),
        Column(name="hour", kind="integer", low=0.0, high=23.0),
        Column(name="cycles", kind="integer", low=0.0, high=1000.0, unit="turns"),
        Column(name="heat", kind="number", low=-50.0, high=150.0, unit="C", nullable=True),
    ),
)


def machine_rows(rows: int, seed: int) -> pd.DataFrame:
    """Faults depend on heat and site; some heats and faults are missing."""
    rng = np.random.default_rng(seed)
    heat = rng.normal(40, 15, rows).clip(-50, 150).round(1)
    site = rng.choice(["north", "south", "east"], rows, p=[0.5, 0.3, 0.2])
    logit = (heat - 45) / 6 + (site == "south") * 1.5
    fault = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(object)
    fault[rng.random(rows) < 0.02] = None
    heat[rng.random(rows) < 0.05] = np.nan
    cycles = (heat * 5 + rng.normal(300, 40, rows)).clip(0, 1000)
    return pd.DataFrame(
        {
            "fault": fault,
            "site": site,
            "hour": rng.integers(0, 24, rows),
            "cycles": np.nan_to_num(cycles, nan=300).astype(np.int64),
            "heat": heat,
        }
    )


def shuffled(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The same columns with every relation between them destroyed."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame({name: rng.permutation(table[name].to_numpy()) for name in table})


@pytest.fixture(scope="session")
def schema() -> Schema:
    return SCHEMA


@pytest.fixture(scope="session")
def train() -> Frame:
    return Frame.of(machine_rows(4000, 1), SCHEMA)


@pytest.fixture(scope="session")
def test() -> Frame:
    return Frame.of(machine_rows(2000, 2), SCHEMA)


@pytest.fixture(scope="session")
def broken() -> Frame:
    return Frame.of(shuffled(machine_rows(4000, 3)), SCHEMA)
