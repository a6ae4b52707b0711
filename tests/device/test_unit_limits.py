"""Limits of the configuration in systemd's words."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from edge_runtime.cli.main import run
from edge_runtime.device.config import LimitsConfig, load_config
from edge_runtime.device.unit_limits import drop_in, properties
from edge_runtime.errors import ConfigError


def test_limits_become_a_drop_in() -> None:
    text = drop_in(LimitsConfig(memory_bytes=100 << 20, cpu_percent=50))
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    assert dict(unit["Service"]) == {
        "MemoryHigh": str(round(0.9 * (100 << 20))),
        "MemoryMax": str(100 << 20),
        "CPUQuota": "50%",
    }


def test_what_is_not_set_stays_as_the_unit_says() -> None:
    assert properties(LimitsConfig()) == []
    assert properties(LimitsConfig(cpu_percent=150)) == ["CPUQuota=150%"]
    assert drop_in(LimitsConfig()).endswith("[Service]\n")


def test_the_verb_prints_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "device.toml"
    path.write_text(
        '[device]\nid = "a"\nfleet = "f"\nstate_dir = "s"\n[source]\npath = "r.csv"\n'
        "[privacy]\nepsilon = 1.0\n[limits]\ncpu_percent = 40\n"
    )
    assert run(["device", "limits", "--config", str(path)]) == 0
    assert capsys.readouterr().out == "# From [limits] of device.toml.\n[Service]\nCPUQuota=40%\n"
    assert run(["device", "limits", "--properties", "--config", str(path)]) == 0
    assert capsys.readouterr().out == "CPUQuota=40%\n"


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ("memory_bytes = 1000000", "memory_bytes = 1000000: the agent alone takes"),
        ("memory_bytes = 67108864", "slow or paused for ever; set 100663296 or more"),
        ("temperature_slow_c = 80.0\ntemperature_stop_c = 80.0", "must lie above"),
        ("cpu_percent = -1", "cpu_percent"),
        ("look_s = 0.0", "look_s"),
    ],
)
def test_limits_that_cannot_be_are_refused(tmp_path: Path, limits: str, said: str) -> None:
    path = tmp_path / "device.toml"
    path.write_text(
        f'[device]\nid = "a"\nfleet = "f"\nstate_dir = "s"\n[source]\npath = "r.csv"\n'
        f"[privacy]\nepsilon = 1.0\n[limits]\n{limits}\n"
    )
    with pytest.raises(ConfigError, match=said):
        load_config(path)
