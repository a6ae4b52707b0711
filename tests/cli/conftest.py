"""A small table, and the command line as a function."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from edge_runtime.cli import main


class Outcome(NamedTuple):
    """What one command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Outcome]


def make_csv(path: Path, rows: int, seed: int = 0) -> Path:
    """Flights of a sort: lateness depends on the hour."""
    rng = np.random.default_rng(seed)
    hour = rng.integers(5, 24, rows)
    late = rng.random(rows) < (hour - 4) / 25
    delay = np.where(late, rng.gamma(3, 20, rows), rng.normal(-5, 6, rows)).round()
    gone = rng.random(rows) < 0.05
    lines = ["hour,origin,delay,late"]
    for index in range(rows):
        shown = "" if gone[index] else f"{int(np.clip(delay[index], -60, 300))}"
        place = ("EWR", "JFK", "LGA")[rng.integers(3)]
        lines.append(f"{hour[index]},{place},{shown},{str(late[index]).lower()}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


SCHEMA = """{
  "format": "edge-runtime-schema", "version": 1, "name": "flights",
  "columns": [
    {"name": "late", "kind": "boolean", "condition": true},
    {"name": "hour", "kind": "integer", "low": 0, "high": 23},
    {"name": "origin", "kind": "category", "values": ["EWR", "JFK", "LGA"]},
    {"name": "delay", "kind": "integer", "low": -60, "high": 300, "nullable": true,
     "unit": "minutes"}
  ]
}"""


@pytest.fixture(scope="session")
def rows_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_csv(tmp_path_factory.mktemp("rows") / "rows.csv", 1500)


@pytest.fixture(scope="session")
def schema_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("schema") / "schema.json"
    path.write_text(SCHEMA, encoding="utf-8")
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return call


@pytest.fixture(scope="session")
def open_bundle(
    rows_csv: Path, schema_json: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A bundle learnt without privacy."""
    path = tmp_path_factory.mktemp("bundle") / "open.bundle"
    options = ["--schema", schema_json, "--epochs", "3", "--hidden", "32", "--out", path]
    assert main(["fit", str(rows_csv), *map(str, options)]) == 0
    return path
