"""Small SVG drawings for the report: no dependency, sharp at any size, values on hover.

Every function returns SVG text; colours come from the page's CSS classes so that light and dark
pages share the drawings. All text that stems from a schema or a message is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

__all__ = ["bars", "curves", "heat_map", "lines", "scale_points", "score_colour"]


def _number(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def _nice(value: float) -> str:
    """Return a number in as few characters as a tick label needs."""
    if value != 0 and (abs(value) >= 1e5 or abs(value) < 1e-2):
        return f"{value:.1e}"
    return f"{value:,.2f}".rstrip("0").rstrip(".")


def bars(
    real: Sequence[float],
    synthetic: Sequence[float],
    *,
    names: Sequence[str],
    ticks: Sequence[tuple[float, str]] | None = None,
    title: str,
    errors: Sequence[float] | None = None,
    series: tuple[str, str] = ("real", "synthetic"),
) -> str:
    """Draw real and synthetic shares over each other.

    Parameters
    ----------
    real, synthetic : sequence of float
        Shares, one per bar.
    names : sequence of str
        What each bar stands for: a category, or a range of numbers.
    ticks : sequence of (float, str), optional
        Places (0 to 1) and texts below a column of numbers, whose synthetic shares are drawn as
        an outline. Without them the bars are categories, drawn apart and named below.
    title : str
        For screen readers.
    errors : sequence of float, optional
        Half the length of an error bar on each real share.
    series : (str, str)
        What real and synthetic shares are called.
    """
    width, height = 300.0, 108.0
    step = width / max(1, len(real))
    spread = errors or [0.0] * len(real)
    top = max([a + e for a, e in zip(real, spread, strict=True)] + [*synthetic, 1e-12])
    apart = min(3.0, step * 0.18) if ticks is None else 0.0
    parts: list[str] = []
    whiskers: list[str] = []
    outline = f"M0 {height}"
    for i, (a, b) in enumerate(zip(real, synthetic, strict=True)):
        x, w = i * step, step - apart
        ha, hb = a / top * height, b / top * height
        outline += f"L{x:.1f} {height - hb:.1f}L{x + step:.1f} {height - hb:.1f}"
        inner = (
            f'<rect class="syn" x="{x + 0.25 * w:.1f}" y="{height - hb:.1f}" '
            f'width="{0.5 * w:.1f}" height="{hb:.1f}"/>'
        )
        parts.append(
            f'<g class="bar"><title>{escape(names[i])}: {series[0]} {a:.1%}'
            f"{f' ± {spread[i]:.1%}' if errors else ''}, {series[1]} {b:.1%}</title>"
            f'<rect class="hit" x="{x:.1f}" y="0" width="{step:.1f}" height="{height}"/>'
            f'<rect class="real" x="{x:.1f}" y="{height - ha:.1f}" width="{w:.1f}" '
            f'height="{ha:.1f}"/>{inner if ticks is None else ""}</g>'
        )
        if errors:
            high, low = (
                height - min(top, a + spread[i]) / top * height,
                height - max(0.0, a - spread[i]) / top * height,
            )
            whiskers.append(
                f'<line class="whisker" x1="{x + w / 2:.1f}" x2="{x + w / 2:.1f}" '
                f'y1="{high:.1f}" y2="{low:.1f}"/>'
            )
    if ticks is None:
        foot = _name_bars(parts, names, step=step, apart=apart, top=height)
    else:
        foot = 18.0
        parts.append(f'<path class="synline" d="{outline}L{width} {height}"/>')
        for place, text in ticks:
            anchor = "start" if place < 0.1 else "end" if place > 0.9 else "middle"
            parts.append(
                f'<text class="tick" x="{place * width:.1f}" y="{height + 13}" '
                f'text-anchor="{anchor}">{escape(text)}</text>'
            )
    parts += whiskers
    parts.append(f'<line class="axis" x1="0" x2="{width}" y1="{height}" y2="{height}"/>')
    return _svg(width, height + foot, title, parts)


def _name_bars(
    parts: list[str], names: Sequence[str], *, step: float, apart: float, top: float
) -> float:
    """Write names below bars, upright where there is room and turned where there is not."""
    wide = max(len(name) for name in names) * 5.8 <= step
    # Turned names need 9 units each: of more than 33 bars only every second is named, and so on.
    every = 1 if wide else math.ceil(9 / step)
    for i in range(0, len(names), every):
        x, text = (i + 0.5) * step - apart / 2, escape(names[i][:9])
        if wide:
            place = f'x="{x:.1f}" y="{top + 13:.1f}" text-anchor="middle"'
        else:
            turned = f"translate({x + 3:.1f} {top + 5:.1f}) rotate(-90)"
            place = f'text-anchor="end" transform="{turned}"'
        parts.append(f'<text class="{"tick" if wide else "tiny"}" {place}>{text}</text>')
    return 18.0 if wide else 8.0 + 4.8 * max(len(name[:9]) for name in names)


#: score and colour (red, green, blue): red, amber, light teal, teal
_STOPS = (
    (0.6, (190, 18, 60)),
    (0.85, (245, 179, 66)),
    (0.95, (94, 190, 158)),
    (1.0, (13, 116, 110)),
)


def score_colour(score: float | None) -> str:
    """Return a colour from red (.6 or less) over amber (.85) to teal (1) for a score."""
    if score is None:
        return "var(--line)"
    value = min(_STOPS[-1][0], max(_STOPS[0][0], score))
    above = next(i for i, (stop, _) in enumerate(_STOPS) if i and value <= stop)
    (floor, start), (ceiling, end) = _STOPS[above - 1], _STOPS[above]
    share = (value - floor) / (ceiling - floor)
    red, green, blue = (round(s + share * (e - s)) for s, e in zip(start, end, strict=True))
    return f"rgb({red},{green},{blue})"


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
                f'<text class="{"cellw" if dark else "cell"}" y="{y + cell / 2 + 3:.1f}" '
                f'x="{left + (col + 0.5) * cell - 0.7:.1f}" text-anchor="middle">{shown}</text></g>'
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
    width, left, line = 860.0, 320.0, 46.0
    room = width - left - 70
    height = line * len(rows) + 22
    parts: list[str] = []
    ticks = 5
    for i in range(ticks + 1):
        tick = low + (high - low) * i / ticks
        x = left + room * i / ticks
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height - 20}"/>')
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{height - 5}" text-anchor="middle">'
            f"{tick:.2f}</text>"
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
            f"<g><title>{escape(name)}: {value:,.{digits}f}</title>"
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
            f'<text class="value" x="{x:.1f}" y="{y - 9:.1f}" text-anchor="middle">'
            f"{value:,.{digits}f}</text>"
            f'<text class="tick" x="{x:.1f}" y="{height + 17}" text-anchor="middle">'
            f"{escape(name)}</text></g>"
        )
    return _svg(width, height + foot, title, parts)


def curves(
    sides: Sequence[tuple[str, Sequence[float | None]]],
    *,
    ends: tuple[str, str],
    title: str,
) -> str:
    """Draw curves over each other on one scale.

    Parameters
    ----------
    sides : sequence of (CSS class, values)
        None where a value does not exist; a curve without any is left out.
    ends : (str, str)
        What stands below the first and the last value.
    title : str
        For screen readers.
    """
    width, height, left = 300.0, 84.0, 38.0
    known = [v for _, values in sides for v in values if v is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    room = max(high - low, 1e-9)

    def level(value: float) -> float:
        return 4 + (high - value) / room * (height - 8)

    parts = [f'<line class="axis" x1="{left}" x2="{width}" y1="{height}" y2="{height}"/>']
    for value in (low, high):
        parts.append(
            f'<text class="tick" x="{left - 4}" y="{level(value) + 4:.1f}" text-anchor="end">'
            f"{_nice(round(value, 2 if room < 10 else 0))}</text>"
        )
    if low < 0 < high:
        parts.append(
            f'<line class="grid" x1="{left}" x2="{width}" y1="{level(0):.1f}" y2="{level(0):.1f}"/>'
        )
    for name, values in sides:
        step = (width - left) / max(1, len(values) - 1)
        spots = [
            f"{left + i * step:.1f} {level(value):.1f}"
            for i, value in enumerate(values)
            if value is not None
        ]
        if spots:
            parts.append(f'<path class="curve {escape(name)}" d="M{"L".join(spots)}"/>')
    for x, text, anchor in ((left, ends[0], "start"), (width, ends[1], "end")):
        parts.append(
            f'<text class="tick" x="{x}" y="{height + 13}" text-anchor="{anchor}">'
            f"{escape(text)}</text>"
        )
    return _svg(width, height + 18, title, parts)


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_number(width)} {_number(height)}" role="img" '
        f'style="max-width:{_number(width * 1.25)}px" aria-label="{escape(title, quote=True)}">'
        + "".join(parts)
        + "</svg>"
    )
