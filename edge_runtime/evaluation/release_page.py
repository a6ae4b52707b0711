"""The report of a release as one page: held against the fleet's noisy counts of real rows.

Whoever makes a release has no real rows to compare with. What there is are the counts that devices
released with noise; so every distance stands beside what chance explains: that noise, and the
number of rows drawn.
"""

from __future__ import annotations

from html import escape
from typing import Any

from edge_runtime.evaluation import charts
from edge_runtime.evaluation.shell import card, loud, standalone, table
from edge_runtime.evaluation.words import count, number

__all__ = ["render_release"]

#: rows of a table that people still read; files beside the page have them all
_MOST_LINES = 40

_MODES = {
    "pool": "as the pool is: every device by its estimated number of rows",
    "balanced": "balanced: equally many rows of every combination of conditions",
    "matched": "matched to the anchor: weighted towards the fleet's merged counts",
}


def render_release(figures: dict[str, Any]) -> str:
    """Return the page for the figures of a release.

    Parameters
    ----------
    figures : dict
        Plain values: ``title``, ``table``, ``release``, ``rows``, ``privacy``, ``columns``,
        ``tables``, ``cells``, ``guard``, ``lineage`` and ``rounds``, as
        `aggregator.release_figures` makes them.
    """
    return standalone(
        figures["title"],
        [
            _header(figures),
            _loud(figures),
            _cards(figures),
            _findings(figures),
            _columns(figures),
            _tables(figures),
            _cells(figures),
            _guard(figures),
            _lineage(figures),
            _privacy(figures),
            _limits(figures),
            _footer(figures),
        ],
    )


def _header(figures: dict[str, Any]) -> str:
    rows, release = figures["rows"], figures["release"]
    return (
        f"<header><h1>{escape(figures['title'])}</h1><p>{count(rows['released'])} synthetic rows"
        f"{escape(_windows(rows))} "
        f"of <b>{escape(figures['table'])}</b>, drawn from {escape(rows['origin'])}; "
        f"{escape(_MODES[release['mode']])}</p></header>"
    )


def _windows(rows: dict[str, Any]) -> str:
    """Say what a row is where it is a window of ordered rows."""
    if "unit" not in rows:
        return ""
    return f" (each a {rows['unit']}, which lie below each other in the data)"


def _loud(figures: dict[str, Any]) -> str:
    if figures["privacy"]["private"]:
        return ""
    return loud(
        "WITHOUT PRIVACY: these rows carry no privacy guarantee.",
        "Devices counted and trained without noise. The counts on this page are exact counts of "
        "real rows. Treat page and release as you would treat the real rows.",
    )


def _cards(figures: dict[str, Any]) -> str:
    rows, privacy = figures["rows"], figures["privacy"]
    shapes = [c for c in figures["columns"] if c["distance"] is not None]
    mean = sum(c["distance"] for c in shapes) / len(shapes) if shapes else None
    expected = sum(c["expected"] for c in shapes) / len(shapes) if shapes else None
    cards = [
        card(
            "Rows",
            count(rows["released"]),
            f"{count(rows['distinct'])} different rows of the pool",
        ),
        card(
            "Columns, mean distance",
            number(mean),
            f"from the anchor; chance explains {number(expected)}",
        ),
    ]
    joint = figures["tables"]
    if joint:
        cards.append(
            card(
                "Joint tables, mean distance",
                number(sum(t["distance"] for t in joint) / len(joint)),
                f"{len(joint)} tables; chance explains "
                f"{number(sum(t['expected'] for t in joint) / len(joint))}",
            )
        )
    if privacy["private"]:
        cards.append(
            card(
                "Epsilon spent, worst device",
                number(privacy["epsilon"], 2),
                f"of {privacy['epsilon_limit']:g} at delta {privacy['delta']:g}, "
                f"per {privacy['unit']}",
            )
        )
    else:
        cards.append(card("Privacy", "none", "rows carry no guarantee", bad=True))
    return f'<div class="cards">{"".join(cards)}</div>'


def _findings(figures: dict[str, Any]) -> str:
    items = "".join(
        f'<li class="{escape(kind)}">{escape(sentence)}</li>'
        for kind, sentence in figures["findings"]
    )
    return f'<h2>What it means</h2><ul class="means">{items}</ul>'


def _legend(*, private: bool) -> str:
    anchor = (
        "anchor: noisy counts of real rows, with two standard errors"
        if private
        else "anchor: exact counts of real rows"
    )
    return (
        f'<div class="legend"><span><i style="background:var(--real)"></i>{anchor}</span>'
        '<span><i style="background:var(--syn)"></i>this release</span></div>'
    )


def _columns(figures: dict[str, Any]) -> str:
    panels = []
    for column in figures["columns"]:
        drawing = charts.bars(
            column["anchor"] or [0.0] * len(column["release"]),
            column["release"],
            names=column["bars"],
            ticks=column["ticks"],
            title=f"{column['name']}: shares by the anchor and in the release",
            errors=column["errors"],
            series=("anchor", "release"),
        )
        kind = (column["unit"] or column["kind"]) + (", condition" if column["condition"] else "")
        foot = (
            "not measured"
            if column["distance"] is None
            else f"the pool before weighting: {number(column['pool_distance'])}"
        )
        if column["ticks"] is not None and column["bars"][-1] == "missing":
            foot += "; last bar: missing"
        panels.append(
            f'<div class="panel column"><div class="head"><h3>{escape(column["name"])} '
            f'<span class="unit">{escape(kind)}</span></h3><span class="pill">'
            f"<b>{number(column['distance'])}</b>, chance {number(column['expected'])}</span></div>"
            f'{drawing}<div class="foot">{escape(foot)}</div></div>'
        )
    return (
        "<h2>Columns</h2><p>Shares of codes. Beside each name: the distance of the release from "
        "the anchor (half the sum of differences: 0 is equal, 1 has nothing in common), and what "
        "chance explains on average: the anchor's noise and the number of rows drawn. Point at a "
        "bar for its numbers.</p>"
        + _legend(private=figures["privacy"]["private"])
        + f'<div class="grid3">{"".join(panels)}</div>'
    )


def _tables(figures: dict[str, Any]) -> str:
    joint = sorted(figures["tables"], key=lambda t: t["expected"] - t["distance"])
    if not joint:
        return (
            "<h2>Columns together</h2><p>The fleet has counted no columns together, so how well "
            "relations between columns are kept cannot be told here.</p>"
        )
    rows = [
        (
            ", ".join(t["columns"]),
            count(t["cells"]),
            number(t["pool_distance"]),
            number(t["distance"]),
            number(t["expected"]),
            "within" if t["distance"] <= t["expected"] else f"+{t['distance'] - t['expected']:.3f}",
        )
        for t in joint[:_MOST_LINES]
    ]
    head = ("table", "cells", "pool", "release", "explained by chance", "beyond it")
    more = _more(len(joint), "tables")
    return (
        "<h2>Columns together</h2><p>The same distance for tables over several columns, farthest "
        "first: of the pool before weighting, of the release, and what chance alone explains. What "
        "is within it cannot be told from equal.</p>"
        f'<div class="panel">{table(head, rows, numbers=(1, 2, 3, 4, 5))}{more}</div>'
    )


def _cells(figures: dict[str, Any]) -> str:
    cells = figures["cells"]
    if not cells:
        return ""
    names = list(cells[0]["conditions"])
    most = max(c["released"] for c in cells) or 1
    rows = [
        (
            *(c["conditions"][name] for name in names),
            count(c["pooled"]),
            count(c["released"]),
            f"{c['released'] / figures['rows']['released']:.1%}",
            number(c["released"] / c["distinct"], 1) if c["distinct"] else "-",
        )
        for c in sorted(cells, key=lambda c: -c["released"])[:_MOST_LINES]
    ]
    head = (*names, "rows in the pool", "rows here", "share", "copies of a pooled row")
    start = len(names)
    return (
        "<h2>Conditions</h2><p>Every combination of condition columns that the pool has. Copies "
        "of one pooled row share its codes; numbers inside their bins are drawn anew.</p>"
        f'<div class="panel">{table(head, rows, numbers=range(start, start + 4))}'
        f"{_more(len(cells), 'combinations')}</div>"
        if most
        else ""
    )


def _guard(figures: dict[str, Any]) -> str:
    guard = figures["guard"]
    metrics = [(name, number(value, 4)) for name, value in sorted(guard["metrics"].items())]
    said = (
        f"The generator in force is bundle {guard['bundle'][:12]} of round {guard['round']}. "
        f"Candidates rejected: {count(guard['rejected'])}; generators withdrawn: "
        f"{count(guard['withdrawn'])}. Messages quarantined or refused, and "
        f"not used here: {count(guard['quarantined'])}."
    )
    parts = [f"<h2>The guard</h2><p>{escape(said)}</p>"]
    if guard["alarms"]:
        raised = [
            (a["severity"], a["kind"], a["subject"], str(a["since_round"]), a["text"])
            for a in guard["alarms"][:_MOST_LINES]
        ]
        head = ("severity", "alarm", "about", "since round", "what it means")
        parts.append(
            '<div class="panel" style="margin-bottom:14px"><h3>Alarms in force</h3>'
            f"{table(head, raised, numbers=())}{_more(len(guard['alarms']), 'alarms')}</div>"
        )
    if metrics:
        half = -(-len(metrics) // 2)
        parts.append(
            '<div class="grid2">'
            + "".join(
                f'<div class="panel">{table(("figure", "value"), part, numbers=(1,))}</div>'
                for part in (metrics[:half], metrics[half:])
                if part
            )
            + "</div>"
        )
    if guard["reasons"]:
        rows = [(r["device"], count(r["round"]), r["reason"]) for r in guard["reasons"]]
        parts.append(
            '<div class="panel" style="margin-top:14px"><h3>Latest in quarantine</h3>'
            f"{table(('device', 'round', 'reason'), rows, numbers=(1,))}</div>"
        )
    return "".join(parts)


def _lineage(figures: dict[str, Any]) -> str:
    lineage = figures["lineage"]
    groups = [
        (
            str(g["round"]),
            g["parent"][:12],
            str(g["depth"]),
            count(g["devices"]),
            count(g["pooled"]),
            count(g["released"]),
        )
        for g in lineage["groups"]
    ]
    devices = [
        (d["device"], ", ".join(map(str, d["rounds"])), count(d["pooled"]), count(d["released"]))
        for d in lineage["devices"][:_MOST_LINES]
    ]
    head = ("round", "parent bundle", "depth", "devices", "rows in the pool", "rows here")
    return (
        "<h2>Lineage</h2><p>Where the rows are from. The depth counts the generations of "
        "synthetic rows behind a row: 1 for rows of networks that started from the census, which "
        "no synthetic row has shaped.</p>"
        f'<div class="panel">{table(head, groups, numbers=(3, 4, 5))}</div>'
        '<div class="panel" style="margin-top:14px">'
        + table(("device", "rounds", "rows in the pool", "rows here"), devices, numbers=(2, 3))
        + _more(len(lineage["devices"]), "devices")
        + "</div>"
    )


def _privacy(figures: dict[str, Any]) -> str:
    privacy = figures["privacy"]
    rows = [
        (
            str(r["round"]),
            r["kind"],
            " ".join(r["mechanisms"]),
            number(r["stated"], 2),
            "none" if r["ceiling"] is None else number(r["ceiling"], 2),
        )
        for r in figures["rounds"]
    ]
    said = (
        f"Differential privacy per {privacy['unit']}: at most epsilon "
        f"{number(privacy['epsilon'], 2)} at delta {privacy['delta']:g} on any device, over all "
        "that it ever sent. PRIVACY.md says what that means and what it does not protect."
        if privacy["private"]
        else "WITHOUT PRIVACY: no noise was added anywhere."
    )
    head = ("round", "kind", "released, and how", "epsilon so far", "allowed so far")
    return (
        f"<h2>Privacy</h2><p>{escape(said)}</p>"
        f'<div class="panel">{table(head, rows, numbers=(3, 4))}</div>'
    )


def _limits(figures: dict[str, Any]) -> str:
    said = [
        "This page compares with noisy counts and not with real rows: it sees only what the fleet "
        "has counted. Fidelity to real rows, and use for a model, are what edge-runtime evaluate "
        "measures where the real rows are.",
        "What chance explains is an average, not a worst case: tables of a perfect release lie "
        "beyond it by a little now and then.",
    ]
    if figures["release"]["mode"] == "balanced":
        said.append(
            "A balanced release differs from the anchor on purpose, in its conditions and in "
            "whatever depends on them."
        )
    items = "".join(f'<li class="note">{escape(text)}</li>' for text in said)
    return f'<h2>Limits</h2><ul class="means">{items}</ul>'


def _footer(figures: dict[str, Any]) -> str:
    release = figures["release"]
    text = " · ".join(
        [
            f"release {release['id']}",
            f"seed {release['seed']}",
            release["created_at"],
            *(f"{name} {version}" for name, version in figures["made_with"].items()),
        ]
    )
    return (
        f"<footer>{escape(text)}<br>The same figures for programs are in report.json; "
        "lineage.json names every device and round.</footer>"
    )


def _more(total: int, what: str) -> str:
    left = total - _MOST_LINES
    return f'<div class="foot">and {count(left)} more {what}</div>' if left > 0 else ""
