"""The demo's data: who sees which rows, and that nobody sees the held-out ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from edge_runtime.errors import FleetError
from edge_runtime.evaluation import Frame
from edge_runtime.fleet.flights import (
    DESTINATIONS,
    INPUTS,
    MINIMUM_ROWS,
    TARGET,
    FlightsData,
    flights_schema,
    load_flights,
    prepare_flights,
    read_rows,
)
from edge_runtime.schema import Schema, read_table


def test_real_table_is_what_the_documents_say(flights: pd.DataFrame) -> None:
    assert len(flights) == 336_776
    counts = flights["carrier"].value_counts()
    assert (counts >= MINIMUM_ROWS).sum() == 14
    assert tuple(sorted(flights["dest"].value_counts().index[:30])) == DESTINATIONS
    late = flights[TARGET].dropna()
    known = flights["arr_delay"].dropna()
    assert len(late) == len(known)
    assert ((known > 15).to_numpy() == late.astype(bool).to_numpy()).all()
    # Bounds are public, and hold nearly everything: the rest is clamped and counted.
    for column in flights_schema().columns:
        if column.kind == "integer":
            values = flights[column.name].dropna()
            assert ((values < column.low) | (values > column.high)).mean() < 2e-4


def test_condition_comes_first_and_inputs_tell_nothing_about_the_delay() -> None:
    schema = flights_schema()
    assert schema.columns[0].name == TARGET
    assert schema.columns[0].condition
    assert not {"dep_delay", "air_time", "arr_delay", TARGET} & set(INPUTS)


def test_devices_and_held_out_rows_partition_each_carrier(
    small_data: FlightsData, few_flights: pd.DataFrame
) -> None:
    assert [device.device for device in small_data.devices] == ["ua", "b6", "fl"]
    assert small_data.rows == 3 * 1200
    assert small_data.held_out == 3 * 300
    held = read_rows(small_data.held_out_path)
    for position, device in enumerate(small_data.devices):
        own = few_flights[few_flights["carrier"] == device.device.upper()]
        seen = read_rows(device.path)
        both = pd.concat([seen, held[position * 300 : (position + 1) * 300]])
        left = sorted(map(tuple, _numeric(both)))
        right = sorted(map(tuple, _numeric(own)))
        assert left == right


def _numeric(frame: pd.DataFrame) -> np.ndarray:
    numbers = frame[["month", "day", "hour", "minute", "distance", "arr_delay"]]
    return numbers.astype("Float64").to_numpy(dtype=float, na_value=-999.0)


def test_files_are_read_by_the_schema_as_written(small_data: FlightsData) -> None:
    assert Schema.load(small_data.schema_path) == small_data.schema
    device = small_data.devices[0]
    table = read_table(device.path, small_data.schema)
    assert table.rows == device.rows
    careful = Frame.of(table, small_data.schema)
    fast = Frame.of(read_rows(device.path), small_data.schema)
    for name in ("late", "dest"):
        np.testing.assert_array_equal(careful.codes[name], fast.codes[name])
    np.testing.assert_array_equal(careful.numbers["arr_delay"], fast.numbers["arr_delay"])


def test_the_draw_depends_on_the_seed_and_the_device_alone(
    tmp_path: Path, few_flights: pd.DataFrame, small_data: FlightsData
) -> None:
    one = prepare_flights(tmp_path / "one", devices=1, flights=few_flights)
    assert [d.device for d in one.devices] == ["ua"]
    assert one.devices[0].path.read_bytes() == small_data.devices[0].path.read_bytes()
    other = prepare_flights(tmp_path / "other", devices=1, seed=1, flights=few_flights)
    assert other.devices[0].path.read_bytes() != one.devices[0].path.read_bytes()


def test_it_is_found_again(small_data: FlightsData, tmp_path: Path) -> None:
    assert load_flights(small_data.schema_path.parent) == small_data
    with pytest.raises(FleetError, match="does not hold prepared flights"):
        load_flights(tmp_path)


@pytest.mark.parametrize("devices", [0, 4])
def test_impossible_numbers_of_devices(
    tmp_path: Path, few_flights: pd.DataFrame, devices: int
) -> None:
    with pytest.raises(FleetError, match="this table has 1 to 3"):
        prepare_flights(tmp_path, devices=devices, flights=few_flights)
