"""The benchmark's tasks, its classifier and its records."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from edge_runtime.evaluation import Frame

sys.path.insert(0, str(Path(__file__).parents[2]))  # tools/ is not installed

from tools.bench.federation.classifier import Encoder, Settings, score
from tools.bench.federation.records import Point, Record, load, save
from tools.bench.federation.report import markdown, summarise
from tools.bench.federation.tasks import TASKS, Task, load_task

HERE = [name for name in TASKS if find_spec("seglearn") or not name.startswith("watch")]


@pytest.fixture(scope="module", params=HERE)
def task(request: pytest.FixtureRequest) -> Task:
    return load_task(request.param)


def test_a_task_is_the_same_again_and_its_test_rows_for_every_seed(task: Task) -> None:
    again, other = load_task(task.name), load_task(task.name, seed=1)
    for mine, same in zip(task.devices, again.devices, strict=True):
        pd.testing.assert_frame_equal(mine, same)
    pd.testing.assert_frame_equal(task.test, other.test)


def test_every_value_is_declared_and_the_label_leads(task: Task) -> None:
    for rows in (*task.devices, task.test):
        frame = Frame.of(rows, task.schema)
        assert all((codes >= 0).all() for codes in frame.codes.values())
        for column in task.schema.columns:
            if column.name in frame.numbers:
                values = frame.numbers[column.name]
                assert values.min() >= column.low
                assert values.max() <= column.high
    assert task.schema.columns[0].name == task.label
    assert task.schema.columns[0].condition


def test_validation_rows_are_training_rows_that_tuning_does_not_train_on(task: Task) -> None:
    kept, validation = task.tuning()
    together = pd.concat([*kept, validation]).sort_values(list(task.schema.names))
    everything = pd.concat(task.devices).sort_values(list(task.schema.names))
    pd.testing.assert_frame_equal(
        together.reset_index(drop=True), everything.reset_index(drop=True)
    )
    assert 0.13 < len(validation) / task.rows < 0.17


def test_digits_by_class_has_one_class_on_each_device() -> None:
    task = load_task("digits-by-class")
    assert [device["label"].nunique() for device in task.devices] == [1] * 20


def test_flights_leave_out_what_is_known_only_after_departure() -> None:
    names = load_task("flights-by-carrier").schema.names
    assert not {"dep_delay", "dep_time", "arr_delay", "arr_time", "air_time"} & set(names)


def test_the_classifier_learns_from_good_rows_and_not_from_shuffled_labels() -> None:
    task = load_task("digits-by-class")
    rows = pd.concat(task.devices, ignore_index=True)
    quick = Settings(learning_rate=0.01, batch=32, patience=3, max_epochs=15)
    assert score(task, rows, settings=quick) > 0.9
    shuffled = rows.assign(label=rows["label"].sample(frac=1, random_state=0).to_numpy())
    assert score(task, shuffled, settings=quick) < 0.3


def test_a_pool_is_scaled_by_its_own_rows() -> None:
    task = load_task("flights-by-carrier")
    near = task.devices[0].query("distance < 500")
    assert Encoder(task, near).features.centre["distance"] < 500
    assert Encoder(task).features.centre["distance"] > 900


def _record(*, score: float = 0.5, seed: int = 0, epsilon: float | None = 8.0) -> Record:
    curve = (Point(round=1, bytes_up=100, score=0.25), Point(round=2, bytes_up=200, score=score))
    return Record(
        task="digits-by-class",
        system="FedAvg",
        epsilon=epsilon,
        seed=seed,
        metric="accuracy",
        score=score,
        rounds=2,
        bytes_up=200,
        device_cpu_s=0.5,
        curve=curve,
        settings={"learning_rate": 0.1},
    )


def test_records_come_back_and_a_later_one_replaces_its_like(tmp_path: Path) -> None:
    path = tmp_path / "results" / "some.json"
    save(path, [_record(), _record(seed=1), _record(epsilon=None)], note="kept")
    save(path, [_record(score=0.75)])
    found = load(path)
    assert len(found) == 3
    assert _record(score=0.75) in found
    assert _record(score=0.5) not in found
    assert json.loads(path.read_text())["note"] == "kept"


def test_the_report_shows_mean_and_largest_distance_from_it() -> None:
    rows = summarise([_record(score=value, seed=at) for at, value in enumerate((0.5, 0.6, 0.85))])
    text = markdown(rows, [])
    assert "| FedAvg | .650 ± .200 |" in text
    assert "| digits-by-class | epsilon 8 | FedAvg | 2 | 0 |" in text
    assert np.isclose(rows[0].mean, 0.65)
