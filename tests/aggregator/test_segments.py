"""Files of many batches beside those of earlier releases, which hold one each."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from edge_runtime.aggregator.guard import CopyIndex
from edge_runtime.aggregator.guard.review import set_aside
from edge_runtime.aggregator.opening import create_workspace
from edge_runtime.aggregator.sweeping import sweep
from edge_runtime.reception.fingerprints import fingerprint

from .conftest import Kit


def _split(kit: Kit) -> None:
    """Turn the pool into what version 2 wrote: a file for every batch, without its id."""
    catalogue = kit.workspace.catalogue
    moved = []
    for record in catalogue.messages(kind="batch"):
        path = f"pool/round={record.round}/device={record.device}/{record.id}.parquet"
        (kit.config.data_dir / path).parent.mkdir(exist_ok=True)
        table = pq.ParquetFile(pa.BufferReader(kit.workspace.pool.extract(record))).read()
        pq.write_table(table.drop_columns(["message", "device"]), kit.config.data_dir / path)
        moved.append(record._replace(path=path))
    catalogue.requalify(moved)
    catalogue.put("version", "2")


def test_a_pool_of_version_2_is_read_beside_new_files(kit: Kit) -> None:
    kit.filled(rows=400)
    before = kit.workspace.pool_rows()
    _split(kit)
    kit.workspace.close()
    workspace = kit.workspace = create_workspace(kit.config)
    assert sweep(kit.config.data_dir, workspace.catalogue) == 2
    after = workspace.pool_rows()
    np.testing.assert_array_equal(before.codes, after.codes)
    np.testing.assert_array_equal(before.lot, after.lot)
    records = workspace.catalogue.messages(kind="batch")
    table = workspace.pool.table(records)
    counts = table.group_by("message").aggregate(rows=table.count()).to_pyarrow().to_pylist()
    assert {c["message"]: c["rows"] for c in counts} == {r.id: r.rows for r in records}
    assert set(table.device.to_pyarrow().to_pylist()) == {"a", "b"}


def test_what_is_set_aside_leaves_a_file_to_the_others_in_it(kit: Kit) -> None:
    kit.filled(rows=400)
    catalogue, pool = kit.workspace.catalogue, kit.workspace.pool
    first, second = (r for r in catalogue.messages(kind="batch") if r.device == "a")
    assert first.path == second.path
    codes = dict(pool.batches([first, second], names=kit.workspace.schema.names))
    assert set_aside(kit.workspace, {first.id: "for a test"}) == 1
    (kept,) = catalogue.find_messages([first.id]).values()
    assert pq.ParquetFile(kit.config.data_dir / kept.path).metadata.num_rows == first.rows
    # Its rows are still in the pool's file, and nobody counts them.
    assert (kit.config.data_dir / first.path).exists()
    records = catalogue.messages(kind="batch")
    assert pool.table(records).count().to_pyarrow().as_py() == sum(r.rows for r in records)
    ((_, left),) = pool.batches([second], names=kit.workspace.schema.names)
    np.testing.assert_array_equal(left, codes[second])
    assert catalogue.rows_of(["a"]) == {("a", 1): second.rows}
    set_aside(kit.workspace, {second.id: "for a test"})
    assert not (kit.config.data_dir / first.path).exists()


def test_copies_are_recognised_of_the_latest_batches() -> None:
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, 30, (200, 8)).astype(np.int32) for _ in range(4)]
    index = CopyIndex(remembered=3)
    for number, codes in enumerate(batches):
        index.add(f"{number:032d}", f"d{number}", 1, fingerprint(codes))
    assert len(index) == 3
    assert index.judge(fingerprint(batches[0])) is None
    assert all(index.judge(fingerprint(codes)) for codes in batches[1:])
