"""The peak memory of a device of ours: measured on the agent itself, shown in the report."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.aggregator.config import RoundSettings
from edge_runtime.fleet.broker import BROKERS, find_broker
from edge_runtime.fleet.simulated_device import SharedBundles
from edge_runtime.fleet.simulation import Simulation
from edge_runtime.schema import Column, Schema

sys.path.insert(0, str(Path(__file__).parents[2]))  # tools/ is not installed

from tools.bench.federation import report
from tools.bench.federation.agent import AgentDevice
from tools.bench.federation.memory import FILE, Figure, load_figures, save_figures, with_memory
from tools.bench.federation.records import Record, save


def figure(**changes: Any) -> Figure:
    return Figure(
        **{
            "task": "digits-by-class",
            "system": "ours: pool",
            "epsilon": 8.0,
            "peak_rss_mb": 61.4,
            "rows": 70,
            "plans": ("census", "moments"),
            **changes,
        }
    )


def record(**changes: Any) -> Record:
    return Record(
        **{
            "task": "digits-by-class",
            "system": "ours: pool",
            "epsilon": 8.0,
            "seed": 0,
            "metric": "accuracy",
            "score": 0.5,
            "rounds": 2,
            "bytes_up": 1000,
            "device_cpu_s": 0.1,
            **changes,
        }
    )


def test_a_figure_replaces_the_one_of_the_same_task_and_level(tmp_path: Path) -> None:
    path = tmp_path / FILE
    other = figure(epsilon=None)
    save_figures(path, [figure(peak_rss_mb=1.0), other])
    save_figures(path, [figure()])
    assert sorted(load_figures(path), key=str) == sorted([figure(), other], key=str)
    assert set(json.loads(path.read_text())) == {"date", "machine", "versions", "figures"}


def test_only_records_without_a_peak_get_the_one_of_their_task_system_and_level() -> None:
    records = [
        record(),
        record(epsilon=2.0),
        record(system="ours: hybrid"),
        record(peak_rss_mb=38.0),
    ]
    found = [r.peak_rss_mb for r in with_memory(records, [figure()])]
    assert found == [61.4, None, None, 38.0]


def test_the_report_shows_the_figure_and_where_it_was_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "ours.json", [record()])
    save_figures(tmp_path / FILE, [figure()])
    monkeypatch.setattr(sys, "argv", ["report", "--results", str(tmp_path)])
    report.main()
    shown = capsys.readouterr().out
    assert "| digits-by-class | epsilon 8 | ours: pool | 2 | 1 | 0.10 | 61 |  |" in shown
    assert f"{FILE}: 2" in shown


@pytest.mark.skipif(not any(map(find_broker, BROKERS)), reason="no MQTT broker is installed")
def test_the_agent_takes_a_simulated_devices_place(tmp_path: Path) -> None:
    """A census over a real broker: what the agent counted is in the fleet's, and paid for."""
    schema = Schema(
        name="two",
        columns=(
            Column(name="label", kind="boolean", condition=True),
            Column(name="size", kind="integer", low=0.0, high=99.0),
        ),
    )
    rng = np.random.default_rng(0)
    rows = {"label": rng.random(300) < 0.5, "size": rng.integers(0, 100, 300)}
    with (
        Simulation(
            schema=schema,
            devices={"one": rows, "two": rows},
            epsilon=8.0,
            rounds=RoundSettings(count=1, quorum=2),
            directory=tmp_path / "fleet",
        ) as fleet,
        AgentDevice(
            config=fleet.devices["one"].config,
            schema=schema,
            rows=rows,
            bundles=SharedBundles(directory=tmp_path / "bundles"),
            fetch=lambda _: fleet.bundle.to_bytes(),
            directory=tmp_path,
        ) as device,
    ):
        fleet.devices["one"] = device
        census = fleet.census()
        assert [ack.status for ack in census.answers["one"]] == ["accepted"]
        assert device.state.status == "idle"
        assert device.state.epsilon_spent == pytest.approx(fleet.devices["two"].epsilon_spent)
        # An interpreter with numpy alone takes more than the one, the whole agent less than the
        # other.
        assert 20.0 < device.peak_mb < 120.0
