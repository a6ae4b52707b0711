"""A schedule: which faults, when, whom; drawn from a seed, carried out, and what then must hold."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from tests.faults.fleet import Fleet
from tests.faults.identities import SECURE_KINDS, parts
from tests.faults.invariants import Books
from tests.faults.power import forget
from tests.faults.troubles import KINDS, NEEDS_MOUNT, Trouble, begin

__all__ = ["carry_out", "draw", "is_secure"]

_NETWORK = ("network cut", "network delay", "network duplication", "slow consumer")
#: of a fleet that is well again, to carry a round to its end (seconds; a busy machine is slow)
_PATIENCE_S = 240.0


def is_secure(*, seed: int, number: int) -> bool:
    """Return whether a schedule is for a secure fleet: every fourth is."""
    return (seed + number) % 4 == 0


def draw(*, seed: int, number: int, mounts: bool) -> list[Trouble]:
    """Draw the faults of a schedule: one to three, of which no two befall the same part.

    A secure fleet has the same, drawn as for a plain one, and one more of its own.

    Parameters
    ----------
    seed, number : int
        Decide everything.
    mounts : bool
        Whether faults that need a file system of their own may be among them.
    """
    rng = random.Random(f"{seed}/{number}")
    kinds = {k: v for k, v in KINDS.items() if mounts or k not in NEEDS_MOUNT}
    troubles: list[Trouble] = []
    taken: set[tuple[str, bool]] = set()
    for _ in range(rng.choice([1, 2, 2, 3])):
        kind = rng.choices([*kinds], [weight for weight, _ in kinds.values()])[0]
        target = rng.choice(kinds[kind][1])
        trouble = Trouble(
            kind, target, rng.uniform(0.0, 1.0), rng.uniform(0.05, 1.2), rng.getrandbits(32)
        )
        # What is corrupted is kept off the network as well.
        parts = {(target, kind in _NETWORK)}
        if kind == "corrupted SQLite":
            parts = {(target, False), (target, True)}
        if not parts & taken:
            taken |= parts
            troubles.append(trouble)
    if is_secure(seed=seed, number=number):
        troubles.append(_draw_secure(random.Random(f"{seed}/{number}/secure"), taken))
    return sorted(troubles, key=lambda trouble: trouble.at_s)


def _draw_secure(rng: random.Random, taken: set[tuple[str, bool]]) -> Trouble:
    weights = {
        (kind, target): weight / len(targets)
        for kind, (weight, targets) in SECURE_KINDS.items()
        for target in targets
        if not parts(kind, target) & taken
    }
    kind, target = rng.choices([*weights], [*weights.values()])[0]
    return Trouble(kind, target, rng.uniform(0.0, 1.0), rng.uniform(0.05, 1.2), rng.getrandbits(32))


def carry_out(troubles: list[Trouble], fleet: Fleet, books: Books) -> None:
    """Make the faults, end them, wait until the fleet has got on, and check.

    Raises
    ------
    FleetError
        When something does not hold.
    """
    for node in fleet.nodes.values():
        # Written long ago: a power cut takes what is under way.
        forget(root=node.state, journal=node.journal)
    began = time.monotonic()
    todo: list[tuple[float, Trouble]] = [(t.at_s, t) for t in troubles]
    ends: list[tuple[float, Callable[[], None]]] = []
    while todo or ends:
        now = time.monotonic() - began
        for at_s, trouble in [each for each in todo if each[0] <= now]:
            todo.remove((at_s, trouble))
            ends.append((now + trouble.for_s, begin(trouble, fleet)))
        for at_s, end in [each for each in ends if each[0] <= now]:
            ends.remove((at_s, end))
            end()
        fleet.tend()
        time.sleep(0.02)
    while fleet.afterwards:
        fleet.afterwards.pop(0)()
    _settle(fleet)
    books.check(fleet)
    books.check_files(fleet)


def _settle(fleet: Fleet) -> None:
    """Wait until a round that was open after the faults is over, and all that left is answered."""
    fleet.wait("the aggregator is back", lambda: _phase(fleet) in _ALIVE, patience_s=_PATIENCE_S)
    status = fleet.status
    assert status is not None
    fleet.wait("a round ends", lambda: _round(fleet) > status.round, patience_s=_PATIENCE_S)
    left = {sha for node in fleet.devices for sha, _, _ in fleet.left_of(node.name)}
    fleet.wait("answers", lambda: left <= fleet.acknowledged().keys(), patience_s=_PATIENCE_S)
    fleet.wait(
        "all run", lambda: all(n.running for n in fleet.nodes.values()), patience_s=_PATIENCE_S
    )


_ALIVE = ("census", "round", "fusing", "done")


def _phase(fleet: Fleet) -> str:
    return "" if fleet.status is None else fleet.status.phase


def _round(fleet: Fleet) -> int:
    if fleet.status is None:
        return 0
    return 1 << 30 if fleet.status.phase == "done" else fleet.status.round
