"""Tables as numbers and codes, and as network inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from edge_runtime.errors import DataError, EvaluationError
from edge_runtime.evaluation import Features, Frame
from edge_runtime.schema import Column, Schema, read_table

from .conftest import SCHEMA, machine_rows


def assert_same(one: Frame, two: Frame) -> None:
    assert one.labels == two.labels
    for name in one.schema.names:
        left = one.numbers[name] if name in one.numbers else one.codes[name]
        right = two.numbers[name] if name in two.numbers else two.codes[name]
        np.testing.assert_array_equal(left, right)


def test_every_way_in_gives_the_same_frame(tmp_path: Path) -> None:
    table = machine_rows(300, 0)
    text = table.assign(fault=table["fault"].map({True: "true", False: "false"}))
    text.to_csv(tmp_path / "rows.csv", index=False)
    table.to_parquet(tmp_path / "rows.parquet")
    fast = Frame.of(table, SCHEMA)
    assert fast.rows == 300
    assert (fast.codes["site"] == 2).sum() == (table["site"] == "east").sum()
    assert fast.missing("fault").sum() == table["fault"].isna().sum() > 0
    assert_same(fast, Frame.of(text, SCHEMA))
    assert_same(fast, Frame.of(tmp_path / "rows.csv", SCHEMA))
    assert_same(fast, Frame.of(tmp_path / "rows.parquet", SCHEMA))
    assert_same(fast, Frame.of(read_table(tmp_path / "rows.csv", SCHEMA), SCHEMA))
    assert Frame.of(fast, SCHEMA) is fast


def test_wrong_values_are_refused_with_their_place() -> None:
    table = machine_rows(5, 0).astype({"hour": object})
    table.loc[2, "hour"] = "noon"
    with pytest.raises(DataError, match="hour"):
        Frame.of(table, SCHEMA)
    strict = Schema(
        name="strict", columns=(Column(name="site", kind="category", values=("north",)),)
    )
    with pytest.raises((DataError, EvaluationError), match="site"):
        Frame.of(pd.DataFrame({"site": ["north", "moon"]}), strict)


def test_timestamps_are_numbers() -> None:
    schema = Schema(name="log", columns=(Column(name="at", kind="timestamp", low=0.0, high=4e15),))
    frame = Frame.of({"at": ["1970-01-01T00:00:01Z", "2013-01-01T00:00:00Z"]}, schema)
    assert frame.numbers["at"][0] == 1e6


def test_samples_are_reproducible_and_keep_order() -> None:
    frame = Frame.of(machine_rows(200, 0), SCHEMA)
    assert frame.sample(500, seed=0) is frame
    drawn = frame.sample(50, seed=3)
    assert drawn.rows == 50
    assert_same(drawn, frame.sample(50, seed=3))
    assert not np.array_equal(drawn.numbers["cycles"], frame.sample(50, seed=4).numbers["cycles"])


def test_features_have_one_slot_for_each_thing() -> None:
    frame = Frame.of(
        pd.DataFrame(
            {
                "fault": [True, None],
                "site": ["south", "mars"],
                "hour": [0, 23],
                "cycles": [0, 1000],
                "heat": [50.0, np.nan],
            }
        ),
        SCHEMA,
    )
    features = Features.public(SCHEMA, SCHEMA.names)
    x = features.transform(frame)
    # fault 2 + missing, site 3, hour 24, cycles 1, heat 1 + missing
    assert x.shape == (2, features.width) == (2, 3 + 3 + 24 + 1 + 2)
    assert x[0, :3].tolist() == [0, 1, 0]
    assert x[1, :3].tolist() == [0, 0, 1]
    assert x[0, 3:6].tolist() == [0, 1, 0]
    assert x[1, 3:6].tolist() == [0, 0, 1]
    assert x[0, 6] == x[1, 29] == 1
    assert x[:, 30].tolist() == [-1, 1]
    assert x[0, 31:].tolist() == [0, 0]  # 50 is the middle of -50 .. 150
    assert x[1, 31:].tolist() == [0, 1]


def test_values_beyond_public_bounds_stay_inside_the_one_hot_block() -> None:
    table = machine_rows(2, 0)
    table["hour"] = [-4, 99]
    x = Features.public(SCHEMA, ["hour"]).transform(Frame.of(table, SCHEMA))
    assert x[0, 0] == x[1, 23] == 1
    assert x.sum() == 2


def test_fitted_features_are_standardised(train: Frame) -> None:
    x = Features.fit(train, ["cycles", "heat"]).transform(train)
    assert x[:, 0].mean() == pytest.approx(0, abs=1e-4)
    assert x[:, 0].std() == pytest.approx(1, abs=1e-4)
    constant = train.take(np.zeros(5, np.int64))
    assert np.isfinite(Features.fit(constant, ["cycles"]).transform(constant)).all()


def test_refusals(train: Frame) -> None:
    with pytest.raises(EvaluationError, match="no input columns"):
        Features.fit(train, [])
    with pytest.raises(EvaluationError, match="ghost"):
        Features.public(SCHEMA, ["heat", "ghost"])
