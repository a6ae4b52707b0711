"""Rows as one number each, so that equal ones are found by sorting numbers and not rows."""

from __future__ import annotations

import functools
import hashlib

import numpy as np
import numpy.typing as npt

__all__ = ["hash_rows", "row_counts"]

Integers = npt.NDArray[np.integer]
U64 = npt.NDArray[np.uint64]


def hash_rows(rows: Integers) -> U64:
    """Hash rows of codes [n, D] to uint64 [n]: a sum of odd multiples, mixed as in splitmix64.

    The multiples come from a fixed seed: equal rows give equal hashes on every machine. It is no
    defence against forged collisions, which would only make the forger's own batch look like a
    copy, or less varied than it is.
    """
    multiples = _multiples(rows.shape[1])
    state: U64 = np.einsum("nd,d->n", rows, multiples, dtype=np.uint64, casting="unsafe")
    with np.errstate(over="ignore"):
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return state ^ (state >> np.uint64(31))


def row_counts(rows: Integers) -> npt.NDArray[np.int64]:
    """Return how often each different row of int32 [n, D] occurs, in no particular order.

    As `np.unique(rows, axis=0, return_counts=True)[1]`, in a hundredth of the time. Different rows
    are counted as one where their hashes are the same: among the 65,536 rows of the largest batch
    with a probability of 1e-10.
    """
    counts: npt.NDArray[np.int64] = np.unique(hash_rows(rows), return_counts=True)[1]
    return counts


@functools.cache
def _multiples(columns: int) -> U64:
    words = hashlib.shake_256(b"rows of a batch").digest(8 * columns)
    return np.frombuffer(words, "<u8") | np.uint64(1)
