"""Small SVG drawings for the report: no dependency, sharp at any size, values on hover.

Every function returns SVG text; colours come from the page's CSS classes so that light and dark
pages share the drawings. All text that stems from a schema or a message is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

__all__ = ["bars", "heat_map", "lines", "scale_points", "score_colour"]


def _number(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def _nice(value: float) -> str:
    """A number in as few characters as a tick label needs."""
    if value != 0 and (abs(value) >= 1e5 or abs(value) < 1e-2):
        return f"{value:.1e}"
    return f"{value:,.2f}".rstrip("0").rstrip(".")


def bars(
    real: Sequence[float],
    synthetic: Sequence[float],
    *,
    labels: Sequence[str] | None = None,
    edges: Sequence[float] | None = None,
    title: str,
    unit: str = "",
) -> str:
    """Draw real shares as filled steps and synthetic shares as an outline over them.

    Parameters
    ----------
    real, synthetic : sequence of float
        Shares, one per bar.
    labels : sequence of str, optional
        Of categories; otherwise `edges` (one more than bars) are shown at both ends.
    title : str
        For screen readers.
    """
    width, height, foot = 300.0, 108.0, 18.0
    count = max(1, len(real))
    top = max([*real, *synthetic, 1e-12])
    step = width / count
    named = labels is not None
    gap = min(3.0, step * 0.18) if named else 0.0
    parts: list[str] = []
    for i, (a, b) in enumerate(zip(real, synthetic, strict=True)):
        x, w = i * step, step - gap
        what = escape(str(labels[i]) if labels is not None else _range(edges, i, unit))
        ha, hb = a / top * height, b / top * height
        parts.append(
            f'<g class="bar"><title>{what}: real {a:.1%}, synthetic {b:.1%}</title>'
            f'<rect class="hit" x="{x:.1f}" y="0" width="{step:.1f}" height="{height}"/>'
            f'<rect class="real" x="{x:.1f}" y="{height - ha:.1f}" width="{w:.1f}" '
            f'height="{ha:.1f}"/>'
            + (
                f'<rect class="syn" x="{x + 0.25 * w:.1f}" y="{height - hb:.1f}" '
                f'width="{0.5 * w:.1f}" height="{hb:.1f}"/>'
                if named
                else ""
            )
            + "</g>"
        )
    if not named:
        path = f"M0 {height}"
        for i, b in enumerate(synthetic):
            y = height - b / top * height
            path += f"L{i * step:.1f} {y:.1f}L{(i + 1) * step:.1f} {y:.1f}"
        parts.append(f'<path class="synline" d="{path}L{width} {height}"/>')
    parts.append(_bar_labels(labels, edges, step=step, gap=gap, width=width, base=height + 13))
    parts.append(f'<line class="axis" x1="0" x2="{width}" y1="{height}" y2="{height}"/>')
    return _svg(width, height + foot, title, parts)


def _range(edges: Sequence[float] | None, i: int, unit: str) -> str:
    if edges is None:
        return str(i)
    return f"{_nice(edges[i])} to {_nice(edges[i + 1])} {unit}".strip()


def _bar_labels(
    labels: Sequence[str] | None,
    edges: Sequence[float] | None,
    *,
    step: float,
    gap: float,
    width: float,
    base: float,
) -> str:
    if labels is not None:
        # A label needs about 5.5 units a character; too narrow bars are named on hover only.
        room = max(1, int(step / 5.5))
        every = 1 if room >= 3 else math.ceil(18 / step)
        return "".join(
            f'<text class="tick" x="{(i + 0.5) * step - gap / 2:.1f}" y="{base}" '
            f'text-anchor="middle">{escape(str(label)[: max(room, 3)])}</text>'
            for i, label in enumerate(labels)
            if i % every == 0
        )
    if edges is None or len(edges) < 2:
        return ""
    middle = edges[len(edges) // 2]
    return (
        f'<text class="tick" x="0" y="{base}">{_nice(edges[0])}</text>'
        f'<text class="tick" x="{width * (len(edges) // 2) / (len(edges) - 1):.1f}" y="{base}" '
        f'text-anchor="middle">{_nice(middle)}</text>'
        f'<text class="tick" x="{width}" y="{base}" text-anchor="end">{_nice(edges[-1])}</text>'
    )


def score_colour(score: float | None) -> str:
    """Return a colour from red (.6 or less) over amber (.85) to teal (1) for a score."""
    if score is None or math.isnan(score):
        return "var(--line)"
    stops = (
        (0.6, (190, 18, 60)),
        (0.85, (245, 179, 66)),
        (0.95, (94, 190, 158)),
        (1.0, (13, 116, 110)),
    )
    value = min(1.0, max(stops[0][0], score))
    for (low, start), (high, end) in zip(stops, stops[1:], strict=False):
        if value <= high:
            t = (value - low) / (high - low)
            r, g, b = (round(s + t * (e - s)) for s, e in zip(start, end, strict=True))
            return f"rgb({r},{g},{b})"
    return "rgb(13,116,110)"


def heat_map(
    names: Sequence[str], scores: dict[tuple[str, str], float | None], *, title: str
) -> str:
    """Draw the lower triangle of pair scores; pairs are keyed in the order of `names`."""
    cell, left = 30.0, 84.0
    foot = 66.0
    size = cell * (len(names) - 1)
    parts: list[str] = []
    for row in range(1, len(names)):
        y = (row - 1) * cell
        parts.append(
            f'<text class="tick" x="{left - 6}" y="{y + cell / 2 + 3.5}" text-anchor="end">'
            f"{escape(names[row][:13])}</text>"
        )
        for col in range(row):
            score = scores.get((names[col], names[row]))
            shown = "-" if score is None else f"{score:.2f}".replace("0.", ".")
            long = "not defined" if score is None else f"{score:.4f}"
            dark = score is not None and (score >= 0.955 or score < 0.75)
            parts.append(
                f"<g><title>{escape(names[col])} and {escape(names[row])}: {long}</title>"
                f'<rect x="{left + col * cell:.1f}" y="{y:.1f}" width="{cell - 1.5}" '
                f'height="{cell - 1.5}" rx="3" fill="{score_colour(score)}"/>'
                f'<text class="{"cellw" if dark else "cell"}" x="{left + (col + 0.5) * cell - 0.7:.1f}" '
                f'y="{y + cell / 2 + 3:.1f}" text-anchor="middle">{shown}</text></g>'
            )
    for col in range(len(names) - 1):
        x, y = left + (col + 0.6) * cell, size + 10
        parts.append(
            f'<text class="tick" text-anchor="end" transform="translate({x:.1f} {y:.1f}) '
            f'rotate(-45)">{escape(names[col][:13])}</text>'
        )
    return _svg(left + size, size + foot, title, parts)


def scale_points(
    rows: Sequence[tuple[str, float | None, str, str]],
    *,
    low: float,
    high: float,
    title: str,
    digits: int = 3,
) -> str:
    """Draw one bar per candidate on a common scale.

    Parameters
    ----------
    rows : sequence of (name, value, CSS class, note)
        None is drawn as "not possible".
    low, high : float
        Ends of the scale.
    """
    width, left, line = 760.0, 230.0, 46.0
    room = width - left - 70
    height = line * len(rows) + 22
    parts: list[str] = []
    ticks = 5
    for i in range(ticks + 1):
        value = low + (high - low) * i / ticks
        x = left + room * i / ticks
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height - 20}"/>')
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{height - 5}" text-anchor="middle">{value:.2f}</text>'
        )
    for i, (name, value, kind, note) in enumerate(rows):
        y = i * line
        parts.append(f'<text class="name" x="0" y="{y + 18:.1f}">{escape(name)}</text>')
        parts.append(f'<text class="tick" x="0" y="{y + 33:.1f}">{escape(note)}</text>')
        if value is None:
            parts.append(f'<text class="tick" x="{left + 6}" y="{y + 22:.1f}">not possible</text>')
            continue
        length = max(2.0, (min(high, max(low, value)) - low) / (high - low) * room)
        parts.append(
            f'<rect class="{escape(kind)}" x="{left}" y="{y + 6:.1f}" width="{length:.1f}" '
            f'height="22" rx="4"/><text class="value" x="{left + length + 8:.1f}" '
            f'y="{y + 22:.1f}">{value:.{digits}f}</text>'
        )
    return _svg(width, height, title, parts)


def lines(
    points: Sequence[tuple[str, float]],
    *,
    title: str,
    limit: float | None = None,
    limit_name: str = "limit",
    digits: int = 2,
) -> str:
    """Draw a rising line over named steps, with an optional limit above it."""
    width, height, left, foot = 420.0, 150.0, 44.0, 34.0
    highest = max([value for _, value in points] + ([limit] if limit is not None else []) + [1e-9])
    top = highest * 1.18
    room = width - left - 24
    spots = [
        (
            left + room * (i + 0.5) / max(1, len(points)),
            height - value / top * height,
            name,
            value,
        )
        for i, (name, value) in enumerate(points)
    ]
    parts = [f'<line class="axis" x1="{left}" x2="{width}" y1="{height}" y2="{height}"/>']
    if limit is not None:
        y = height - limit / top * height
        parts.append(
            f'<line class="limit" x1="{left}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{left + 4}" y="{y - 5:.1f}">{escape(limit_name)} '
            f"{_nice(limit)}</text>"
        )
    if spots:
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y, _, _ in spots)
        parts.append(f'<path class="line" d="{path}"/>')
    for x, y, name, value in spots:
        parts.append(
            f"<g><title>{escape(name)}: {value:.{digits}f}</title>"
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
            f'<text class="value" x="{x:.1f}" y="{y + 19:.1f}" text-anchor="middle">'
            f"{value:.{digits}f}</text>"
            f'<text class="tick" x="{x:.1f}" y="{height + 17}" text-anchor="middle">'
            f"{escape(name)}</text></g>"
        )
    return _svg(width, height + foot, title, parts)


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_number(width)} {_number(height)}" role="img" '
        f'style="max-width:{_number(width * 1.25)}px" aria-label="{escape(title, quote=True)}">'
        + "".join(parts)
        + "</svg>"
    )
