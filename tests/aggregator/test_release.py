"""The release is reproducible, checksummed, weighted like the fleet and honest about privacy."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from edge_runtime.aggregator import make_release, status, verify_release
from edge_runtime.aggregator.opening import create_workspace, open_workspace
from edge_runtime.errors import AggregatorError, DataError
from edge_runtime.generator import Bundle
from edge_runtime.messages import DeviceState
from edge_runtime.schema import Schema, read_table

from .conftest import Kit, make_kit


def test_a_release_is_complete_and_reproducible(kit: Kit, tmp_path: Path) -> None:
    _, bundle = kit.filled()
    data = kit.config.data_dir
    first = make_release(data, tmp_path / "one")
    second = make_release(data, tmp_path / "two")
    other = make_release(data, tmp_path / "three", seed=1)
    names = {p.name for p in first.path.iterdir()}
    assert names == {
        "data.parquet",
        "schema.json",
        "generator.bundle",
        "MODEL_CARD.md",
        "PRIVACY.md",
        "lineage.json",
        "release.json",
        "report.html",
        "report.json",
        "SHA256SUMS",
    }
    for name in names:
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes(), name
    assert first.data.read_bytes() != other.data.read_bytes()
    assert verify_release(first.path) == len(names) - 1

    # As many rows as the pool has, which is less than the fleet's 4,000.
    assert first.rows == 3000
    schema = Schema.load(first.path / "schema.json")
    with pytest.raises(DataError, match="synthetic rows where real ones belong"):
        read_table(first.data, schema)
    table = read_table(first.data, schema, synthetic=True)
    assert table.rows == 3000
    assert table.synthetic == {"fleet": "testing", "release": first.facts["id"], "depth": 1}
    # Devices weigh as their rows: a has 3,000 of 4,000, though both sent 1,500.
    share = float(np.mean(table.columns["origin"] == "EWR"))
    assert abs(share - 0.75) < 0.02
    assert Bundle.load(first.path / "generator.bundle").digest == bundle.digest
    facts = json.loads((first.path / "release.json").read_text())
    assert facts["estimated_real_rows"] == 4000
    assert facts["privacy"]["epsilon"] == 0.1
    assert facts["devices"] == 2
    assert facts["mode"] == "matched"  # there is an anchor
    statement = (first.path / "PRIVACY.md").read_text()
    assert "Differential privacy, by each device itself" in statement
    assert "one row: added or removed" in statement
    assert "| 0 | census | 2 | Histograms of every column" in statement
    assert "WITHOUT PRIVACY" not in statement
    assert first.facts["id"] in (first.path / "MODEL_CARD.md").read_text()


def test_rows_can_be_chosen_and_an_earlier_release_is_replaced(kit: Kit, tmp_path: Path) -> None:
    kit.filled(rows=200)
    out = tmp_path / "release"
    assert make_release(kit.config.data_dir, out, 50).rows == 50
    release = make_release(kit.config.data_dir, out, 1000)
    assert pq.read_table(release.data).num_rows == 1000
    assert release.facts["distinct_pooled_rows"] <= 400
    verify_release(out)


def test_a_changed_release_is_noticed(kit: Kit, tmp_path: Path) -> None:
    kit.filled(rows=100)
    release = make_release(kit.config.data_dir, tmp_path / "r")
    (release.path / "PRIVACY.md").write_text("nothing to see")
    (release.path / "added.txt").write_text("new")
    with pytest.raises(AggregatorError, match=r"PRIVACY\.md, added\.txt"):
        verify_release(release.path)
    with pytest.raises(AggregatorError, match="not a release"):
        verify_release(tmp_path / "nowhere")


def test_a_release_needs_rows_and_an_empty_place(kit: Kit, tmp_path: Path) -> None:
    data = kit.config.data_dir
    with pytest.raises(AggregatorError, match="no generator yet"):
        make_release(data, tmp_path / "r")
    kit.census_round()
    with pytest.raises(AggregatorError, match="pool is empty"):
        make_release(data, tmp_path / "r")
    occupied = tmp_path / "mine"
    occupied.mkdir()
    (occupied / "thesis.tex").write_text("precious")
    with pytest.raises(AggregatorError, match="not empty"):
        make_release(data, occupied)
    with pytest.raises(AggregatorError, match="not an aggregator's data directory"):
        make_release(tmp_path / "none", tmp_path / "r")


def test_negative_rows_are_refused(kit: Kit, tmp_path: Path) -> None:
    kit.filled(rows=100)
    with pytest.raises(AggregatorError, match="at least one row"):
        make_release(kit.config.data_dir, tmp_path / "r", -5)


def test_without_privacy_every_page_says_so(tmp_path: Path) -> None:
    kit = make_kit(tmp_path, privacy={"epsilon": "none"})
    kit.filled(rows=100)
    release = make_release(kit.config.data_dir, tmp_path / "r")
    for name in ("PRIVACY.md", "MODEL_CARD.md", "release.json", "report.html", "report.json"):
        assert "WITHOUT PRIVACY" in (release.path / name).read_text(), name
    shown = status(kit.config.data_dir)
    assert shown["private"] is False
    assert "WITHOUT PRIVACY" in shown["privacy"]["statement"]


def test_status_tells_everything_without_a_broker(kit: Kit, tmp_path: Path) -> None:
    data = kit.config.data_dir
    assert status(data)["phase"] == "waiting"
    bundle = kit.census_round()
    assert status(data)["phase"] == "fusing"  # round 1 has not been opened yet
    kit.open(1, bundle)
    shown = status(data)
    assert (shown["phase"], shown["round"], shown["planned"]) == ("round", 1, 2)
    assert shown["bundle"]["digest"] == bundle.digest
    kit.workspace.catalogue.mark_round(1, "fusing", reason="all answered")
    assert status(data)["phase"] == "fusing"
    kit.planner.close(1, now_unix_s=1.0, reason="x")
    kit.open(2, bundle)
    kit.planner.close(2, now_unix_s=2.0, reason="x")
    kit.workspace.add_bundle(bundle, status="rejected", reason="worse")
    state = DeviceState(device="a", status="idle", epsilon_spent=0.5)
    kit.workspace.catalogue.save_devices({"a": msgspec.to_builtins(state)})
    shown = status(data)
    assert shown["phase"] == "done"
    assert shown["devices"]["a"]["epsilon_spent"] == 0.5
    assert shown["devices"]["a"]["accepted"]["epsilon"] == 0.1
    assert shown["devices"]["b"]["status"] == "unknown"
    assert [b["reason"] for b in shown["rejected"]] == ["worse"]
    assert [r["status"] for r in shown["rounds"]] == ["closed"] * 3
    assert json.loads(json.dumps(shown)) == shown


def test_a_directory_belongs_to_one_fleet_schema_and_privacy(tmp_path: Path) -> None:
    kit = make_kit(tmp_path)
    kit.workspace.close()
    for changes in ({"fleet": {"name": "another"}}, {"privacy": {"epsilon": "none"}}):
        with pytest.raises(AggregatorError, match="belongs to another"):
            make_kit(tmp_path, **changes)
    # More budget or rounds for the same fleet are allowed.
    make_kit(tmp_path, privacy={"epsilon": 9.0}).workspace.close()


def test_another_catalogue_is_found_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'elsewhere.sqlite'}"
    kit = make_kit(tmp_path, data={"catalogue": url}, broker={"password": "secret"})
    pointer = kit.config.data_dir / "catalogue.url"
    assert pointer.stat().st_mode & 0o077 == 0
    opened = open_workspace(kit.config.data_dir)
    assert opened.config.fleet.name == "testing"
    assert opened.config.broker.password is None
    assert opened.release_key == kit.workspace.release_key
    opened.close()


def test_a_bundle_that_changed_on_disk_is_refused(kit: Kit) -> None:
    kit.census_round()
    record = kit.workspace.catalogue.bundles()[0]
    path = kit.config.data_dir / record.path
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(AggregatorError, match="not the file"):
        kit.workspace.bundle()
    path.unlink()
    with pytest.raises(AggregatorError, match="cannot be read"):
        kit.workspace.bundle()


def test_an_unfinished_start_is_recognised(tmp_path: Path) -> None:
    kit = make_kit(tmp_path)
    engine = sa.create_engine(kit.config.catalogue_url)
    with engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM settings WHERE key = 'config'"))
    with pytest.raises(AggregatorError, match="finished starting"):
        open_workspace(kit.config.data_dir)
    create_workspace(kit.config).close()
    open_workspace(kit.config.data_dir).close()
