"""The tools themselves: what a power cut takes and leaves, refusing disks, jumping clocks."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import edge_runtime
from tests.faults.node import build_shim
from tests.faults.power import cut_power

_KILL = "\nos.kill(os.getpid(), 9)"


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        pytest.skip("needs a C compiler")
    return build_shim(tmp_path_factory.mktemp("shim"))


class Disk:
    """A directory under the shim."""

    def __init__(self, folder: Path, shim: Path) -> None:
        self.root = folder / "state"
        self.root.mkdir(parents=True)
        (folder / "state.graves").mkdir()
        self.journal, self.control = folder / "journal", folder / "control"
        self.journal.touch()
        self.control.write_bytes(bytes(4096))
        self._environment = {
            **os.environ,
            "LD_PRELOAD": str(shim),
            "FAULT_ROOT": str(self.root),
            "FAULT_JOURNAL": str(self.journal),
            "FAULT_CONTROL": str(self.control),
        }

    def run(self, program: str) -> str:
        done = subprocess.run(
            [sys.executable, "-S", "-c", f"import os, sqlite3, time\n{program}"],
            cwd=self.root,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in (0, -9), done.stderr
        return done.stdout

    def cut(self, seed: int) -> int:
        return cut_power(root=self.root, journal=self.journal, rng=random.Random(seed))


@pytest.fixture
def disks(tmp_path: Path, shim: Path) -> Callable[[], Disk]:
    numbers = iter(range(1000))
    return lambda: Disk(tmp_path / str(next(numbers)), shim)


_WRITE = """
path = os.path.join(os.environ["FAULT_ROOT"], "file")
file = os.open(path, os.O_RDWR | os.O_CREAT)
os.write(file, b"a" * 3000)
os.fsync(file)
folder = os.open(os.environ["FAULT_ROOT"], os.O_RDONLY)
os.fsync(folder)
os.pwrite(file, b"b" * 3000, 1500)
"""


def test_what_was_synced_stays_and_the_rest_may_be_lost_or_torn(disks: Callable[[], Disk]) -> None:
    left = set()
    for seed in range(40):
        disk = disks()
        disk.run(_WRITE + _KILL)
        disk.cut(seed)
        data = (disk.root / "file").read_bytes()
        assert data[:1500] == b"a" * 1500
        # Sectors 3, 4 and 5 held "a" before; those behind did not exist.
        assert set(data[1500:3000]) <= {*b"ab"}
        left.add(data)
    assert b"a" * 3000 in left
    assert b"a" * 1500 + b"b" * 3000 in left
    assert len(left) > 4


def test_after_a_sync_nothing_is_lost(disks: Callable[[], Disk]) -> None:
    for seed in range(5):
        disk = disks()
        disk.run(_WRITE + "os.fsync(file)" + _KILL)
        assert disk.cut(seed) == 0
        assert (disk.root / "file").read_bytes() == b"a" * 1500 + b"b" * 3000


@pytest.mark.parametrize("synced", [True, False])
def test_a_replaced_file_may_come_back_until_its_directory_is_synced(
    disks: Callable[[], Disk], synced: bool
) -> None:
    found = set()
    for seed in range(12):
        disk = disks()
        disk.run(
            _WRITE
            + "os.fsync(file)\n"
            + "other = os.open(path + '.new', os.O_WRONLY | os.O_CREAT)\n"
            + "os.write(other, b'new'); os.fsync(other); os.rename(path + '.new', path)\n"
            + ("os.fsync(folder)\n" if synced else "")
            + _KILL
        )
        disk.cut(seed)
        found.add((disk.root / "file").read_bytes()[:3])
    assert found == ({b"new"} if synced else {b"new", b"aaa"})


@pytest.mark.parametrize("way", ["make_directory(path)", "path.mkdir(parents=True)"])
def test_a_synced_file_is_lost_with_a_directory_above_it_that_was_not(
    disks: Callable[[], Disk], way: str
) -> None:
    kept = set()
    for seed in range(12):
        disk = disks()
        disk.run(
            f"import sys; sys.path.insert(0, {str(Path(edge_runtime.__file__).parents[1])!r})\n"
            "from pathlib import Path\n"
            "from edge_runtime.process.directories import make_directory, sync_directory\n"
            f"path = Path(os.environ['FAULT_ROOT'], 'a', 'b'); {way}\n"
            "file = os.open(path / 'key', os.O_WRONLY | os.O_CREAT)\n"
            "os.write(file, b'k'); os.fsync(file); sync_directory(path)" + _KILL
        )
        disk.cut(seed)
        kept.add((disk.root / "a" / "b" / "key").exists())
    assert kept == ({True} if way.startswith("make") else {True, False})


def _commit_and_die(synchronous: str) -> str:
    return (
        "c = sqlite3.connect(os.environ['FAULT_ROOT'] + '/s', isolation_level=None)\n"
        f"c.execute('PRAGMA journal_mode=WAL'); c.execute('PRAGMA synchronous={synchronous}')\n"
        "c.execute('CREATE TABLE t (x)')\n"
        "for x in range(20): c.execute('INSERT INTO t VALUES (?)', (x,))\n"
        "c.execute('BEGIN'); c.execute('INSERT INTO t VALUES (99)')" + _KILL
    )


@pytest.mark.parametrize("synchronous", ["FULL", "NORMAL"])
def test_it_tells_a_durable_database_from_one_that_is_not(
    disks: Callable[[], Disk], synchronous: str
) -> None:
    counts = set()
    for seed in range(10):
        disk = disks()
        disk.run(_commit_and_die(synchronous))
        disk.cut(seed)
        try:
            with closing(sqlite3.connect(disk.root / "s")) as database:
                counts.add(database.execute("SELECT COUNT(*) FROM t").fetchone()[0])
        except sqlite3.DatabaseError:
            counts.add(-1)
    assert counts == {20} if synchronous == "FULL" else min(counts) < 20


def test_a_read_only_disk_and_a_clock_that_jumps(disks: Callable[[], Disk]) -> None:
    disk = disks()
    ask = "print(time.time(), time.monotonic())\nos.mkdir(os.environ['FAULT_ROOT'] + '/made')"
    disk.run(ask)
    disk.control.write_bytes(struct.pack("=qq", -int(1e18), 1))
    refused = disk.run(
        "for call in (lambda: open('x', 'w'), lambda: os.unlink(os.getcwd() + '/made')):\n"
        " try: os.chdir('/'); call = call; os.rename(os.environ['FAULT_ROOT'] + '/made', "
        "os.environ['FAULT_ROOT'] + '/moved')\n"
        " except OSError as error: print(error.errno)"
    )
    assert set(refused.split()) == {"30"}
    assert (disk.root / "made").is_dir()
    disk.control.write_bytes(struct.pack("=qq", -int(1e18), 0))
    wall, steady = map(float, disk.run("print(time.time(), time.monotonic())").split())
    assert abs(wall - (time.time() - 1e9)) < 60.0
    assert abs(steady - time.monotonic()) < 60.0
