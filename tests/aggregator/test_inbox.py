"""Acknowledged means durable and counted once; everything else is answered with the reason."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from edge_runtime.aggregator.catalogue import Catalogue
from edge_runtime.aggregator.sweeping import sweep
from edge_runtime.errors import AggregatorError
from edge_runtime.generator import Bundle
from edge_runtime.messages import Ack, Plan, PrivacyStatement
from edge_runtime.reception import Incoming
from edge_runtime.schema import Codec, marked_of

from .conftest import Kit, make_inbox, make_kit, sha256


def _send(kit: Kit, device: str, kind: str, *payloads: bytes) -> list[Ack]:
    return kit.inbox.accept([Incoming(device, kind, payload) for payload in payloads])


def test_an_accepted_batch_is_in_the_pool_as_it_was_sent(kit: Kit) -> None:
    bundle = kit.census_round()
    plan = kit.open(1, bundle)
    device = kit.devices["a"]
    codes = bundle.codec.encode(device.table.take(np.arange(50))).codes
    payload = device.batch(plan, bundle, codes)
    (ack,) = _send(kit, "a", "batch", payload)
    assert (ack.status, ack.sequence, ack.sha256) == ("accepted", 2, sha256(payload))
    (record,) = kit.workspace.catalogue.messages(kind="batch")
    assert (record.id, record.rows, record.round, record.bytes) == (ack.id, 50, 1, len(payload))
    assert record.path == f"pool/round=1/{ack.id}.parquet"
    rows = kit.workspace.pool_rows()
    np.testing.assert_array_equal(rows.codes, codes)
    assert rows.codes.dtype == np.int32
    # The file alone can be read by anything that reads Parquet.
    table = pq.ParquetFile(kit.config.data_dir / record.path).read()
    coded = [f"code_{n}" for n in kit.workspace.schema.names]
    assert table.column_names == [*coded, "message", "device", "parent_bundle", "depth"]
    assert set(table["message"].to_pylist()) == {record.id}
    assert set(table["device"].to_pylist()) == {"a"}
    assert set(table["parent_bundle"].to_pylist()) == {bundle.digest} == {record.bundle_digest}
    assert set(table["depth"].to_pylist()) == {1} == {record.depth}
    assert marked_of(table.schema.metadata) == {"fleet": "testing", "round": 1}
    assert {str(table.schema.field(c).type) for c in coded} == {"uint8"}


def test_a_duplicate_is_acknowledged_again_and_not_counted(kit: Kit) -> None:
    plan, bundle = kit.filled()
    before = kit.workspace.catalogue.totals()
    payload = kit.devices["a"].batches(plan, bundle, 30, parts=1)[0]
    # Twice in one commit, once more later, and once after a restart.
    acks = _send(kit, "a", "batch", payload, payload)
    acks += _send(kit, "a", "batch", payload)
    again = make_inbox(kit.workspace)
    again.use_codec(bundle.codec)
    acks += again.accept([Incoming("a", "batch", payload)])
    assert [a.status for a in acks] == ["accepted", "duplicate", "duplicate", "duplicate"]
    assert {a.sha256 for a in acks} == {sha256(payload)}
    after = kit.workspace.catalogue.totals()
    assert after["batches"] == before["batches"] + 1
    assert after["rows"] == before["rows"] + 30
    assert len(kit.workspace.pool_rows().codes) == after["rows"]


def test_an_id_cannot_be_used_for_other_bytes(kit: Kit) -> None:
    plan, bundle = kit.filled()
    device = kit.devices["a"]
    codes = bundle.codec.encode(device.table.take(np.arange(5))).codes
    first = device.batch(plan, bundle, codes, id="0" * 32)
    second = device.batch(plan, bundle, codes[:4], id="0" * 32)
    acks = _send(kit, "a", "batch", first, second)
    assert [a.status for a in acks] == ["accepted", "refused"]
    assert "other bytes" in acks[1].reason
    # Another device cannot claim the message either.
    (ack,) = _send(kit, "b", "batch", first)
    assert ack.status == "refused"


Change = Callable[[Kit, Plan, Bundle], bytes]


def _batch(**changes: Any) -> Change:
    def make(kit: Kit, plan: Plan, bundle: Bundle) -> bytes:
        device = kit.devices["a"]
        codes = bundle.codec.encode(device.table.take(np.arange(20))).codes
        return device.batch(plan, bundle, codes, **changes)

    return make


def _flood(kit: Kit, plan: Plan, bundle: Bundle) -> bytes:
    return kit.devices["a"].batches(plan, bundle, 4000, parts=1)[0]


def _second_anchor(kit: Kit, plan: Plan, bundle: Bundle) -> bytes:
    return kit.devices["a"].anchor(plan, bundle)


def _privacy(epsilon: float | None, delta: float) -> PrivacyStatement:
    return PrivacyStatement(mechanism="test", epsilon=epsilon, delta=delta)


@pytest.mark.parametrize(
    ("make", "status", "reason"),
    [
        (_batch(device="b"), "refused", "the topic a"),
        (_batch(fleet="other"), "refused", "fleet other"),
        (_batch(schema_digest="1" * 64), "refused", "schema 111111111111"),
        (_batch(codec_digest="2" * 64), "refused", "codec 222222222222"),
        (_batch(codec_digest=""), "refused", "codec (none)"),
        (_batch(plan_id="3" * 32), "quarantined", "no plan of this aggregator"),
        (_batch(plan_id=""), "quarantined", "none named"),
        (_batch(round=2), "quarantined", "its plan is of round 1"),
        (_batch(bundle_digest="4" * 64), "quarantined", "never published"),
        (_batch(depth=5), "quarantined", "depth 5"),
        (_batch(privacy=_privacy(None, 0.0)), "quarantined", "WITHOUT PRIVACY"),
        (_batch(privacy=_privacy(99.0, 1e-5)), "quarantined", "epsilon 99"),
        (_batch(privacy=_privacy(1.0, 1e-2)), "quarantined", "delta 0.01"),
        (_flood, "quarantined", "at most 4000"),
        (_second_anchor, "quarantined", "a second anchor"),
    ],
)
def test_what_must_not_be_counted_is_set_aside(
    kit: Kit, make: Change, status: str, reason: str
) -> None:
    plan, bundle = kit.filled()
    before = kit.workspace.catalogue.totals()
    payload = make(kit, plan, bundle)
    kind = "summary" if make is _second_anchor else "batch"
    (ack,) = _send(kit, "a", kind, payload)
    assert ack.status == status
    assert reason in ack.reason
    # Sent again, it gets the same answer and is set aside once.
    assert _send(kit, "a", kind, payload)[0] == ack
    after = kit.workspace.catalogue.totals()
    assert after == {**before, "quarantined": before["quarantined"] + 1}
    kept = kit.config.data_dir / "quarantine" / "a" / f"{sha256(payload)}.bin"
    assert kept.read_bytes() == payload
    assert reason in json.loads(kept.with_suffix(".json").read_text())["reason"]


def test_codes_out_of_range_are_refused(kit: Kit) -> None:
    plan, bundle = kit.filled()
    device = kit.devices["a"]
    codes = bundle.codec.encode(device.table.take(np.arange(5))).codes
    # A device with a wrong codec that claims the right one.
    payload = device.batch(plan, bundle, codes)
    narrow = make_inbox(kit.workspace)
    other = kit.devices["b"].table.take(np.arange(40))
    small = Codec.fit(other, kit.workspace.schema, max_bins=2)
    narrow.use_codec(small)
    wrong = device.batch(plan, bundle, codes, codec_digest=small.digest)
    (ack,) = narrow.accept([Incoming("a", "batch", wrong)])
    assert ack.status == "refused"
    assert "codes" in ack.reason
    assert _send(kit, "a", "batch", payload)[0].status == "accepted"


@pytest.mark.parametrize("payload", [b"", b"garbage", b"\x28\xb5\x2f\xfd" + b"\0" * 40])
@pytest.mark.parametrize("kind", ["batch", "summary"])
def test_unreadable_bytes_are_refused_by_their_digest(kit: Kit, payload: bytes, kind: str) -> None:
    acks = _send(kit, "a", kind, payload, payload)
    assert [a.status for a in acks] == ["refused", "refused"]
    assert acks[0].sha256 == sha256(payload)
    assert acks[0].id == ""
    assert kit.workspace.catalogue.totals()["quarantined"] == 1


def test_before_the_census_there_is_no_codec_for_batches(kit: Kit, tmp_path: Path) -> None:
    plan, bundle = kit.filled()
    payload = kit.devices["a"].batches(plan, bundle, 10, parts=1)[0]
    (ack,) = make_inbox(kit.workspace).accept([Incoming("a", "batch", payload)])
    assert ack.status == "refused"


def test_a_census_answers_only_a_census_plan(kit: Kit) -> None:
    plan, _ = kit.filled()
    (ack,) = _send(kit, "a", "summary", kit.devices["a"].census(plan))
    assert ack.status == "quarantined"
    assert "does not answer a train plan" in ack.reason


def test_quarantine_is_bounded(tmp_path: Path) -> None:
    kit = make_kit(tmp_path, limits={"quarantine_bytes": 20})
    acks = _send(kit, "a", "batch", b"x" * 15, b"y" * 15)
    assert [a.status for a in acks] == ["refused", "refused"]
    assert len(list((kit.config.data_dir / "quarantine").rglob("*.bin"))) == 1
    assert kit.workspace.catalogue.totals()["quarantined"] == 2


def test_a_full_disk_acknowledges_nothing(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, bundle = kit.filled()
    before = kit.workspace.catalogue.totals()
    pool = kit.config.data_dir / "pool"
    pool.rename(pool.with_name("moved"))
    pool.write_text("a file where a directory must be")
    payload = kit.devices["a"].batches(plan, bundle, 10, parts=1)[0]
    with pytest.raises(OSError, match="pool"):
        _send(kit, "a", "batch", payload)
    assert kit.workspace.catalogue.totals() == before
    pool.unlink()
    pool.with_name("moved").rename(pool)
    assert _send(kit, "a", "batch", payload)[0].status == "accepted"


def test_a_commit_that_fails_leaves_no_file_behind(kit: Kit) -> None:
    plan, bundle = kit.filled()
    first, second = kit.devices["a"].batches(plan, bundle, 30, parts=2)
    before = _pool_files(kit)
    database = kit.config.data_dir / "catalogue.sqlite"
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON messages "
            "BEGIN SELECT RAISE(ABORT, 'not now'); END"
        )
        with pytest.raises(AggregatorError, match="not now"):
            _send(kit, "a", "batch", first)
        assert len(_pool_files(kit) - before) == 1
        connection.execute("DROP TRIGGER refuse")
    # In another order, so that the file of both has another name.
    acks = _send(kit, "a", "batch", second, first)
    assert [ack.status for ack in acks] == ["accepted", "accepted"]
    (record,) = {record.path for record in kit.workspace.catalogue.messages(kind="batch")} - before
    assert _pool_files(kit) - before == {record}


def _pool_files(kit: Kit) -> set[str]:
    base = kit.config.data_dir
    return {str(path.relative_to(base)) for path in (base / "pool").rglob("*") if path.is_file()}


def test_files_without_a_row_are_swept_and_lost_files_are_reported(kit: Kit) -> None:
    kit.filled()
    records = kit.workspace.catalogue.messages(kind="batch")
    stray = kit.config.data_dir / "pool/round=1/stray.parquet"
    stray.write_bytes(b"written, never committed")
    half = kit.config.data_dir / "summaries/round=0/device=a/00.zst.17.tmp"
    half.write_bytes(b"written, never")
    assert sweep(kit.config.data_dir, kit.workspace.catalogue) == 2
    assert not stray.exists()
    assert not half.exists()
    assert sweep(kit.config.data_dir, kit.workspace.catalogue) == 0
    assert len(kit.workspace.pool_rows().codes) == 3000
    (kit.config.data_dir / records[0].path).unlink()
    with pytest.raises(AggregatorError, match="cannot be read"):
        kit.workspace.pool_rows()


def test_the_pool_is_queried_through_ibis(kit: Kit) -> None:
    with pytest.raises(AggregatorError, match="empty"):
        kit.workspace.pool.table([])
    kit.filled(rows=400)
    table = kit.workspace.pool.table(kit.workspace.catalogue.messages(kind="batch"))
    counts = table.group_by("device").aggregate(rows=table.count()).order_by("device")
    assert counts.to_pyarrow().to_pylist() == [
        {"device": "a", "rows": 400},
        {"device": "b", "rows": 400},
    ]
    bundle = kit.workspace.bundle()
    assert bundle is not None
    lineage = table.select("device", "round", "parent_bundle", "depth").distinct()
    assert lineage.order_by("device").to_pyarrow().to_pylist() == [
        {"device": name, "round": 1, "parent_bundle": bundle.digest, "depth": 1} for name in "ab"
    ]
    late = table.filter(table.code_late == 1).count().to_pyarrow().as_py()
    assert late == int((kit.workspace.pool_rows().codes[:, 0] == 1).sum())


def test_a_row_keeps_its_lot(kit: Kit) -> None:
    plan, bundle = kit.filled(rows=200)
    first = kit.workspace.pool_rows()
    _send(kit, "a", "batch", *kit.devices["a"].batches(plan, bundle, 100, seed=9))
    second = kit.workspace.pool_rows()
    old = {
        (d, tuple(c), lot) for d, c, lot in zip(first.device, first.codes, first.lot, strict=True)
    }
    new = {
        (d, tuple(c), lot)
        for d, c, lot in zip(second.device, second.codes, second.lot, strict=True)
    }
    assert old <= new
    assert 0.03 < (second.lot < 0.1).mean() < 0.17


def test_a_catalogue_of_another_version_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'c.sqlite'}"
    with pytest.raises(AggregatorError, match="cannot be opened"):
        Catalogue(url, create=False)
    catalogue = Catalogue(url)
    catalogue.put("version", "99")
    catalogue.close()
    with pytest.raises(AggregatorError, match="version 99"):
        Catalogue(url)
    with pytest.raises(AggregatorError, match="cannot be opened"):
        Catalogue("nonsense")
