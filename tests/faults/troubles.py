"""Every kind of fault: how it begins, and how it ends."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import FleetError
from tests.faults.fleet import DEVICES, Fleet
from tests.faults.identities import SECURE_KINDS, begin_secure
from tests.faults.node import Node
from tests.faults.power import cut_power, forget

__all__ = ["KINDS", "Trouble", "begin"]

#: how often a kind is drawn beside the others, and whom it can befall
_ALL = (*DEVICES, "aggregator")
KINDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "kill device": (3, DEVICES),
    "kill aggregator": (3, ("aggregator",)),
    "kill broker": (3, ("broker",)),
    "network cut": (3, _ALL),
    "network delay": (2, _ALL),
    "network duplication": (3, _ALL),
    "slow consumer": (2, _ALL),
    "power cut": (5, _ALL),
    "disk full": (4, _ALL),
    "read-only while running": (2, _ALL),
    "read-only at start": (1, _ALL),
    "clock jump": (3, _ALL),
    "corrupted SQLite": (3, _ALL),
    "half-written bundle": (2, _ALL),
}
#: what needs a file system of the node's own
NEEDS_MOUNT = ("disk full", "read-only at start")
_START_S = 200.0
#: how long a process may work on a file with a few damaged sectors
_SECTORS_S = 1.5


@dataclass(frozen=True)
class Trouble:
    """One fault of a schedule: what, whom, when it begins and how long it lasts (seconds).

    `seed` decides its particulars.
    """

    kind: str
    target: str
    at_s: float
    for_s: float
    seed: int


def begin(trouble: Trouble, fleet: Fleet) -> Callable[[], None]:
    """Make it; the function returned ends it."""
    rng = random.Random(trouble.seed)
    if trouble.kind == "kill broker":
        fleet.kill_broker()
        return fleet.broker.restart
    if trouble.kind in SECURE_KINDS:
        return begin_secure(trouble.kind, trouble.target, fleet, rng)
    node = fleet.nodes[trouble.target]
    return _MAKERS[trouble.kind](node, rng)


def _kill(node: Node, _rng: random.Random) -> Callable[[], None]:
    node.hold()
    return node.let_go


def _cut(node: Node, rng: random.Random) -> Callable[[], None]:
    node.wire.refuse = True
    node.wire.cut(torn=rng.random() < 0.5)
    return node.wire.heal


def _delay(node: Node, rng: random.Random) -> Callable[[], None]:
    node.wire.delay_s = rng.uniform(0.02, 0.3)
    return node.wire.heal


def _twice(node: Node, rng: random.Random) -> Callable[[], None]:
    node.wire.twice = rng.uniform(0.3, 1.0)
    return node.wire.heal


def _slow(node: Node, rng: random.Random) -> Callable[[], None]:
    node.wire.bytes_per_s = rng.uniform(2e3, 2e4)
    return node.wire.heal


def _power(node: Node, rng: random.Random) -> Callable[[], None]:
    end = _kill(node, rng)
    cut_power(root=node.state, journal=node.journal, rng=rng)
    return end


def _full(node: Node, rng: random.Random) -> Callable[[], None]:
    node.fill(left=rng.choice([0, 0, 4096, 20_000, 100_000]))
    return node.free


def _read_only(node: Node, _rng: random.Random) -> Callable[[], None]:
    node.read_only(True)
    return lambda: node.read_only(False)


def _read_only_at_start(node: Node, _rng: random.Random) -> Callable[[], None]:
    node.kill()
    node.remount(read_only=True)

    def end() -> None:
        # It may have ended by itself; what still runs has nothing open for writing.
        node.check_words()
        node.kill()
        node.remount(read_only=False)

    return end


def _clock(node: Node, rng: random.Random) -> Callable[[], None]:
    size_s = 10 ** rng.uniform(0, 8.5)
    node.shift_clock(size_s if rng.random() < 0.5 else -size_s)
    # And back, which is a jump the other way.
    return lambda: node.shift_clock(0.0)


def _corrupt(node: Node, rng: random.Random) -> Callable[[], None]:
    """Damage the file of a dead process and start it: a person restores the file if it stops."""
    node.hold()
    # Nothing may leave: the copy that is restored would not know of it.
    node.wire.refuse = True
    copy = node.folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(node.state, copy)
    name = "catalogue.sqlite" if node.name == "aggregator" else "device.sqlite"
    path = node.state / name
    way = rng.choice(["header", "short", "empty", "gone", "noise", "sectors", "sectors"])
    if path.stat().st_size == 0:
        way = "sectors"  # everything is in the log still
    _damage(path, way, rng)
    node.start()

    def end() -> None:
        process = node.process
        if process is None:
            raise FleetError(f"{node.name} was not started")
        ends = time.monotonic() + (_SECTORS_S if way == "sectors" else _START_S)
        while process.poll() is None and time.monotonic() < ends:
            time.sleep(0.02)
        code, words = process.poll(), node.last_words()
        # Damage that the start does not meet may be met later, or never.
        if not (code == 1 and name in words) and not (way == "sectors" and code is None):
            raise FleetError(f"{node.name}, {name} damaged ({way}): code {code}, {words}")
        node.check_words()
        node.kill()
        for old in [*node.state.iterdir()]:
            if old.is_dir():
                shutil.rmtree(old)
            else:
                old.unlink()
        shutil.copytree(copy, node.state, dirs_exist_ok=True)
        shutil.rmtree(copy)
        forget(root=node.state, journal=node.journal)
        node.wire.heal()
        node.let_go()

    return end


def _damage(path: Path, way: str, rng: random.Random) -> None:
    size = path.stat().st_size
    log = path.with_name(f"{path.name}-wal")
    if way != "sectors":
        # It may hold every page, and would mend the file.
        log.unlink(missing_ok=True)
        path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
    with path.open("r+b") as file:
        match way:
            case "header":
                file.write(rng.randbytes(100))
            case "short":
                file.truncate(rng.randrange(1, max(2, size // 2)))
            case "empty":
                file.truncate(0)
            case "gone":
                path.unlink()
            case "noise":
                file.write(rng.randbytes(size))
            case "sectors":
                for _ in range(max(1, size // 8192)):
                    file.seek(rng.randrange(size // 512 + 1) * 512)
                    file.write(rng.randbytes(512))


def _half_bundle(node: Node, rng: random.Random) -> Callable[[], None]:
    """Leave what a process that died while it wrote a bundle has left."""
    end = _kill(node, rng)
    folder = node.state / "bundles"
    for path in sorted(folder.glob("*.bundle")) if node.name != "aggregator" else []:
        os.truncate(path, rng.randrange(path.stat().st_size))
    folder.mkdir(exist_ok=True)
    digest = rng.randbytes(32).hex()
    rest = (
        f"{digest}.bundle.{rng.randrange(1, 30000)}.tmp"
        if node.name == "aggregator"
        else (f"{digest}.part")
    )
    (folder / rest).write_bytes(rng.randbytes(rng.randrange(1, 5000)))
    return end


_MAKERS: dict[str, Callable[[Node, random.Random], Callable[[], None]]] = {
    "kill device": _kill,
    "kill aggregator": _kill,
    "network cut": _cut,
    "network delay": _delay,
    "network duplication": _twice,
    "slow consumer": _slow,
    "power cut": _power,
    "disk full": _full,
    "read-only while running": _read_only,
    "read-only at start": _read_only_at_start,
    "clock jump": _clock,
    "corrupted SQLite": _corrupt,
    "half-written bundle": _half_bundle,
}
