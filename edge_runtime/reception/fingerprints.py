"""A batch in little space: what copies of it are recognised by."""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.reception.hashing import hash_rows

__all__ = ["Fingerprint", "fingerprint"]

U64 = npt.NDArray[np.uint64]

#: hashes kept of a batch: 64 * 8 bytes, a share of rows to about 6 %
_KEPT = 64


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

    @property
    def reach(self) -> int:
        """The largest hash that the sketch covers: everything, when all rows are in it."""
        if self.distinct <= _KEPT:
            return int(np.iinfo(np.uint64).max)
        return int(self.smallest[-1])


def fingerprint(codes: npt.NDArray[np.integer]) -> Fingerprint:
    """Return the fingerprint of rows of codes [n, D], whatever their order."""
    n = len(codes)
    hashes = np.sort(hash_rows(codes))
    digest = hashlib.sha256(hashes.tobytes())
    new = np.ones(n, np.bool_)
    new[1:] = hashes[1:] != hashes[:-1]
    different = hashes[new]
    first = np.flatnonzero(new)
    counts = np.append(first[1:], n)[: len(first)] - first
    repeats = np.bincount(counts)[1:].tolist() if n else []
    chance = math.lgamma(n + 1) + sum(
        seen * (k * math.log(k / n) - math.lgamma(k + 1))
        for k, seen in enumerate(repeats, start=1)
        if seen
    )
    return Fingerprint(
        digest=digest.hexdigest(),
        smallest=different[:_KEPT].copy(),
        rows=n,
        distinct=len(different),
        repeats=tuple(repeats),
        log_chance=chance,
    )
