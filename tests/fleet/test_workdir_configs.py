"""The output directory and the configuration files of a demo run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_runtime.aggregator import load_config as load_aggregator
from edge_runtime.device.config import load_config as load_device
from edge_runtime.errors import ConfigError
from edge_runtime.fleet.configs import (
    FleetSettings,
    write_aggregator_config,
    write_device_config,
)
from edge_runtime.fleet.flights import FlightsData
from edge_runtime.fleet.workdir import WorkDir


def test_a_second_run_starts_clean(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    with WorkDir(out, {"seed": 1}) as work:
        (work / "data").mkdir()
        (work / "data" / "rows.csv").write_text("x")
        (work / "report.html").write_text("x")
        (work / "link").symlink_to(tmp_path)
    precious = tmp_path / "precious.txt"
    precious.write_text("keep")
    with WorkDir(out, {"seed": 2}):
        assert [p.name for p in out.iterdir()] == [".edge-runtime-demo"]
    assert json.loads((out / ".edge-runtime-demo").read_text()) == {"seed": 2}
    assert precious.read_text() == "keep"


def test_an_empty_directory_may_be_used(tmp_path: Path) -> None:
    with WorkDir(tmp_path, {}):
        pass


def test_other_peoples_files_are_never_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="not the output of an earlier demo"):
        WorkDir(tmp_path, {})
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    with pytest.raises(ConfigError, match="is a file"):
        WorkDir(tmp_path / "thesis.txt", {})
    with pytest.raises(ConfigError, match="cannot be written"):
        WorkDir(tmp_path / "thesis.txt" / "below", {})


def test_two_runs_cannot_share_a_directory(tmp_path: Path) -> None:
    with WorkDir(tmp_path, {}) as work:
        (work / "rows").write_text("in use")
        with pytest.raises(ConfigError, match="in use by another demo"):
            WorkDir(tmp_path, {})
        assert (work / "rows").read_text() == "in use"


@pytest.mark.parametrize("epsilon", [8.0, 0.5, None])
def test_configurations_are_read_by_those_they_are_for(
    tmp_path: Path, small_data: FlightsData, epsilon: float | None
) -> None:
    settings = FleetSettings(epsilon=epsilon, rounds=3, seed=7)
    path = tmp_path / 'a "quoted" place' / "aggregator.toml"
    write_aggregator_config(path, data=small_data, port=1234, settings=settings)
    aggregator = load_aggregator(path)
    assert aggregator.privacy.limit == epsilon
    assert aggregator.rounds.count == 3
    assert aggregator.fleet.devices == 3
    assert aggregator.broker.port == 1234
    assert aggregator.seed == 7
    assert Path(aggregator.schema.path) == small_data.schema_path
    assert aggregator.data_dir == path.parent / "data"
    device = small_data.devices[1]
    path = tmp_path / "b6" / "device.toml"
    write_device_config(path, device=device, port=1234, settings=settings)
    config = load_device(path)
    assert config.id == "b6"
    assert config.fleet == aggregator.fleet.name
    assert config.privacy.epsilon_limit == epsilon
    assert config.privacy.delta == aggregator.privacy.delta
    assert config.source.path == device.path
    assert config.state_dir == path.parent / "state"
