"""The anchor: the fleet's merged noisy counts of real rows, and how far they can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.kernel import count_codes, count_pairs
from edge_runtime.schema import Census, Codec, cells_behind, merge_census

__all__ = [
    "Anchor",
    "DeviceCounts",
    "Table",
    "average_by_variance",
    "census_anchor",
    "merge_anchors",
    "one_way_of",
    "project_to_simplex",
    "supported",
]

Float = npt.NDArray[np.float64]

#: mean absolute value of a standard normal number
_MEAN_ABSOLUTE = math.sqrt(2 / math.pi)

#: counts of a condition below so many standard deviations of their noise are taken for noise: as
#: devices do before they send rows of a condition
_SUPPORT_SIGMAS = 2.0


class DeviceCounts(NamedTuple):
    """One device's noisy counts of its real rows in one round.

    `tables` holds float64 [K_a, K_b, ...] by columns, `sigma` is the standard deviation of the
    noise in each count.
    """

    device: str
    round: int
    tables: Mapping[tuple[int, ...], Float]
    sigma: float


class Table(NamedTuple):
    """Merged counts over one column or several.

    `columns` are ascending; `counts` is float64 [K_a, K_b, ...], possibly negative; `variance` is
    that of the noise in each count.
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
        columns = tuple(codes[:, column] for column in self.columns)
        cells: npt.NDArray[np.int64] = np.ravel_multi_index(columns, self.counts.shape)
        return cells

    def total_variation(self, codes: npt.NDArray[np.int32]) -> float:
        """Half the L1 distance between the rows' frequencies and this table's, 0 to 1."""
        match self.columns:
            case (a,):
                found = count_codes(codes[:, a], self.counts.shape[0])
            case (a, b):
                found = count_pairs(codes[:, a], codes[:, b], *self.counts.shape)
            case _:
                found = np.bincount(self.cells(codes), minlength=self.counts.size)
                found = found.reshape(self.counts.shape)
        share = found / max(1, len(codes))
        return 0.5 * float(np.abs(share - self.distribution).sum())

    def sampling_error(self, rows: int) -> float:
        """Total variation that judging by `rows` sampled rows is expected to add."""
        p = self.distribution
        return 0.5 * _MEAN_ABSOLUTE * float(np.sqrt(p * (1 - p) / max(1, rows)).sum())

    def marginal(self, columns: Sequence[int]) -> Table:
        """Return the table over some of these columns; its noise is that of all cells added up."""
        others = tuple(i for i, column in enumerate(self.columns) if column not in columns)
        summed = math.prod(self.counts.shape[i] for i in others)
        return Table(tuple(columns), self.counts.sum(axis=others), self.variance * summed)


class Anchor(NamedTuple):
    """The reference that synthetic rows are judged against.

    `tables` holds what was measured, by columns, those of fewer columns first; `devices` counted.
    """

    tables: Mapping[tuple[int, ...], Table]
    devices: int

    @property
    def rows(self) -> float:
        """Estimated real rows behind it, at least 1."""
        return float(np.median([table.rows for table in self.tables.values()]))

    def one_way(self, column: int) -> Table | None:
        """Return the best counts of one column, or None where no table has it."""
        return self.marginal((column,))

    def marginal(self, columns: Sequence[int]) -> Table | None:
        """Return the best counts over ascending columns, or None where no table has them all.

        The best is the one of least variance relative to the rows it counted: not every table was
        measured on every device.
        """
        wanted = set(columns)
        found = [
            table.marginal(columns)
            for table in self.tables.values()
            if wanted <= set(table.columns)
        ]
        return min(found, key=lambda t: (t.variance / t.rows**2, -t.rows), default=None)

    def filled(self, other: Anchor) -> Anchor:
        """Return the anchor with columns that no table of it has from another one."""
        known = {column for table in self.tables for column in table}
        added = {key: table for key, table in other.tables.items() if known.isdisjoint(key)}
        tables = dict(sorted({**self.tables, **added}.items(), key=lambda t: (len(t[0]), t[0])))
        return Anchor(tables, self.devices)

    def without(self, column: int) -> Anchor:
        """Return the anchor with a column summed out of every table; the best of equal ones."""
        found: dict[tuple[int, ...], Table] = {}
        for table in self.tables.values():
            rest = tuple(c for c in table.columns if c != column)
            best = self.marginal(rest) if rest else None
            if best is not None:
                found[rest] = best
        return Anchor(found, self.devices)


def merge_anchors(
    releases: Sequence[DeviceCounts], conditions: Sequence[int] = ()
) -> Anchor | None:
    """Merge the fleet's counts.

    A device that counted the same rows in several rounds is averaged with the inverse variances
    of its releases (an exact one replaces all before it); devices are then summed, and so are
    their variances.

    Under label skew most devices have no row of most conditions, and what they count there is
    noise alone. So what a device counted under a condition that its own counts do not support is
    left out of tables of several columns: with one class on each of twenty devices, two of them
    having each class, the noise of a class's counts falls to a third. Table.variance is then the
    mean over its cells. Small devices may have a few rows of a condition each, none of them
    supported alone, but many together: where what those devices count adds up to more than its
    noise, all of it is kept.

    Parameters
    ----------
    releases : sequence of DeviceCounts
        In the order of their rounds.
    conditions : sequence of int
        Condition columns; the first one decides.

    Returns
    -------
    Anchor or None
        None when there are no releases.
    """
    if not releases:
        return None
    devices = sorted({release.device for release in releases})
    keys = {key for release in releases for key in release.tables}
    seen_by = supported(releases, devices, conditions[0]) if conditions else {}
    tables = {}
    for key in sorted(keys, key=lambda columns: (len(columns), columns)):
        counts, variance = None, 0.0
        for device in devices:
            own = [
                (release.tables[key], release.sigma**2)
                for release in releases
                if release.device == device and key in release.tables
            ]
            if not own:
                continue
            mean, own_variance = average_by_variance(own)
            seen = seen_by.get(device)
            if seen is not None and len(key) > 1 and conditions[0] in key:
                axis = key.index(conditions[0])
                shape = [-1 if i == axis else 1 for i in range(len(key))]
                mean = np.where(seen.reshape(shape), mean, 0.0)
                own_variance *= float(seen.mean())
            counts = mean if counts is None else counts + mean
            variance += own_variance
        assert counts is not None
        tables[key] = Table(key, counts, variance)
    return Anchor(tables, len(devices))


def census_anchor(codec: Codec, censuses: Mapping[str, Census]) -> Anchor:
    """Return the census as a reference of columns, for rounds that asked for no anchor.

    The noise of a code is that of the cells merged into it; their average number stands for all.
    """
    merged = merge_census(list(censuses.values()))
    tables: dict[tuple[int, ...], Table] = {}
    for d, counts in enumerate(codec.code_counts(merged)):
        cells_per_code = cells_behind(codec.schema, merged, d) / len(counts)
        tables[d,] = Table((d,), counts, merged.sigma**2 * cells_per_code)
    return Anchor(tables, len(censuses))


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


def average_by_variance(own: Sequence[tuple[Float, float]]) -> tuple[Float, float]:
    """Average estimates by the inverse of their variances; an exact one replaces all before it."""
    exact = [counts for counts, variance in own if variance == 0]
    if exact:
        return exact[-1], 0.0
    precision = sum(1 / variance for _, variance in own)
    mean = sum((counts / variance for counts, variance in own), np.zeros_like(own[0][0]))
    return mean / precision, 1 / precision


def supported(
    releases: Sequence[DeviceCounts], devices: Sequence[str], condition: int
) -> dict[str, npt.NDArray[np.bool_]]:
    """Return the codes of a condition whose counts are kept, bool [K], by device that counted it.

    See `merge_anchors`; empty where there is nothing but noise.
    """
    own = {
        device: table
        for device in devices
        if (table := one_way_of([r for r in releases if r.device == device], condition)) is not None
    }
    alone = {device: _stands_out(table) for device, table in own.items()}
    if not own:
        return {}
    # The rest of the fleet, code by code: selected for being low, so it is told to be empty a
    # little too often and never too seldom.
    rest = sum(np.where(alone[device], 0.0, table.counts) for device, table in own.items())
    noise = sum(np.where(alone[device], 0.0, table.variance) for device, table in own.items())
    together = (rest > 0) & (rest >= _SUPPORT_SIGMAS * np.sqrt(noise))
    kept = {device: codes | together for device, codes in alone.items()}
    if not any(codes.any() for codes in kept.values()):
        # Nothing but noise; a table of zeros without any would pass for exact.
        return {}
    return kept


def _stands_out(table: Table) -> npt.NDArray[np.bool_]:
    least = _SUPPORT_SIGMAS * math.sqrt(table.variance)
    return np.asarray((table.counts > 0) & (table.counts >= least))


def one_way_of(releases: Sequence[DeviceCounts], column: int) -> Table | None:
    """Return all that one device's releases say about one column; None where that is nothing."""
    total, precision = None, 0.0
    for release in releases:
        for columns, counts in release.tables.items():
            if column not in columns:
                continue
            table = Table(columns, counts, release.sigma**2).marginal((column,))
            if table.variance == 0.0:
                return table
            weighed = table.counts / table.variance
            total = weighed if total is None else total + weighed
            precision += 1 / table.variance
    return None if total is None else Table((column,), total / precision, 1 / precision)
