"""What arrives while the disk refuses, at the real process over a real broker."""

from __future__ import annotations

import resource
import subprocess
from types import SimpleNamespace
from typing import Any

from edge_runtime.generator import Bundle
from edge_runtime.schema import Schema

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
