"""Batches that repeat an earlier one, whole or in part, whoever sends them.

Honest batches share rows, too, where a table has few columns. How many is estimated from the
batch's own repeats (Good and Toulmin 1956), so that only what exceeds it is held against a batch.
"""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.aggregator.guard.batches import Finding

__all__ = ["CopyIndex", "Fingerprint", "fingerprint"]

I32 = npt.NDArray[np.int32]
U64 = npt.NDArray[np.uint64]

#: hashes kept of a batch: 64 * 8 bytes, a share of rows to about 6 %
_KEPT = 64

#: rows in common beyond what is natural, as a share of the different rows, that make a copy
_OVERLAP = 0.5

#: batches of fewer rows may be alike by chance
_FEW_ROWS = 20

#: chance of an honest batch with exactly the same rows, above which sameness says nothing
_CHANCE = 1e-9


class Fingerprint(NamedTuple):
    """A batch, in little space.

    `digest` is that of its rows in sorted order; `smallest` uint64 [<= 64] the smallest hashes of
    its different rows, ascending (bottom-k sketch, Cohen and Kaplan 2007); `rows` and `distinct`
    count; `repeats[k - 1]` is how many different rows occur k times; `log_chance` the log
    probability that a batch drawn from its own frequencies has the same rows again.
    """

    digest: str
    smallest: U64
    rows: int
    distinct: int
    repeats: tuple[int, ...]
    log_chance: float

    def natural_overlap(self, rows: int) -> float:
        """Share of the different rows expected again in an honest batch of so many rows.

        A row seen k times has probability (k + 1) f[k+1] / (f[k] n) (Good 1953), where f[k]
        rows are seen k times; where none is seen k + 1 times, k / n stands for it.
        """
        missed = 0.0
        for k, seen in enumerate(self.repeats, start=1):
            if not seen:
                continue
            more = self.repeats[k] if k < len(self.repeats) else 0
            # Single rows that nothing repeats promise nothing; commoner ones come again.
            rate = (k + 1) * more / seen if more or k == 1 else float(k)
            missed += seen * math.exp(-rate * rows / self.rows)
        return 1.0 - missed / max(1, self.distinct)


def fingerprint(codes: I32) -> Fingerprint:
    """Return the fingerprint of rows int32 [n, D], whatever their order."""
    rows, counts = np.unique(codes, axis=0, return_counts=True)
    digest = hashlib.sha256(rows.astype("<i4").tobytes() + counts.astype("<i8").tobytes())
    hashes = np.sort(_hash_rows(rows))[:_KEPT]
    n = int(counts.sum())
    chance = math.lgamma(n + 1) + sum(
        c * math.log(c / n) - math.lgamma(c + 1) for c in counts.tolist()
    )
    return Fingerprint(
        digest=digest.hexdigest(),
        smallest=hashes,
        rows=n,
        distinct=len(rows),
        repeats=tuple(np.bincount(counts)[1:].tolist()) if n else (),
        log_chance=chance,
    )


class CopyIndex:
    """Fingerprints of the batches so far; finds those that a new one repeats."""

    def __init__(self) -> None:
        self._known: list[tuple[str, str, int, Fingerprint]] = []
        self._names: set[str] = set()
        self._digests: dict[str, list[int]] = {}
        self._holders: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def add(self, name: str, device: str, round_number: int, print_: Fingerprint) -> None:
        """Remember an accepted batch.

        Parameters
        ----------
        name : str
            Its message's id.
        device, round_number
            Where it comes from, for the text of a finding.
        print_ : Fingerprint
            From `fingerprint`.
        """
        if name in self._names:
            return
        self._names.add(name)
        number = len(self._known)
        self._known.append((name, device, round_number, print_))
        self._digests.setdefault(print_.digest, []).append(number)
        for value in print_.smallest.tolist():
            self._holders.setdefault(value, []).append(number)

    def judge(self, print_: Fingerprint, *, name: str = "") -> Finding | None:
        """Return the worst finding about a batch, or None.

        Parameters
        ----------
        print_ : Fingerprint
            Of the batch.
        name : str
            Its message's id: a batch that was added already is no copy of itself.
        """
        if print_.rows < _FEW_ROWS:
            return None
        same = [n for n in self._digests.get(print_.digest, ()) if self._known[n][0] != name]
        if same and print_.log_chance < math.log(_CHANCE):
            earlier, device, round_number, _ = self._known[same[0]]
            return Finding(
                "copy",
                f"all {print_.rows} rows are those of batch {earlier[:8]} of device {device} in "
                f"round {round_number}",
                1.0,
                print_.natural_overlap(print_.rows),
                1.0,
            )
        sharing = {
            n
            for value in print_.smallest.tolist()
            for n in self._holders.get(value, ())
            if self._known[n][0] != name
        }
        found = [finding for n in sorted(sharing) if (finding := self._overlap(print_, n))]
        return max(found, key=lambda finding: finding.value, default=None)

    def _overlap(self, print_: Fingerprint, number: int) -> Finding | None:
        name, device, round_number, earlier = self._known[number]
        # Only hashes that both sketches cover can be compared.
        reach = min(_last(print_), _last(earlier))
        mine = print_.smallest[print_.smallest <= reach]
        covered = len(mine)
        if covered < _FEW_ROWS:
            return None
        value = float(np.isin(mine, earlier.smallest).mean())
        natural = print_.natural_overlap(earlier.rows)
        error = math.sqrt(max(value * (1 - value), 1 / covered) / covered)
        allowed = natural + _OVERLAP + 3 * error
        if value <= allowed:
            return None
        return Finding(
            "copy",
            f"{value:.0%} of its different rows are also in batch {name[:8]} of device {device} "
            f"in round {round_number}; {natural:.0%} would be natural for such rows",
            value,
            natural,
            allowed,
        )


def _last(print_: Fingerprint) -> int:
    """Return the largest hash that a sketch covers: everything, when all rows are in it."""
    if print_.distinct <= _KEPT:
        return int(np.iinfo(np.uint64).max)
    return int(print_.smallest[-1])


def _hash_rows(rows: I32) -> U64:
    """Hash rows int32 [n, D] to uint64 [n]: multiply and mix per column (splitmix64's finaliser).

    Equal rows give equal hashes on every machine; it is no defence against forged collisions,
    which would only make the forger's own batch look like a copy.
    """
    state = np.zeros(len(rows), np.uint64)
    with np.errstate(over="ignore"):
        for d in range(rows.shape[1]):
            state = state + rows[:, d].astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state
