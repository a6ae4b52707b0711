"""What arrives while the disk refuses."""

from __future__ import annotations

import resource
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_runtime.device.arrivals import Arrivals
from edge_runtime.device.bundles import BundleCache
from edge_runtime.device.planbook import PlanBook
from edge_runtime.errors import StoreError
from edge_runtime.generator import Bundle
from edge_runtime.messages import Link, Topics, encode_plan
from edge_runtime.schema import Schema
from tests.updates.forge import Forge
from tests.updates.test_gate import Post

#: what the agent may still write into a file beyond the end of its log: some lines
_LINES_BYTES = 2000


class Disk:
    """Lets a running agent write its log and no more: as a full disk, and no file is written."""

    def __init__(self, device: Any, process: subprocess.Popen[bytes]) -> None:
        self._device, self._pid = device, process.pid
        self._limits = resource.prlimit(self._pid, resource.RLIMIT_FSIZE)

    def refuse(self) -> None:
        most = self._device.log.stat().st_size + _LINES_BYTES
        assert (self._device.state_dir / "device.sqlite-wal").stat().st_size > most
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, (most, self._limits[1]))

    def accept(self) -> None:
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, self._limits)


def test_what_arrives_while_the_disk_refuses_is_taken_when_it_does_no_longer(
    device: Any, stand_in: Any, kit: SimpleNamespace, schema: Schema, bundle: Bundle
) -> None:
    disk = Disk(device, device.start())
    stand_in.wait_state("waiting")

    def log() -> str:
        return str(device.log.read_text())

    disk.refuse()
    stand_in.publish_schema(schema)
    census = stand_in.publish_plan(kit.census_plan(schema))
    kit.wait_for("refusals", lambda: log().count("cannot be written") >= 2)
    disk.accept()
    stand_in.wait_state("idle", plan=census)

    plan = stand_in.publish_plan(kit.train_plan(bundle, steps=10))
    stand_in.wait_state("waiting", plan=plan)
    disk.refuse()
    assert len(bundle.to_bytes()) > len(log()) + _LINES_BYTES
    stand_in.publish_bundle(bundle)
    kit.wait_for("a refusal", lambda: "bundle cannot be kept" in log())
    disk.accept()
    stand_in.wait_state("idle", plan=plan)
    # All over the first connection: the broker has sent nothing twice.
    assert log().count("connected to the broker") == 1


@pytest.mark.parametrize("newer", [False, True])
def test_what_is_tried_again_passes_the_gate_anew(
    tmp_path: Path, kit: SimpleNamespace, schema: Schema, newer: bool
) -> None:
    forge = Forge(tmp_path / "fleet")
    forge.now = 1_800_000_000.0
    post = Post(tmp_path / "device", forge)
    first, second = kit.census_plan(schema), kit.census_plan(schema)
    plans, taken = PlanBook(post.store), []
    arrivals = Arrivals(
        fleet=first.fleet,
        topics=Topics(first.fleet),
        link=Link(host="127.0.0.1", port=1, client_id="one"),
        store=post.store,
        plans=plans,
        bundles=BundleCache(directory=tmp_path / "bundles"),
        gate=post.gate,
        on_taken=lambda: taken.append(plans.latest()),
    )
    post.metadata(forge.publish(plan=encode_plan(first)))
    post.store.connection.execute("PRAGMA busy_timeout=50")
    with closing(sqlite3.connect(post.store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError):
            arrivals.offer("plan", "", encode_plan(first))
    if newer:
        post.metadata(forge.publish(plan=encode_plan(second)))
    kit.wait_for("the next attempt", lambda: arrivals.wait_s() == 0.0)
    arrivals.look()
    assert arrivals.wait_s() is None
    if newer:
        assert taken == []
        assert "plan: SignatureError" in post.state.refused
        arrivals.offer("plan", "", encode_plan(second))
    assert [entry.plan for entry in taken] == [second if newer else first]
    post.store.close()
