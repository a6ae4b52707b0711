"""How series move: autocorrelations and power spectra of synthetic series held against real ones.

Both are means over pieces of equal length that do not overlap, each less its own mean, so that
series of different people or machines can be compared without their levels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.evaluation.ordered import Ordered

__all__ = ["series_figures"]

F64 = npt.NDArray[np.float64]

#: rows of a piece at most and at least; pieces looked at, of each side
_LONGEST, _SHORTEST, _PIECES = 64, 4, 4000
#: a spectrum is compared down to this share of the real series' power, 40 dB below all of it
_FLOOR = 1e-4


class _Motion(NamedTuple):
    """Of one column: autocorrelations F64 [lags] and power F64 [frequencies], NaN where unknown."""

    autocorrelation: F64
    power: F64


def series_figures(
    real: Ordered, held: Ordered, made: Ordered, *, every: str, seed: int
) -> dict[str, Any] | None:
    """Compare how the numeric columns of series move.

    Parameters
    ----------
    real, held, made : Ordered
        Rows learnt from, held-out and synthetic ones.
    every : str
        Distance of neighbours with its unit, for people; empty where they have none.
    seed : int
        Draws pieces where there are too many.

    Returns
    -------
    dict or None
        ``rows`` of a piece, ``pieces`` of each side, the mean differences of ``autocorrelation``
        and of ``spectrum`` (dB), each with that of held-out rows as ``ceiling``, and ``columns``
        with the curves. None where series are too short for any piece.
    """
    lengths = [float(np.median(side.lengths())) if len(side.slot) else 0.0 for side in (real, made)]
    rows = int(min(_LONGEST, *lengths))
    if rows < _SHORTEST:
        return None
    sides = {"real": real, "held_out": held, "synthetic": made}
    pieces = {name: _pieces(side, rows, seed=seed) for name, side in sides.items()}
    columns = []
    for name in real.frame.numbers:
        if name in _unmoved(real):
            continue
        motion = {
            side: _motion(_cut(sides[side].frame.numbers[name], place))
            for side, place in pieces.items()
        }
        columns.append(_column(name, motion))
    found: dict[str, Any] = {
        "rows": rows,
        "every": every,
        "pieces": {name: len(place) for name, place in pieces.items()},
        "columns": columns,
    }
    for what in ("autocorrelation", "spectrum"):
        found[what] = _mean([column[what]["difference"] for column in columns])
        found[f"{what}_ceiling"] = _mean([column[what]["ceiling"] for column in columns])
    return found


def _unmoved(side: Ordered) -> set[str]:
    """Columns with one value per series: static ones, which do not move."""
    still = set()
    later = side.series[1:] == side.series[:-1]
    for name, values in side.frame.numbers.items():
        steps = np.diff(values)[later]
        if not np.nan_to_num(steps).any():
            still.add(name)
    return still


def _pieces(side: Ordered, rows: int, *, seed: int) -> npt.NDArray[np.intp]:
    """Rows of each piece, intp [pieces, rows], -1 where a row is absent; half of them are there."""
    if not len(side.slot):
        return np.empty((0, rows), np.intp)
    # From the first row of each series on: pieces of short series would be cut in two by a grid.
    first = np.searchsorted(side.series, side.series)
    along = side.slot - side.slot[first]
    keys = np.stack([side.series, along // rows], axis=1)
    _, number = np.unique(keys, axis=0, return_inverse=True)
    number = number.reshape(-1)
    place = np.full((int(number.max()) + 1, rows), -1, np.intp)
    place[number, along % rows] = np.arange(len(number))
    place = np.asarray(place[2 * (place >= 0).sum(axis=1) >= rows], np.intp)
    if len(place) <= _PIECES:
        return place
    drawn = np.random.default_rng(seed).choice(len(place), _PIECES, replace=False)
    return np.asarray(place[np.sort(drawn)], np.intp)


def _cut(values: F64, place: npt.NDArray[np.intp]) -> F64:
    return np.where(place >= 0, values[place], np.nan)


def _motion(pieces: F64) -> _Motion:
    """Mean autocorrelation and power spectrum of pieces [n, rows], each less its mean."""
    rows = pieces.shape[1]
    there = ~np.isnan(pieces)
    count = there.sum(axis=1)
    # A piece that does not move has no autocorrelation; one of fewer values says too little.
    pieces, there, count = (a[2 * count >= rows] for a in (pieces, there, count))
    filled = np.where(there, pieces, 0.0)
    centred = np.where(there, pieces - (filled.sum(axis=1) / np.maximum(count, 1))[:, None], 0.0)
    variance = (centred**2).sum(axis=1) / np.maximum(count, 1)
    lags = range(1, rows // 2 + 1)
    moving = variance > 1e-12 * max(float(variance.max(initial=0.0)), 1e-300)
    if not moving.any():
        nothing = np.full(len(lags), np.nan)
        return _Motion(nothing, np.full(rows // 2, np.nan))
    part, known, scale = centred[moving], there[moving], variance[moving]
    found = []
    for lag in lags:
        pairs = (known[:, :-lag] & known[:, lag:]).sum(axis=1)
        products = (part[:, :-lag] * part[:, lag:]).sum(axis=1)
        usable = pairs > 0
        found.append(float((products[usable] / pairs[usable] / scale[usable]).mean()))
    # Values that are missing have none of the power: the rest stands for them.
    share = rows / np.maximum(count, 1)
    power = (np.abs(np.fft.rfft(centred * np.hanning(rows), axis=1)) ** 2 * share[:, None]).mean(0)
    return _Motion(np.array(found), power[1 : rows // 2 + 1])


def _column(name: str, motion: dict[str, _Motion]) -> dict[str, Any]:
    floor = _FLOOR * float(np.nansum(motion["real"].power)) + 1e-300
    curves = {
        "autocorrelation": {side: m.autocorrelation for side, m in motion.items()},
        "spectrum": {side: 10 * np.log10(np.maximum(m.power, floor)) for side, m in motion.items()},
    }
    found: dict[str, Any] = {"name": name}
    for what, sides in curves.items():
        found[what] = {
            **{side: curve.tolist() for side, curve in sides.items()},
            "difference": _difference(sides["real"], sides["synthetic"]),
            "ceiling": _difference(sides["real"], sides["held_out"]),
        }
    return found


def _difference(one: F64, other: F64) -> float | None:
    both = ~(np.isnan(one) | np.isnan(other))
    return float(np.abs(one - other)[both].mean()) if both.any() else None


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
