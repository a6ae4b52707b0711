"""`make test-faults`: seeded schedules of faults on fleets of real processes, and their numbers."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from edge_runtime.errors import EdgeRuntimeError
from tests.faults.fleet import Fleet, can_mount
from tests.faults.identities import SECURE_KINDS
from tests.faults.invariants import Books
from tests.faults.node import build_shim
from tests.faults.schedule import carry_out, draw, is_secure
from tests.faults.troubles import KINDS, NEEDS_MOUNT

#: schedules that share a fleet: its start costs as much as several of them
_PER_FLEET = 15


@dataclass
class Tally:
    """What a block of schedules came to."""

    schedules: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    messages: int = 0
    batches: int = 0
    restarts: int = 0
    repeated: int = 0
    lost: int = 0
    duplicated: int = 0
    unpaid: int = 0
    left_behind: int = 0
    in_the_clear: int = 0
    failed: list[int] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Add another block."""
        for name, value in vars(other).items():
            if isinstance(value, int):
                setattr(self, name, getattr(self, name) + value)
        self.faults += other.faults
        self.failed += other.failed


def run_block(numbers: list[int], *, seed: int, base: Path, shim: Path, mounts: bool) -> Tally:
    """Run schedules on one fleet, and on a new one after each failure."""
    tally = Tally()
    while numbers:
        numbers = _run_on_one(numbers, tally, seed=seed, base=base, shim=shim, mounts=mounts)
    return tally


def _run_on_one(
    numbers: list[int], tally: Tally, *, seed: int, base: Path, shim: Path, mounts: bool
) -> list[int]:
    folder = base / f"fleet-{numbers[0]}"
    books, rest, failed = Books(), numbers, False
    fleet = Fleet(
        folder=folder,
        shim=shim,
        mounts=mounts,
        rounds=4 * len(numbers) + 4,
        seed=seed + rest[0],
        secure=is_secure(seed=seed, number=rest[0]),
    )
    try:
        while rest and not failed:
            number, *rest = rest
            troubles = draw(seed=seed, number=number, mounts=mounts)
            tally.schedules += 1
            tally.faults += Counter(trouble.kind for trouble in troubles)
            began = time.monotonic()
            try:
                fleet.wait_ready()
                carry_out(troubles, fleet, books)
            except (EdgeRuntimeError, AssertionError, OSError) as error:
                failed = True
                tally.failed.append(number)
                _explain(number, seed, troubles, fleet, error)
            words = ", ".join(f"{t.kind} ({t.target})" for t in troubles)
            took = time.monotonic() - began
            print(f"{'FAILED' if failed else 'ok'} {number} {took:.1f} s: {words}", flush=True)
    finally:
        tally.messages += len(fleet.sent)
        tally.batches += sum(header.kind == "batch" for _, header, _ in fleet.sent.values())
        tally.restarts += sum(len(node.ends) for node in fleet.nodes.values())
        tally.repeated += fleet.network.repeated
        for name in ("lost", "duplicated", "unpaid", "left_behind", "in_the_clear"):
            setattr(tally, name, getattr(tally, name) + len(getattr(books, name)))
        if failed:
            _keep(fleet, base)
        fleet.close()
        shutil.rmtree(folder, ignore_errors=True)
    return rest


def _explain(
    number: int, seed: int, troubles: list[object], fleet: Fleet, error: BaseException
) -> None:
    print(f"\nschedule {number} of seed {seed} failed:", flush=True)
    for trouble in troubles:
        print(f"  {trouble}")
    if isinstance(error, EdgeRuntimeError):
        print(f"  {error}")
    else:
        traceback.print_exception(error, file=sys.stdout)
    for node in fleet.nodes.values():
        text = node.log.read_text(errors="replace") if node.log.exists() else ""
        print(f"--- {node.name}, last lines of its log")
        print("\n".join(text.splitlines()[-8:]))
    print(f"once more: make test-faults ARGS='--seed {seed} --only {number}'", flush=True)


def _keep(fleet: Fleet, base: Path) -> None:
    """Keep what a failed fleet leaves, beyond its disks."""
    kept = base / "failed" / fleet.folder.name
    shutil.copytree(fleet.folder, kept, ignore=shutil.ignore_patterns("state.graves", "filler"))
    print(f"its files are in {kept}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run; 0 when everything held."""
    parser = argparse.ArgumentParser(prog="make test-faults ARGS=...", description=__doc__)
    parser.add_argument("--schedules", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, nargs="+", help="these schedules, on new fleets")
    parser.add_argument("--processes", type=int, default=2, help="fleets at a time")
    options = parser.parse_args(arguments)
    # Of the test's own links, whose fate the checks are about.
    logging.getLogger("edge_runtime").addHandler(logging.NullHandler())
    numbers = options.only or [*range(options.schedules)]
    blocks = [
        block
        for secure in (False, True)
        for block in _blocks(
            [n for n in numbers if is_secure(seed=options.seed, number=n) == secure],
            processes=options.processes,
        )
    ]
    base = Path(tempfile.mkdtemp(prefix="edge-runtime-faults-"))
    mounts = can_mount(base)
    if not mounts:
        print(f"skipped, as no file system can be mounted here: {', '.join(NEEDS_MOUNT)}")
    shim = build_shim(base)
    tally = Tally()
    began = time.monotonic()
    with ProcessPoolExecutor(options.processes, initializer=_end_when_asked) as pool:
        jobs = [
            pool.submit(run_block, b, seed=options.seed, base=base, shim=shim, mounts=mounts)
            for b in blocks
        ]
        signal.signal(signal.SIGTERM, _end_all)
        for job in as_completed(jobs):
            tally.add(job.result())
    _print(tally, seconds=time.monotonic() - began, seed=options.seed)
    if not tally.failed:
        shutil.rmtree(base)
    return 1 if tally.failed else 0


def _blocks(numbers: list[int], *, processes: int) -> list[list[int]]:
    """Share schedules of one kind out: a block is for one fleet."""
    size = max(1, min(_PER_FLEET, -(-len(numbers) // processes)))
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def _end_when_asked() -> None:
    # SystemExit and not the death of the process: its fleet must be ended as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def _end_all(*_: object) -> None:
    for child in multiprocessing.active_children():
        child.terminate()
    sys.exit(143)


def _print(tally: Tally, *, seconds: float, seed: int) -> None:
    print(f"\nschedules run        {tally.schedules} (seed {seed}, {seconds:.0f} s)")
    print(f"faults injected      {sum(tally.faults.values())}")
    for kind in (*KINDS, *SECURE_KINDS):
        print(f"  {kind:<34} {tally.faults[kind]}")
    print(f"messages repeated    {tally.repeated}")
    print(f"restarted by itself  {tally.restarts}")
    print(f"messages of devices  {tally.messages}, of them {tally.batches} batches")
    print(f"lost                 {tally.lost}")
    print(f"duplicated           {tally.duplicated}")
    print(f"released, not paid   {tally.unpaid}")
    print(f"files left behind    {tally.left_behind}")
    print(f"in the clear         {tally.in_the_clear}")
    print(f"failed schedules     {len(tally.failed)} {sorted(tally.failed) or ''}")


if __name__ == "__main__":
    sys.exit(main())
