"""Batches that repeat an earlier one, whole or in part, whoever sends them.

Honest batches share rows, too, where a table has few columns. How many is estimated from the
batch's own repeats (Good and Toulmin 1956), so that only what exceeds it is held against a batch.

Memory and time per batch do not grow with the pool: the latest batches are remembered, and of those
that have a row in common the latest one is looked at.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.aggregator.guard.batches import Finding
from edge_runtime.reception.fingerprints import Fingerprint

__all__ = ["REMEMBERED", "CopyIndex"]

U64 = npt.NDArray[np.uint64]

#: batches that copies are recognised of: the latest. With the table of their hashes they take
#: some 60 MB, and after a restart 0.3 ms each to be read again.
REMEMBERED = 1 << 14

#: slots of the table from hashes to batches; a hash that takes another's place hides one row
_SLOTS = 1 << 22

#: rows in common beyond what is natural, as a share of the different rows, that make a copy
_OVERLAP = 0.5

#: batches of fewer rows may be alike by chance
_FEW_ROWS = 20

#: chance of an honest batch with exactly the same rows, above which sameness says nothing
_CHANCE = 1e-9


class _Known(NamedTuple):
    name: str
    device: str
    round: int
    print: Fingerprint


class CopyIndex:
    """Fingerprints of the latest batches; finds those that a new one repeats.

    Parameters
    ----------
    remembered : int
        How many batches.
    """

    def __init__(self, *, remembered: int = REMEMBERED) -> None:
        self._most = remembered
        #: by a number that counts batches, the latest `remembered` of them
        self._known: dict[int, _Known] = {}
        self._added = 0
        self._names: set[str] = set()
        self._digests: dict[str, int] = {}
        # Number of the latest batch with a hash, by the hash's last bits; -1: none. The bits before
        # these tell hashes of one slot apart, without a look at the batch.
        self._holders = np.full(_SLOTS, -1, np.int64)
        self._tags = np.zeros(_SLOTS, np.uint16)

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
        if len(self._known) >= self._most:
            self._forget_oldest()
        self._names.add(name)
        self._known[self._added] = _Known(name, device, round_number, print_)
        self._digests[print_.digest] = self._added
        slots, tags = _slots(print_)
        self._holders[slots], self._tags[slots] = self._added, tags
        self._added += 1

    def _forget_oldest(self) -> None:
        number = next(iter(self._known))
        oldest = self._known.pop(number)
        self._names.remove(oldest.name)
        if self._digests.get(oldest.print.digest) == number:
            del self._digests[oldest.print.digest]

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
        same = self._known.get(self._digests.get(print_.digest, -1))
        if same is not None and same.name != name and print_.log_chance < math.log(_CHANCE):
            return Finding(
                "copy",
                f"all {print_.rows} rows are those of batch {same.name[:8]} of device "
                f"{same.device} in round {same.round}",
                1.0,
                print_.natural_overlap(print_.rows),
                1.0,
            )
        slots, tags = _slots(print_)
        holders = self._holders[slots[self._tags[slots] == tags]]
        sharing = [
            known
            for number in sorted({*holders.tolist()})
            if (known := self._known.get(number)) is not None and known.name != name
        ]
        found = [finding for known in sharing if (finding := _overlap(print_, known))]
        return max(found, key=lambda finding: finding.value, default=None)


def _overlap(print_: Fingerprint, known: _Known) -> Finding | None:
    earlier = known.print
    # Only hashes that both sketches cover can be compared.
    reach = min(print_.reach, earlier.reach)
    mine = print_.smallest[print_.smallest <= reach]
    covered = len(mine)
    if covered < _FEW_ROWS:
        return None
    value = len({*mine.tolist()} & {*earlier.smallest.tolist()}) / covered
    if value <= _OVERLAP:  # as of nearly all that have a row in common
        return None
    natural = print_.natural_overlap(earlier.rows)
    error = math.sqrt(max(value * (1 - value), 1 / covered) / covered)
    allowed = natural + _OVERLAP + 3 * error
    if value <= allowed:
        return None
    return Finding(
        "copy",
        f"{value:.0%} of its different rows are also in batch {known.name[:8]} of device "
        f"{known.device} in round {known.round}; {natural:.0%} would be natural for such rows",
        value,
        natural,
        allowed,
    )


def _slots(print_: Fingerprint) -> tuple[U64, npt.NDArray[np.uint16]]:
    """Return the slots of the smallest hashes, and what tells them apart there.

    By the last bits: of the smallest hashes the first bits are all zero.
    """
    slots = print_.smallest % np.uint64(_SLOTS)
    return slots, (print_.smallest // np.uint64(_SLOTS)).astype(np.uint16)
