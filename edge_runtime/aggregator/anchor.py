"""The anchor: the fleet's merged noisy counts of real rows, and how far they can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.kernel import count_codes, count_pairs

__all__ = ["Anchor", "DeviceCounts", "Table", "merge_anchors", "project_to_simplex"]

Float = npt.NDArray[np.float64]

#: mean absolute value of a standard normal number
_MEAN_ABSOLUTE = math.sqrt(2 / math.pi)


class DeviceCounts(NamedTuple):
    """One device's noisy counts of its real rows in one round.

    `one_way` holds float64 [K_d] per column, `pairs` float64 [K_a, K_b] by column pair, `sigma`
    is the standard deviation of the noise in each count.
    """

    device: str
    round: int
    one_way: Sequence[Float]
    pairs: Mapping[tuple[int, int], Float]
    sigma: float


class Table(NamedTuple):
    """Merged counts over one column or one pair of columns.

    `columns` has one or two indices; `counts` is float64 [K_a] or [K_a, K_b], possibly negative;
    `variance` is that of the noise in each count.
    """

    columns: tuple[int, ...]
    counts: Float
    variance: float

    @property
    def rows(self) -> float:
        """Rows counted, at least 1."""
        return max(1.0, float(self.counts.sum()))

    @property
    def distribution(self) -> Float:
        """The nearest probabilities (Euclidean) to the noisy counts, in the counts' shape."""
        flat = project_to_simplex(self.counts.ravel() / self.rows)
        return flat.reshape(self.counts.shape)

    @property
    def error(self) -> float:
        """Total variation that the noise alone is expected to cause."""
        each = _MEAN_ABSOLUTE * math.sqrt(self.variance) / self.rows
        return min(1.0, 0.5 * self.counts.size * each)

    def cells(self, codes: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
        """Return the flat cell of every row of codes int32 [n, D]: int64 [n]."""
        first = codes[:, self.columns[0]].astype(np.int64)
        if len(self.columns) == 1:
            return first
        cells: npt.NDArray[np.int64] = first * self.counts.shape[1] + codes[:, self.columns[1]]
        return cells

    def total_variation(self, codes: npt.NDArray[np.int32]) -> float:
        """Half the L1 distance between the rows' frequencies and this table's, 0 to 1."""
        if len(self.columns) == 1:
            found = count_codes(codes[:, self.columns[0]], self.counts.shape[0])
        else:
            a, b = self.columns
            found = count_pairs(codes[:, a], codes[:, b], *self.counts.shape)
        share = found / max(1, len(codes))
        return 0.5 * float(np.abs(share - self.distribution).sum())

    def sampling_error(self, rows: int) -> float:
        """Total variation that judging by `rows` sampled rows is expected to add."""
        p = self.distribution
        return 0.5 * _MEAN_ABSOLUTE * float(np.sqrt(p * (1 - p) / max(1, rows)).sum())


class Anchor(NamedTuple):
    """The reference that synthetic rows are judged against.

    `one_way` has one table per column; `pairs` those pairs that were asked for.
    """

    one_way: tuple[Table, ...]
    pairs: tuple[Table, ...]
    devices: int

    @property
    def rows(self) -> float:
        """Estimated real rows behind it."""
        return float(np.median([table.rows for table in self.one_way]))


def merge_anchors(releases: Sequence[DeviceCounts]) -> Anchor | None:
    """Merge the fleet's counts.

    A device that counted the same rows in several rounds is averaged with the inverse variances
    of its releases (an exact one replaces all before it); devices are then summed, and so are
    their variances.

    Parameters
    ----------
    releases : sequence of DeviceCounts
        In the order of their rounds.

    Returns
    -------
    Anchor or None
        None when there are no releases.
    """
    if not releases:
        return None
    devices = sorted({release.device for release in releases})
    columns = len(releases[0].one_way)
    keys: list[tuple[int, ...]] = [(d,) for d in range(columns)]
    keys += sorted({pair for release in releases for pair in release.pairs})
    tables = []
    for key in keys:
        counts, variance = None, 0.0
        for device in devices:
            own = [
                (_counts(release, key), release.sigma**2)
                for release in releases
                if release.device == device and _has(release, key)
            ]
            if not own:
                continue
            mean, own_variance = _average(own)
            counts = mean if counts is None else counts + mean
            variance += own_variance
        assert counts is not None
        tables.append(Table(key, counts, variance))
    return Anchor(tuple(tables[:columns]), tuple(tables[columns:]), len(devices))


def project_to_simplex(values: Float) -> Float:
    """Return the nearest point (Euclidean) of the probability simplex: float64 [n] to float64 [n].

    Duchi, Shalev-Shwartz, Singer and Chandra 2008, figure 1. Subtracting one threshold from all
    cells, it does not inflate the small ones as clipping at zero would.
    """
    ordered = np.sort(values)[::-1]
    excess = (np.cumsum(ordered) - 1) / np.arange(1, len(values) + 1)
    last = int(np.flatnonzero(ordered > excess)[-1])
    projected: Float = np.maximum(values - excess[last], 0.0)
    return projected


def _has(release: DeviceCounts, key: tuple[int, ...]) -> bool:
    return len(key) == 1 or key in release.pairs


def _counts(release: DeviceCounts, key: tuple[int, ...]) -> Float:
    return release.one_way[key[0]] if len(key) == 1 else release.pairs[key[0], key[1]]


def _average(own: list[tuple[Float, float]]) -> tuple[Float, float]:
    exact = [counts for counts, variance in own if variance == 0]
    if exact:
        return exact[-1], 0.0
    precision = sum(1 / variance for _, variance in own)
    mean = sum((counts / variance for counts, variance in own), np.zeros_like(own[0][0]))
    return mean / precision, 1 / precision
