"""aggregator.toml is read whole or refused with the file, the key and the rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_runtime.aggregator import load_config
from edge_runtime.errors import ConfigError
from edge_runtime.schema import Schema

from .conftest import write_config


def test_paths_are_relative_to_the_file(tmp_path: Path, schema: Schema) -> None:
    config = load_config(write_config(tmp_path, schema))
    assert config.data_dir == tmp_path / "data"
    assert Path(config.schema.path) == tmp_path / "schema.json"
    assert config.catalogue_url == f"sqlite:///{tmp_path}/data/catalogue.sqlite"
    assert config.privacy.limit == 8.0


def test_no_privacy_is_spelled_out(tmp_path: Path, schema: Schema) -> None:
    assert (
        load_config(write_config(tmp_path, schema, privacy={"epsilon": "none"})).privacy.limit
        is None
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fleet": {"name": "Bad.Name"}}, "fleet.name"),
        ({"fleet": {"devices": -1}}, "fleet.devices"),
        ({"broker": {"port": 70000}}, "broker.port"),
        ({"privacy": {"epsilon": -1.0}}, "privacy.epsilon"),
        ({"privacy": {"epsilon": "some"}}, "epsilon"),
        ({"privacy": {"delta": 1.5}}, "privacy.delta"),
        ({"rounds": {"count": 0}}, "rounds.count"),
        ({"rounds": {"quorum": 0}}, "rounds.quorum"),
        ({"rounds": {"quorum": 3}}, "rounds.quorum"),
        ({"rounds": {"deadline_s": 0.0}}, "rounds.deadline_s"),
        ({"rounds": {"census_share": 1.0}}, "rounds.census_share"),
        ({"rounds": {"anchor_share": 1.0}}, "rounds.anchor_share"),
        ({"train": {"steps": 0}}, "train.steps"),
        ({"train": {"clip_norm": 0.0}}, "train.clip_norm"),
        ({"rows": {"minimum": 10, "maximum": 5}}, "rows"),
        ({"fusion": {"hidden": 0}}, "fusion.hidden"),
        ({"fusion": {"validation_share": 1.0}}, "validation_share"),
        ({"limits": {"queue_messages": 0}}, "limits.queue_messages"),
        ({"guard": {"misfit": 1.5}}, "guard.misfit"),
        ({"guard": {"false_alarms": 0.0}}, "guard.false_alarms"),
        ({"guard": {"rejections": 0}}, "guard.rejections"),
        ({"guard": {"diversity": 0.5}}, "guard needs diversity"),
        ({"metrics": {"port": 70000}}, "metrics.port"),
        ({"fusion": {"surprise": 1}}, "fusion.surprise is no setting of this release"),
        ({"unheard_of": {"key": 1}}, "unheard_of is no setting of this release"),
        ({"fleet": {"devices": "two"}}, "fleet.devices: expected int, got str"),
    ],
)
def test_impossible_values_are_refused(
    tmp_path: Path, schema: Schema, changes: dict[str, dict[str, Any]], message: str
) -> None:
    path = write_config(tmp_path, schema, **changes)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_a_missing_setting_is_named(tmp_path: Path, schema: Schema) -> None:
    path = write_config(tmp_path, schema)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('name = "testing"\n', ""), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"fleet\.name is missing"):
        load_config(path)
    path.write_text(text.replace('[data]\ndir = "data"\n', ""), encoding="utf-8")
    with pytest.raises(ConfigError, match=": data is missing"):
        load_config(path)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("fleet = [")
    with pytest.raises(ConfigError, match="not a TOML file"):
        load_config(broken)
