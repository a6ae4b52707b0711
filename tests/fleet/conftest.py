"""A small flights table, prepared on disk once."""

from __future__ import annotations

import pandas as pd
import pytest

from edge_runtime.fleet.flights import FlightsData, prepare_flights, read_flights


@pytest.fixture(scope="session")
def flights() -> pd.DataFrame:
    """The whole real table."""
    return read_flights()


@pytest.fixture(scope="session")
def few_flights(flights: pd.DataFrame) -> pd.DataFrame:
    """1,500 flights of each of three carriers."""
    parts = [
        flights[flights["carrier"] == carrier].sample(1500, random_state=0)
        for carrier in ("UA", "B6", "FL")
    ]
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory, few_flights: pd.DataFrame) -> FlightsData:
    """Those flights, prepared."""
    return prepare_flights(tmp_path_factory.mktemp("flights"), flights=few_flights)
