"""A board boots, enrols, takes part, loses its power and goes on: one story, told in order."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import emulate
import pytest
from machine import Machine, make_disk

from tests.arm import bytecode
from tests.arm.board_fleet import EPSILON, BoardFleet
from tests.arm.conftest import Packages

# All in one process: one story, and the longest.
pytestmark = [pytest.mark.arm, pytest.mark.xdist_group("boot")]

SERVICE = "edge-runtime-device.service"
#: emulated, on a machine that does other things as well
PATIENCE_S = 600.0
#: peak RSS of the agent with onnxruntime, from the project's design (MiB)
PEAK_MB = 96


class Story:
    """The fleet, the disk, and the machine that runs from it."""

    def __init__(self, folder: Path, base: Path, packages: Packages) -> None:
        self.fleet = BoardFleet(folder / "fleet")
        self.disk = folder / "disk.img"
        self._base, self._folder = base, folder
        self._install(packages)
        self.fleet.start()
        self.machine: Machine | None = None
        #: the board's last state before its power was cut
        self.before: dict[str, Any] = {}

    def _install(self, packages: Packages) -> None:
        root = self._folder / "root"
        root.mkdir()
        subprocess.run(
            ["tar", "-C", root, "--exclude=./dev/*", "-xf", self._base / "root.tar"], check=True
        )
        files = [packages.path("edge-runtime"), packages.path("edge-runtime-onnx")]
        bytecode.bring(files, root)
        done = emulate.run(
            root, ["dpkg", "--install", *(f"/packages/{file.name}" for file in files)],
            board="pi4", binds={files[0].parent: "/packages"}, timeout_s=PATIENCE_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        shutil.copy(packages.path("edge-runtime", revision=2), root / "root/upgrade.deb")
        shutil.copy(self.fleet.rows, root / "srv/rows.csv")
        (root / "boot/firmware").mkdir()
        token = root / "boot/firmware/edge-runtime.toml"
        token.write_text(self.fleet.token(), encoding="utf-8")
        make_disk(root, self.disk)
        shutil.rmtree(root)

    def boot(self) -> Machine:
        self.machine = Machine(
            disk=self.disk, kernel=self._base / "vmlinuz", initrd=self._base / "initrd.gz",
            log=self._folder / "console.log",
        )  # fmt: skip
        return self.machine

    def close(self) -> None:
        if self.machine is not None:
            self.machine.cut()
        self.fleet.stop()


@pytest.fixture(scope="module")
def story(
    tmp_path_factory: pytest.TempPathFactory, base: Path, packages: Packages
) -> Iterator[Story]:
    made = Story(tmp_path_factory.mktemp("boot"), base, packages)
    try:
        yield made
    finally:
        made.close()


def _properties(machine: Machine, *names: str) -> dict[str, str]:
    shown = machine.run(f"systemctl show {SERVICE} {' '.join(f'-p {name}' for name in names)}")
    return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)


def _peak_mb(machine: Machine, pid: str) -> float:
    shown = machine.run(f"grep VmHWM /proc/{pid}/status")
    return int(re.findall(r"\d+", shown)[0]) / 1024


def _accepted(found: dict[str, Any]) -> dict[str, Any]:
    return found["devices"].get("board", {}).get("accepted") or {}


def test_board_enrols_and_takes_part_until_its_power_is_cut(
    story: Story, record_property: pytest.RecordProperty
) -> None:
    machine, fleet = story.boot(), story.fleet
    machine.wait_ready(timeout_s=PATIENCE_S)
    fleet.wait(
        lambda found: _accepted(found).get("batches"),
        "a batch in the pool", timeout_s=PATIENCE_S,
    )  # fmt: skip
    record_property("first_batch_s", time.monotonic() - machine.started_s)
    # In the middle of the second round's training, which ends soon.
    before = fleet.wait(
        lambda found: found["devices"]["board"].get("status") == "training"
        and found["devices"]["board"]["round"] == 2,
        "training in round 2", timeout_s=PATIENCE_S,
    )  # fmt: skip
    found = _properties(machine, "MainPID", "NRestarts")
    peak_mb = _peak_mb(machine, found["MainPID"])
    machine.cut()
    record_property("peak_mb", peak_mb)
    assert peak_mb <= PEAK_MB
    assert found["NRestarts"] == "0"
    story.before = before["devices"]["board"]
    assert story.before["accepted"]["batches"] > 0


def test_nothing_acknowledged_is_lost_by_the_cut(story: Story) -> None:
    before = story.before
    machine, fleet = story.boot(), story.fleet
    found = fleet.wait(
        lambda found: _accepted(found).get("batches", 0) > before["accepted"]["batches"]
        and found["devices"]["board"]["status"] == "idle"
        and found["devices"]["board"]["outbox"] == 0,
        "the second round's batches, acknowledged", timeout_s=PATIENCE_S,
    )  # fmt: skip
    machine.wait_ready(timeout_s=PATIENCE_S)
    after = found["devices"]["board"]
    assert before["epsilon_spent"] <= after["epsilon_spent"] <= EPSILON
    # What was accepted before is there still, and the second round's rows once.
    assert after["accepted"]["rows"] == after["rows_sent"] > before["rows_sent"] > 0
    assert found["totals"]["quarantined"] == 0
    found = _properties(machine, "MainPID", "NRestarts", "ActiveState", "MemoryMax")
    assert found["NRestarts"] == "0"
    assert found["ActiveState"] == "active"
    assert found["MemoryMax"] == str(192 << 20), "the limit of device.toml"
    assert machine.run("systemctl --failed --no-legend") == ""
    assert "onnxruntime" in machine.run(f"cat /proc/{found['MainPID']}/maps")


def test_the_board_is_who_the_token_said_and_the_token_is_wiped(story: Story) -> None:
    machine = story.machine
    assert machine is not None
    enrolled = machine.run("cat /boot/firmware/edge-runtime.toml /etc/edge-runtime/device.toml")
    assert 'id = "board"' in enrolled
    assert re.search(r'secret = "-{43}"', enrolled), "the token must be wiped"


def test_an_upgrade_restarts_once_and_keeps_the_state(story: Story) -> None:
    machine = story.machine
    assert machine is not None
    ledger = "sha256sum /var/lib/edge-runtime/identity/certificate.pem"
    before = machine.run(ledger)
    old = _properties(machine, "InvocationID", "MainPID")
    count = f"journalctl -u {SERVICE} --no-pager | grep -c Started"
    started = int(machine.run(count))
    machine.run("dpkg --install --force-confold /root/upgrade.deb", timeout_s=PATIENCE_S)
    new = _properties(machine, "InvocationID", "MainPID", "ActiveState", "NRestarts")
    assert new["InvocationID"] != old["InvocationID"]
    assert new["ActiveState"] == "active"
    assert new["NRestarts"] == "0"
    assert int(machine.run(count)) == started + 1
    assert machine.run(ledger) == before
    after = story.fleet.wait(
        lambda found: found["devices"]["board"].get("status") not in ("offline", "stopped"),
        "the board back after the upgrade", timeout_s=PATIENCE_S,
    )["devices"]["board"]  # fmt: skip
    assert after["epsilon_spent"] > 0


def test_power_off_is_clean(story: Story) -> None:
    machine = story.machine
    assert machine is not None
    assert machine.power_off(timeout_s=PATIENCE_S) < PATIENCE_S
    state = story.fleet.wait(
        lambda found: found["devices"]["board"]["status"] == "stopped",
        "the board's farewell", timeout_s=PATIENCE_S,
    )  # fmt: skip
    assert state["devices"]["board"]["outbox"] == 0
    e2fsck = shutil.which("e2fsck", path="/usr/sbin:/sbin") or "e2fsck"
    checked = subprocess.run(
        [e2fsck, "-f", "-n", story.disk], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout
