"""The SD image, started on an emulated Raspberry Pi 3, until it takes part in a fleet.

Run by `make test-image`. One story for each of the two images, told in order: a card is flashed,
gets the operator's files, and its board starts without a network, gets one, enrols, loses its
power, and is switched off.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pi import Card, Pi

from edge_runtime.fleet.broker import free_port
from tests.arm.board_fleet import DEVICE, BoardFleet
from tests.arm.conftest import REPOSITORY

pytestmark = [pytest.mark.arm, pytest.mark.image]

#: emulated, on a machine that does other things as well
PATIENCE_S = 900.0
CARD_MB = 4096
ROWS = "/var/lib/edge-runtime/rows.csv"
#: what the boards' loaders and Linux look for, by board
LOADER = {"bootcode.bin", "start.elf", "fixup.dat", "config.txt", "cmdline.txt"}
BOARDS = {
    "Pi 3": LOADER | {"bcm2837-rpi-3-b.dtb"},
    "Pi 3+": LOADER | {"bcm2837-rpi-3-b-plus.dtb", "bcm2837-rpi-3-a-plus.dtb"},
    "Pi Zero 2 W": LOADER | {"bcm2837-rpi-zero-2-w.dtb"},
    "Pi 4": {"start4.elf", "fixup4.dat", "bcm2711-rpi-4-b.dtb", "config.txt", "cmdline.txt"},
    "Pi 400": {"start4.elf", "fixup4.dat", "bcm2711-rpi-400.dtb", "config.txt", "cmdline.txt"},
}


class Story:
    """The fleet, the card, and the board that runs from it."""

    def __init__(self, folder: Path, packed: Path, *, read_only: bool) -> None:
        self.read_only = read_only
        self.folder = folder
        self.card = Card(packed, folder / "card.img", size_mb=CARD_MB)
        self.key = folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
        self.fleet = BoardFleet(folder / "fleet", engine="kernel", source=ROWS, steps=100)
        self.ssh_port = free_port()
        self._pi: Pi | None = None

    def boot(self, *, plugged_in: bool = True) -> Pi:
        self._pi = Pi(
            card=self.card, folder=self.folder, ssh_port=self.ssh_port, key=self.key,
            plugged_in=plugged_in,
        )  # fmt: skip
        return self._pi

    @property
    def pi(self) -> Pi:
        assert self._pi is not None, "an earlier part of the story failed"
        return self._pi

    @property
    def grows(self) -> str:
        """Return where the partition is mounted that fills the card."""
        return "/state" if self.read_only else "/"

    def close(self) -> None:
        if self._pi is not None:
            self._pi.cut()
        self.fleet.stop()


def _image(*, read_only: bool) -> Path:
    """Return the image in dist, made when it is not there."""
    out = REPOSITORY / "dist"
    name = f"edge-runtime-*-rpi-arm64{'-ro' if read_only else ''}.img.xz"
    if not sorted(out.glob(name)):
        command = [sys.executable, REPOSITORY / "tools/image/build.py"]
        done = subprocess.run(
            [*command, "--read-only"] if read_only else command,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
    return max(out.glob(name), key=lambda path: path.stat().st_mtime)


@pytest.fixture(scope="module", params=["writable", "read-only"])
def story(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Story]:
    read_only = request.param == "read-only"
    folder = tmp_path_factory.mktemp(request.param)
    made = Story(folder, _image(read_only=read_only), read_only=read_only)
    try:
        yield made
    finally:
        made.close()


def test_boot_partition_is_complete_for_each_board(story: Story) -> None:
    names = story.card.names()
    for board, needed in BOARDS.items():
        assert needed <= names, f"{board} lacks {needed - names}"
    config = story.card.read("config.txt")
    assert re.search(r"^arm_64bit=1$", config, re.MULTILINE)
    # By which the loader takes the device trees under these names.
    assert re.search(r"^upstream_kernel=1$", config, re.MULTILINE)
    for pattern in (r"^kernel=(\S+)$", r"^initramfs (\S+)$"):
        (name,) = re.findall(pattern, config, re.MULTILINE)
        assert name in names
    words = story.card.read("cmdline.txt").split()
    assert {"root=LABEL=root", "console=ttyS1,115200"} <= set(words)
    assert not any(word.startswith("cma=") for word in words), "a Pi 4 would not start"
    assert [word for word in words if word in ("ro", "rw")][-1] == (
        "ro" if story.read_only else "rw"
    )


def test_first_boot_without_a_network(story: Story, record_property: pytest.RecordProperty) -> None:
    story.card.put("authorized_keys", story.key.with_suffix(".pub").read_text(encoding="utf-8"))
    story.card.put("edge-runtime.toml", story.fleet.token())
    pi = story.boot(plugged_in=False)
    seconds = pi.wait_console(r"edge-runtime login: ", timeout_s=PATIENCE_S)
    record_property("login_prompt_s", seconds)
    pi.plug_in()
    pi.wait("true", timeout_s=PATIENCE_S)
    # The board asks on, for ever; nothing has been used up.
    pi.wait(
        "journalctl -u edge-runtime-enrol --no-pager | grep -F 'no broker answers'",
        timeout_s=PATIENCE_S,
    )
    assert pi.run("systemctl show -p ActiveState edge-runtime-enrol") == "ActiveState=activating"
    assert pi.run("systemctl is-enabled edge-runtime-device edge-runtime-enrol").split() == [
        "enabled", "enabled"
    ]  # fmt: skip


def test_the_card_is_filled(story: Story) -> None:
    shown = story.pi.run(f"findmnt --json --bytes --output size,fstype,options {story.grows}")
    (mount,) = json.loads(shown)["filesystems"]
    parts = json.loads(story.pi.run("lsblk --json --bytes --output name,size /dev/mmcblk0"))
    (disk,) = parts["blockdevices"]
    assert disk["size"] == CARD_MB << 20
    last = disk["children"][-1]
    before_mb = 4 + 256 + (1792 if story.read_only else 0)
    # growpart leaves the last 33 sectors, for whoever wants another kind of partition table.
    assert last["size"] == disk["size"] - (before_mb << 20) - 33 * 512
    # What a file system needs for itself is less than 5 %.
    assert mount["size"] > 0.95 * last["size"]
    assert story.pi.run("findmnt -no OPTIONS /").split(",")[0] == (
        "ro" if story.read_only else "rw"
    )
    for place in ("/var/lib/edge-runtime", "/etc/edge-runtime"):
        story.pi.run(f"touch {place}/probe && rm {place}/probe")
    if story.read_only:
        refused = story.pi.run("touch /usr/probe", check=False)
        assert "Read-only file system" in refused


def test_it_enrols_and_takes_part(story: Story, record_property: pytest.RecordProperty) -> None:
    pi, fleet = story.pi, story.fleet
    pi.give(fleet.rows.read_text(encoding="utf-8"), ROWS)
    pi.run(f"chown edge-runtime: {ROWS}")
    fleet.start()
    # What the network's time would do, which is out of reach here.
    pi.run(f"date --set=@{time.time():.0f}")
    begin_s = time.monotonic()
    fleet.wait(
        lambda found: (found["devices"].get(DEVICE, {}).get("accepted") or {}).get("batches"),
        "a batch in the pool", timeout_s=2 * PATIENCE_S,
    )  # fmt: skip
    record_property("first_batch_s", time.monotonic() - begin_s)
    token = story.pi.run("cat /boot/firmware/edge-runtime.toml")
    assert re.search(r'secret = "-{43}"', token), "the token must be wiped"
    assert pi.run("systemctl show edge-runtime-device -p NRestarts") == "NRestarts=0"


def test_a_power_cut_is_survived(story: Story, record_property: pytest.RecordProperty) -> None:
    kept = (
        "sha256sum /etc/edge-runtime/device.toml /var/lib/edge-runtime/identity/certificate.pem "
        "/etc/ssh/ssh_host_ed25519_key; grep -c . /boot/firmware/edge-runtime.toml"
    )
    before = story.pi.run(kept)
    sent = story.fleet.device()["accepted"]["rows"]
    story.pi.cut()
    pi = story.boot()
    seconds = pi.wait_console(r"edge-runtime login: ", timeout_s=PATIENCE_S)
    record_property("login_prompt_again_s", seconds)
    pi.wait("systemctl is-active edge-runtime-device", timeout_s=PATIENCE_S)
    assert pi.run(kept) == before
    # Later than the build of the image, which is all that a board without a battery knew at first.
    assert int(pi.run("date +%s")) > int(pi.run("stat -c %Y /usr/lib/clock-epoch"))
    pi.wait("systemctl is-active first-boot", timeout_s=PATIENCE_S)
    assert pi.run("systemctl --failed --no-legend") == ""
    found = story.fleet.wait(
        lambda found: found["devices"][DEVICE]["status"] not in ("offline", "stopped"),
        "the board back after the cut", timeout_s=PATIENCE_S,
    )  # fmt: skip
    assert found["devices"][DEVICE]["accepted"]["rows"] >= sent > 0


def test_power_off_leaves_sound_file_systems(story: Story) -> None:
    story.pi.power_off(timeout_s=PATIENCE_S)
    for part in _json("sfdisk", "--json", story.card.path)["partitiontable"]["partitions"][1:]:
        checked = subprocess.run(
            [_sbin("e2fsck"), "-f", "-n", f"{story.card.path}?offset={part['start'] * 512}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert checked.returncode == 0, checked.stdout


def _json(tool: str, *arguments: object) -> Any:
    done = subprocess.run(
        [_sbin(tool), *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def _sbin(tool: str) -> str:
    return shutil.which(tool, path="/usr/sbin:/sbin") or tool
