"""The part of the report on how series move."""

from __future__ import annotations

from html import escape
from typing import Any

from edge_runtime.evaluation import charts
from edge_runtime.evaluation.words import count, number

__all__ = ["series_section"]

_LEGEND = (
    '<div class="legend"><span><i style="background:var(--real)"></i>real</span>'
    '<span><i style="background:var(--real);opacity:.5"></i>held-out real (dashed)</span>'
    '<span><i style="background:var(--syn)"></i>synthetic</span></div>'
)


def series_section(figures: dict[str, Any]) -> str:
    """Return the section, empty where rows have no order or series are too short."""
    series = figures.get("series")
    if series is None:
        return ""
    rows = series["rows"]
    panels = []
    for column in series["columns"]:
        drawings = "".join(
            f'<div class="foot">{what}: <b>{number(column[key]["difference"], digits)}</b> '
            f"of {number(column[key]['ceiling'], digits)}{unit}</div>"
            + charts.curves(
                [(side, column[key][side]) for side in ("real", "held_out", "synthetic")],
                ends=ends,
                title=f"{column['name']}: {what}",
            )
            for key, what, unit, digits, ends in (
                (
                    "autocorrelation",
                    "autocorrelation",
                    "",
                    3,
                    ("1 step apart", f"{rows // 2} steps"),
                ),
                ("spectrum", "power spectrum", " dB", 1, ("slow", "2 steps")),
            )
        )
        panels.append(
            f'<div class="panel column"><div class="head"><h3>{escape(column["name"])}</h3></div>'
            f"{drawings}</div>"
        )
    pieces = series["pieces"]
    return (
        f"<h2>Series</h2><p>How columns move from step to step, in pieces of {rows} "
        f"steps{_of(series['every'])}, each less its mean: {count(pieces['synthetic'])} synthetic, "
        f"{count(pieces['real'])} real and {count(pieces['held_out'])} held-out ones. The figure "
        "is the mean distance of the synthetic curve from the real one, after it that of held-out "
        "real series: what another recording of the same would score.</p>"
        + _LEGEND
        + f'<div class="grid3">{"".join(panels)}</div>'
    )


def _of(every: str) -> str:
    return f" of {escape(every)}" if every else ""
