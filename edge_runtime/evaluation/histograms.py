"""Shares of values in real and synthetic rows, for the plots of the report."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.evaluation.fidelity import Fidelity
from edge_runtime.evaluation.frames import Frame
from edge_runtime.schema import Column
from edge_runtime.schema.columns import format_timestamp

__all__ = ["column_figures"]

#: bars of a plot; a column with fewer distinct values gets one bar each
_MAX_BARS = 32
#: numbers beyond these real quantiles are drawn in the outermost bars
_TAIL = 0.002


def column_figures(
    real: Frame, synthetic: Frame, fidelity: Fidelity, ceiling: Fidelity
) -> list[dict[str, Any]]:
    """Return per column: score, ceiling, shares of missing values, and the bars of a plot.

    Bars are shares of the rows that have a value; `bars` names them, `ticks` are places (0 to 1)
    and texts below a column of numbers.
    """
    figures: list[dict[str, Any]] = []
    for column in real.schema.columns:
        name = column.name
        figure: dict[str, Any] = {
            "name": name,
            "kind": column.kind,
            "unit": column.unit,
            "condition": column.condition,
            "score": fidelity.columns[name],
            "ceiling": ceiling.columns[name],
            "missing": {
                "real": float(real.missing(name).mean()),
                "synthetic": float(synthetic.missing(name).mean()),
            },
        }
        if name in real.codes:
            figure.update(_category_bars(real, synthetic, name))
        else:
            figure.update(_number_bars(column, real.numbers[name], synthetic.numbers[name]))
        figures.append(figure)
    return figures


def _category_bars(real: Frame, synthetic: Frame, name: str) -> dict[str, Any]:
    labels = real.labels[name]
    shares = [_shares(frame.codes[name], len(labels)) for frame in (real, synthetic)]
    # Declared order tells nothing for a category; the largest first reads best.
    order = np.argsort(-shares[0], kind="stable") if len(labels) > 2 else np.arange(len(labels))
    shown, rest = order[:_MAX_BARS], order[_MAX_BARS:]
    names = [labels[code] for code in shown]
    bars = [list(map(float, share[shown])) for share in shares]
    if len(rest):
        names.append(f"{len(rest)} more")
        for bar, share in zip(bars, shares, strict=True):
            bar.append(float(share[rest].sum()))
    return {"bars": names, "real": bars[0], "synthetic": bars[1]}


def _shares(codes: npt.NDArray[np.int32], size: int) -> npt.NDArray[np.float64]:
    counts = np.bincount(codes[codes >= 0], minlength=size).astype(np.float64)
    return np.asarray(counts / max(1.0, counts.sum()))


def _number_bars(
    column: Column, real: npt.NDArray[np.float64], synthetic: npt.NDArray[np.float64]
) -> dict[str, Any]:
    known = [values[~np.isnan(values)] for values in (real, synthetic)]
    edges = _edges(column, known[0] if known[0].size else known[1])
    bars = []
    for values in known:
        inside = np.clip(values, edges[0], np.nextafter(edges[-1], -np.inf))
        counts = np.histogram(inside, bins=edges)[0].astype(np.float64)
        bars.append(list(map(float, counts / max(1.0, counts.sum()))))
    figure: dict[str, Any] = {
        "bars": [_bar_name(column, low, high) for low, high in itertools.pairwise(edges)],
        "ticks": [(float(place), _text(column, edge)) for place, edge in _ticks(column, edges)],
        "real": bars[0],
        "synthetic": bars[1],
        "moments": {
            who: {
                "mean": float(values.mean()) if values.size else None,
                "std": float(values.std()) if values.size else None,
                "median": float(np.median(values)) if values.size else None,
            }
            for who, values in zip(("real", "synthetic"), known, strict=True)
        },
    }
    return figure


def _edges(column: Column, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if not values.size:
        return np.array([0.0, 1.0])
    low, high = (float(v) for v in np.quantile(values, [_TAIL, 1.0 - _TAIL]))
    if column.kind == "integer":
        # Whole steps only, or some bars would hold more integers than others.
        low, high = np.floor(low), np.floor(high) + 1.0
        step = max(1.0, np.ceil((high - low) / _MAX_BARS))
        bars = max(1, int(np.ceil((high - low) / step)))
        return np.asarray(low + step * np.arange(bars + 1))
    if high <= low:
        high = low + 1.0
    return np.linspace(low, high, _MAX_BARS + 1)


def _ticks(column: Column, edges: npt.NDArray[np.float64]) -> list[tuple[float, float]]:
    """Return the places and values of three ticks: both ends and the middle edge."""
    middle = len(edges) // 2
    last = edges[-1] - 1 if column.kind == "integer" else edges[-1]
    return [(0.0, edges[0]), (middle / (len(edges) - 1), edges[middle]), (1.0, last)]


def _bar_name(column: Column, low: float, high: float) -> str:
    if column.kind != "integer":
        name = f"{_text(column, low)} to {_text(column, high)}"
    elif high - low <= 1:
        name = _text(column, low)
    else:
        name = f"{_text(column, low)} to {_text(column, high - 1)}"
    return f"{name} {column.unit}".strip()


def _text(column: Column, value: float) -> str:
    """Return a value in as few characters as a tick needs."""
    if column.kind == "timestamp":
        return format_timestamp(int(value))[:16].replace("T", " ")
    if value != 0 and (abs(value) >= 1e6 or abs(value) < 1e-2):
        return f"{value:.1e}"
    return f"{value:,.2f}".rstrip("0").rstrip(".")
