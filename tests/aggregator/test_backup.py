"""A backup of a running aggregator, and an aggregator that starts from it."""

from __future__ import annotations

import collections
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.aggregator import status
from edge_runtime.aggregator.backup import back_up
from edge_runtime.aggregator.catalogue import Catalogue
from edge_runtime.aggregator.pool import Pool
from edge_runtime.errors import AggregatorError
from edge_runtime.fleet.broker import start_broker

from .conftest import Device, Kit, make_schema, make_table, write_config
from .live import AggregatorProcess, LiveDevice, wait_for

#: two devices, a broker and an aggregator on a machine that may have other work
_PATIENCE_S = 150.0

PROGRAM = "import sys; from edge_runtime.cli import main; sys.exit(main())"


def verb(data: Path, to: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, "aggregator", "backup", str(data), "--to", str(to)],
        capture_output=True, text=True, check=False, timeout=_PATIENCE_S,
    )  # fmt: skip


def records(data: Path) -> list[Any]:
    catalogue = Catalogue(f"sqlite:///{data / 'catalogue.sqlite'}", create=False)
    try:
        return [r for kind in ("census", "anchor", "batch") for r in catalogue.messages(kind=kind)]
    finally:
        catalogue.close()


def test_nothing_acknowledged_before_is_missing_after(tmp_path: Path) -> None:
    schema = make_schema()
    data, kept = tmp_path / "data", tmp_path / "backup"
    with start_broker(tmp_path / "broker") as broker:
        config = write_config(tmp_path, schema, broker={"port": broker.port})
        process = AggregatorProcess(config)
        devices = []
        try:
            for number, name in enumerate("ab"):
                device = Device(name, make_table(schema, 1500, seed=number, origin=number), schema)
                device.epsilon = 0.1
                # Many messages: some are stored while the copy is made.
                devices.append(LiveDevice(device, broker.port, parts=40))
            wait_for(
                lambda: any(ack.status == "accepted" for ack in devices[0].acks[2:]),
                f"no batch accepted: {process.text()}",
                _PATIENCE_S,
            )
            with devices[0].lock, devices[1].lock:
                acknowledged = {ack.sha256 for device in devices for ack in device.acks}
            said = verb(config, kept)
            assert said.returncode == 0, said.stderr
            assert process.process.poll() is None
            # Up to date again, on top of the first: what is there is not copied again.
            first = {path: path.stat().st_mtime_ns for path in kept.rglob("*.parquet")}
            with devices[0].lock, devices[1].lock:
                acknowledged |= {ack.sha256 for device in devices for ack in device.acks}
            assert verb(config, kept).returncode == 0
            assert all(path.stat().st_mtime_ns == at for path, at in first.items())

            # The disk dies.
            process.kill()
            shutil.rmtree(data)
            shutil.copytree(kept, data)
            restored = records(data)
            counts = collections.Counter(record.sha256 for record in restored)
            assert acknowledged
            assert acknowledged <= counts.keys()
            assert set(counts.values()) == {1}
            batches = [record for record in restored if record.kind == "batch"]
            rows = Pool(data).read(batches, names=schema.names)
            assert len(rows.codes) == sum(record.rows for record in batches)

            process.restart()
            late = devices[0].device
            plan = wait_for(lambda: max(devices[0].plans.values(), key=lambda p: p.round), "a plan")
            bundle = devices[0].bundles[plan.bundle_digest or ""]
            before = len(devices[0].acks)
            devices[0].put("batch", late.batches(plan, bundle, 40, parts=1, seed=77)[0])
            wait_for(
                lambda: len(devices[0].acks) > before, f"no answer: {process.text()}", _PATIENCE_S
            )
            assert acknowledged <= {record.sha256 for record in records(data)}
            assert process.stop() == 0, process.text()
        finally:
            for made in devices:
                made.close()
            if process.process.poll() is None:
                process.kill()


@pytest.fixture
def filled(kit: Kit) -> Path:
    """A data directory with a pool."""
    kit.filled(rows=200)
    return kit.config.data_dir


def test_places_that_are_none(tmp_path: Path, filled: Path) -> None:
    with pytest.raises(AggregatorError, match="lie in each other"):
        back_up(filled, filled / "backup")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(AggregatorError, match="something else"):
        back_up(filled, tmp_path / "photos")
    with pytest.raises(AggregatorError, match="no catalogue"):
        back_up(tmp_path / "photos", tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


def test_a_missing_file_is_said_and_the_earlier_backup_stays(tmp_path: Path, filled: Path) -> None:
    made = back_up(filled, tmp_path / "backup")
    files = [p for p in (tmp_path / "backup").rglob("*") if p.suffix in (".parquet", ".bundle")]
    summaries = [record for record in records(filled) if record.kind != "batch"]
    assert made.files == len(files) + len(summaries)
    assert status(tmp_path / "backup")["totals"] == status(filled)["totals"]
    before = (tmp_path / "backup" / "catalogue.sqlite").read_bytes()
    next((filled / "pool").rglob("*.parquet")).unlink()
    with pytest.raises(AggregatorError, match="damaged"):
        back_up(filled, tmp_path / "backup")
    assert (tmp_path / "backup" / "catalogue.sqlite").read_bytes() == before
    assert not (tmp_path / "backup" / "catalogue.sqlite.new").exists()
