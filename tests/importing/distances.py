"""How far two columns of rows are apart."""

from __future__ import annotations

import numpy as np


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Kolmogorov-Smirnov for numbers (NaN missing), total variation for objects (None missing)."""
    if object in (a.dtype, b.dtype):
        found = sorted({str(value) for value in (*a, *b)})
        shares = [
            np.array([(own.astype(str) == value).mean() for value in found]) for own in (a, b)
        ]
        return float(np.abs(shares[0] - shares[1]).sum() / 2)
    gone = abs(np.isnan(a).mean() - np.isnan(b).mean())
    x, y = (np.sort(own[~np.isnan(own)]) for own in (a, b))
    places = np.concatenate([x, y])
    ranks = [np.searchsorted(own, places, side="right") / len(own) for own in (x, y)]
    return max(float(gone), float(np.abs(ranks[0] - ranks[1]).max()))


def correlations(columns: list[np.ndarray]) -> np.ndarray:
    """Correlations of the ranks of columns, [k, k]; texts count by their order."""
    numbers = []
    for column in columns:
        if column.dtype == object:
            numbers.append(np.unique(column.astype(str), return_inverse=True)[1].astype(float))
        else:
            numbers.append(np.nan_to_num(column, nan=float(np.nanmean(column))))
    ranks = [own.argsort(kind="stable").argsort(kind="stable") for own in numbers]
    return np.corrcoef(ranks)
