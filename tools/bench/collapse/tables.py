"""The two tables, as fleets: real rows by device, and held-out rows that no device ever sees."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from edge_runtime.fleet.flights import read_flights
from edge_runtime.schema import Column, Schema

__all__ = ["TABLES", "FleetTable", "abalone", "flights", "seasons"]

#: physical bounds of an abalone, far enough out that no shell exceeds them (millimetres are
#: divided by 200 in the table, grams too)
_ABALONE = {
    "length": 1.0,
    "diameter": 1.0,
    "height": 1.5,
    "whole_weight": 4.0,
    "shucked_weight": 2.0,
    "viscera_weight": 1.0,
    "shell_weight": 1.5,
}

_FLIGHTS = (
    "late", "month", "hour", "origin", "dest", "distance", "dep_delay", "air_time", "arr_delay",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FleetTable:
    """A table dealt out to devices; `held_out` rows are for the figures alone."""

    name: str
    schema: Schema
    devices: dict[str, pd.DataFrame]
    held_out: pd.DataFrame

    @property
    def rows(self) -> int:
        """Real rows of all devices."""
        return sum(len(frame) for frame in self.devices.values())


def flights(*, seed: int = 0, devices: int = 10, rows: int = 600) -> FleetTable:
    """Flights that left New York, a device per carrier: mixed kinds, skewed, rare destinations.

    Parameters
    ----------
    seed : int
        Of the draw of rows.
    devices : int
        The carriers with the most flights.
    rows : int
        Real rows of each device.
    """
    table = _flights()
    # Which airports have flights from New York is public: naming them tells nothing of any row.
    airports = tuple(sorted(table["dest"].unique()))
    minutes = {"kind": "integer", "unit": "minutes", "nullable": True}
    schema = Schema(
        name="flights",
        columns=(
            Column(name="late", kind="boolean", nullable=True, condition=True),
            Column(name="month", kind="integer", low=1.0, high=12.0),
            Column(name="hour", kind="integer", low=0.0, high=23.0),
            Column(name="origin", kind="category", values=("EWR", "JFK", "LGA")),
            Column(name="dest", kind="category", values=airports),
            Column(name="distance", kind="integer", low=0.0, high=5000.0, unit="miles"),
            Column(name="dep_delay", low=-60.0, high=600.0, **minutes),
            Column(name="air_time", low=0.0, high=720.0, **minutes),
            Column(name="arr_delay", low=-90.0, high=600.0, **minutes),
        ),
    )
    rng = np.random.default_rng(seed)
    carriers = [str(name) for name in table["carrier"].value_counts().index[:devices]]
    dealt, held = {}, []
    for carrier in carriers:
        own = table[table["carrier"] == carrier][list(schema.names)]
        # As many held out as dealt out, so that both follow the same mixture of carriers.
        order = rng.permutation(len(own))[: 2 * rows]
        dealt[carrier.lower()] = own.iloc[order[:rows]]
        held.append(own.iloc[order[rows:]])
    return FleetTable(name="flights", schema=schema, devices=dealt, held_out=pd.concat(held))


def seasons(*, seed: int, devices: int, rows: int, rounds: int) -> list[dict[str, pd.DataFrame]]:
    """Rows of every carrier for each round, of four months that move through the year."""
    table = _flights()
    names = [name for name in table.columns if name != "carrier"]
    carriers = [str(name) for name in table["carrier"].value_counts().index[:devices]]
    rng = np.random.default_rng(seed)
    windows = []
    for start in np.linspace(1, 9, rounds).round().astype(int):
        inside = table[table["month"].between(start, start + 3)]
        dealt = {}
        for carrier in carriers:
            own = inside[inside["carrier"] == carrier][names]
            dealt[carrier.lower()] = own.iloc[rng.permutation(len(own))[:rows]]
        windows.append(dealt)
    return windows


@functools.cache
def _flights() -> pd.DataFrame:
    table = read_flights()
    return table[[*_FLIGHTS, "carrier"]]


def abalone(*, seed: int = 0, devices: int = 10, rows: int = 300) -> FleetTable:
    """Measurements of shells: seven numbers and a count, tightly related, dealt out at random."""
    spec = find_spec("sklego")
    if spec is None or spec.origin is None:
        raise SystemExit("scikit-lego is missing; install it: pip install 'scikit-lego>=0.9'")
    table: Any = pd.read_csv(Path(spec.origin).parent / "data" / "abalone.zip")
    schema = Schema(
        name="abalone",
        columns=(
            *(
                Column(name=name, kind="number", low=0.0, high=high, decimals=4)
                for name, high in _ABALONE.items()
            ),
            Column(name="rings", kind="integer", low=0.0, high=30.0),
        ),
    )
    table = table[list(schema.names)]
    order = np.random.default_rng(seed).permutation(len(table))
    dealt = {f"reef-{k}": table.iloc[order[k * rows : (k + 1) * rows]] for k in range(devices)}
    return FleetTable(
        name="abalone", schema=schema, devices=dealt, held_out=table.iloc[order[devices * rows :]]
    )


#: what the bench runs on: mixed kinds, and numbers alone
TABLES = {"flights": flights, "abalone": abalone}
