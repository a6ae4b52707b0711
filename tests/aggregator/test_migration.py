"""A data directory that version 1 wrote is brought up to date, and serves on.

`version_1/` was written by the last release of that version: a census and a training round of two
devices, the catalogue as an SQL dump.
"""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from edge_runtime.aggregator.config import AggregatorConfig, load_config
from edge_runtime.aggregator.opening import create_workspace, open_workspace
from edge_runtime.aggregator.release import make_release
from edge_runtime.aggregator.rounds import Rounds
from edge_runtime.errors import AggregatorError
from edge_runtime.schema import marked_of

_VERSION_1 = Path(__file__).with_name("version_1")


@pytest.fixture
def old(tmp_path: Path) -> AggregatorConfig:
    directory = tmp_path / "fleet"
    shutil.copytree(_VERSION_1, directory)
    dump = directory / "data" / "catalogue.sql"
    database = sqlite3.connect(dump.with_suffix(".sqlite"))
    database.executescript(dump.read_text(encoding="utf-8"))
    database.close()
    dump.unlink()
    return load_config(directory / "aggregator.toml")


def test_a_look_leaves_version_1_alone_and_says_what_to_do(old: AggregatorConfig) -> None:
    for _ in range(2):
        with pytest.raises(AggregatorError, match=r"version 1.*start the aggregator once"):
            open_workspace(old.data_dir)


def test_messages_name_their_bundle_and_anchors_their_tables(old: AggregatorConfig) -> None:
    workspace = create_workspace(old)
    bundle = workspace.bundle()
    assert bundle is not None
    parents = {m.kind: m.bundle_digest for m in workspace.catalogue.accepted()}
    assert parents == {"census": "", "anchor": bundle.digest, "batch": bundle.digest}
    anchor = workspace.anchor(bundle)
    assert anchor is not None
    assert set(anchor.tables) == {(0,), (1,), (2,), (3,), (0, 1), (0, 2), (0, 3)}
    batches = workspace.catalogue.messages(kind="batch")
    table = workspace.pool.table(batches)
    found = table.select("parent_bundle", "depth").distinct().to_pyarrow().to_pylist()
    assert found == [{"parent_bundle": bundle.digest, "depth": 1}]
    mark = marked_of(pq.read_schema(old.data_dir / batches[0].path).metadata)
    assert mark is not None
    assert mark["round"] == 1
    workspace.close()


def test_the_fleet_goes_on_and_releases(old: AggregatorConfig, tmp_path: Path) -> None:
    rounds = Rounds(old)
    rounds.restore()
    step = rounds.step(now_unix_s=1002.0, states={})
    assert (step.action, step.number) == ("fuse", 1)
    assert step.reason == "2 of 2 devices answered"
    rounds.close()
    assert make_release(old.data_dir, tmp_path / "release", 50).rows == 50


def test_an_interrupted_upgrade_is_finished_by_the_next_start(
    old: AggregatorConfig, tmp_path: Path
) -> None:
    *_, last = sorted((old.data_dir / "pool").rglob("*.parquet"))
    kept = last.rename(tmp_path / last.name)
    with pytest.raises(AggregatorError, match=last.name):
        create_workspace(old)
    with pytest.raises(AggregatorError, match="version 1"):
        open_workspace(old.data_dir)
    kept.rename(last)
    create_workspace(old).close()
    workspace = open_workspace(old.data_dir)
    assert len(workspace.pool_rows().codes) == 120
    workspace.close()
