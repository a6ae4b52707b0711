"""The report of a comparison with real rows, as one page."""

from __future__ import annotations

from html import escape
from typing import Any

from edge_runtime.evaluation import charts
from edge_runtime.evaluation.fleet_section import fleet_sections
from edge_runtime.evaluation.series_section import series_section
from edge_runtime.evaluation.shell import card, loud, standalone
from edge_runtime.evaluation.words import METRIC_NAMES, count, findings, limits, number

__all__ = ["render"]


def render(figures: dict[str, Any]) -> str:
    """Return the page for the figures of a report (plain values, None where undefined)."""
    body = [
        _header(figures),
        _loud(figures),
        _cards(figures),
        _meaning(figures),
        _utility(figures),
        _columns(figures),
        _pairs(figures),
        series_section(figures),
        *fleet_sections(figures),
        _privacy(figures),
        _limits(figures),
        _footer(figures),
    ]
    return standalone(figures["title"], body)


def _header(figures: dict[str, Any]) -> str:
    rows = figures["rows"]
    return (
        f"<header><h1>{escape(figures['title'])}</h1><p>{count(rows['synthetic'])} synthetic rows "
        f"of <b>{escape(figures['table'])}</b>, compared with {count(rows['real'])} real rows and "
        f"{count(rows['held_out'])} real rows that were held out</p></header>"
    )


def _loud(figures: dict[str, Any]) -> str:
    privacy = figures.get("privacy")
    if privacy is None or privacy.get("epsilon") is not None:
        return ""
    return loud(
        "WITHOUT PRIVACY: these rows carry no privacy guarantee.",
        "No noise was added anywhere. Synthetic rows may repeat real ones; treat them as you would "
        "treat the real table.",
    )


def _cards(figures: dict[str, Any]) -> str:
    fidelity = figures["fidelity"]
    cards = [
        card(
            "Column shapes",
            number(fidelity["shapes"]),
            f"real against real: {number(fidelity['ceiling']['shapes'])}",
        ),
        card(
            "Column pairs",
            number(fidelity["pairs"]),
            f"real against real: {number(fidelity['ceiling']['pairs'])}",
        ),
    ]
    series = figures.get("series")
    if series is not None:
        cards.append(
            card(
                "Autocorrelation, mean distance",
                number(series["autocorrelation"]),
                f"real against real: {number(series['autocorrelation_ceiling'])}",
            )
        )
    utility = figures.get("utility")
    if utility is not None:
        by_kind = {score["kind"]: score["value"] for score in utility["scores"]}
        cards.append(
            card(
                f"{METRIC_NAMES[utility['metric']]} for {utility['target']}",
                number(by_kind.get("release")),
                f"trained on real rows: {number(by_kind.get('real'))}",
            )
        )
    privacy = figures.get("privacy")
    if privacy is None:
        cards.append(card("Privacy", "unknown", "no statement came with these rows", bad=True))
    elif privacy.get("epsilon") is None:
        cards.append(card("Privacy", "none", "rows carry no guarantee", bad=True))
    else:
        cards.append(
            card(
                "Epsilon spent, worst device" if figures.get("fleet") else "Epsilon spent",
                number(privacy["epsilon"], 2),
                f"delta {privacy.get('delta', 0):g}, per {privacy.get('unit', 'row')}",
            )
        )
    fleet = figures.get("fleet")
    if fleet is not None:
        cards.append(
            card(
                "Real rows sent",
                count(fleet["real_rows_sent"]),
                f"{count(fleet['rows_accepted'])} synthetic rows accepted",
            )
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def _meaning(figures: dict[str, Any]) -> str:
    items = "".join(
        f'<li class="{kind}">{escape(sentence)}</li>' for kind, sentence in findings(figures)
    )
    return f'<h2>What it means</h2><ul class="means">{items}</ul>'


def _utility(figures: dict[str, Any]) -> str:
    utility = figures.get("utility")
    if utility is None:
        return ""
    metric = METRIC_NAMES[utility["metric"]]
    values = [s["value"] for s in utility["scores"] if s["value"] is not None]
    # A coin scores .5 in AUC, so the scale starts there; other metrics start at 0 or below.
    low = 0.5 if utility["metric"] == "auc" and min(values, default=0.5) >= 0.5 else 0.0
    high = min(1.0, max(values, default=1.0) * 1.04 + 0.01)
    rows = [
        (
            score["name"],
            score["value"],
            score["kind"],
            "; ".join(
                part
                for part in (
                    f"{count(score['rows'])} rows" if score.get("rows") else "",
                    score.get("note") or "",
                )
                if part
            ),
        )
        for score in utility["scores"]
    ]
    drawing = charts.scale_points(rows, low=low, high=high, title=f"{metric} by training rows")
    return (
        f"<h2>Utility: predicting {escape(utility['target'])}</h2>"
        f"<p>The same small network (one hidden layer of 64) is trained on different rows and "
        f"tested on {count(utility['test_rows'])} real held-out rows. {metric}, higher is better. "
        f"Inputs: {escape(', '.join(utility['inputs']))}.</p>"
        f'<div class="panel">{drawing}</div>'
    )


def _columns(figures: dict[str, Any]) -> str:
    panels = []
    for column in figures["columns"]:
        drawing = charts.bars(
            column["real"],
            column["synthetic"],
            names=column["bars"],
            ticks=column.get("ticks"),
            title=f"{column['name']}: real and synthetic shares",
        )
        kind = column["unit"] or column["kind"]
        if column["condition"]:
            kind += ", condition"
        panels.append(
            f'<div class="panel column"><div class="head"><h3>{escape(column["name"])} '
            f'<span class="unit">{escape(kind)}</span></h3><span class="pill">'
            f"<b>{number(column['score'])}</b> of {number(column['ceiling'])}</span></div>"
            f'{drawing}<div class="foot">{escape(_column_foot(column))}</div></div>'
        )
    return (
        "<h2>Columns</h2><p>Shares of values. The score beside each name is SDMetrics' column "
        "shape; after it the same score for real rows against other real rows. Point at a bar for "
        "its numbers.</p>" + _LEGEND + f'<div class="grid3">{"".join(panels)}</div>'
    )


_LEGEND = (
    '<div class="legend"><span><i style="background:var(--real)"></i>real</span>'
    '<span><i style="background:var(--syn)"></i>synthetic</span></div>'
)


def _column_foot(column: dict[str, Any]) -> str:
    parts = []
    moments = column.get("moments")
    if moments is not None:
        real, made = moments["real"], moments["synthetic"]
        parts.append(f"mean {number(real['mean'], 1)} / {number(made['mean'], 1)}")
        parts.append(f"spread {number(real['std'], 1)} / {number(made['std'], 1)}")
    missing = column["missing"]
    if missing["real"] or missing["synthetic"]:
        parts.append(f"missing {missing['real']:.2%} / {missing['synthetic']:.2%}")
    return ", ".join(parts) + (" (real / synthetic)" if parts else "")


def _pairs(figures: dict[str, Any]) -> str:
    pairs = figures["fidelity"]["pair_scores"]
    if not pairs:
        return ""
    names = [column["name"] for column in figures["columns"]]
    made = {(pair["a"], pair["b"]): pair["score"] for pair in pairs}
    best = {(pair["a"], pair["b"]): pair["ceiling"] for pair in pairs}
    lost = [p for p in pairs if p["score"] is not None and p["ceiling"] is not None]
    lost.sort(key=lambda pair: pair["score"] - pair["ceiling"])
    rows = "".join(
        f"<tr><td>{escape(p['a'])} and {escape(p['b'])}</td><td>{escape(p['metric'])}</td>"
        f'<td class="n">{number(p["score"])}</td><td class="n">{number(p["ceiling"])}</td>'
        f'<td class="n">{p["score"] - p["ceiling"]:+.3f}</td></tr>'
        for p in lost[:6]
    )
    return (
        "<h2>Pairs of columns</h2><p>How well each pair is kept: similarity of correlations for "
        "two numbers, of contingency tables otherwise. 1 is best. On the right the same for real "
        "rows against other real rows: what a perfect generator would score on this many rows.</p>"
        '<div class="grid2"><div class="panel"><h3>Synthetic against real</h3>'
        + charts.heat_map(names, made, title="Pair scores of synthetic rows")
        + '</div><div class="panel"><h3>Real against real</h3>'
        + charts.heat_map(names, best, title="Pair scores of held-out real rows")
        + '</div></div><div class="panel" style="margin-top:14px"><h3>Where most was lost</h3>'
        "<table><tr><th>pair</th><th>metric</th><th class='n'>synthetic</th>"
        f"<th class='n'>real</th><th class='n'>difference</th></tr>{rows}</table></div>"
    )


def _privacy(figures: dict[str, Any]) -> str:
    privacy, closest = figures.get("privacy"), figures["closest"]
    if privacy is None:
        text = "No privacy statement came with these rows, so nothing is known about it."
    elif privacy.get("epsilon") is None:
        text = (
            "WITHOUT PRIVACY: no noise was added. The figures below say nothing about what an "
            "attacker could find."
        )
    else:
        text = (
            f"Differential privacy with epsilon {number(privacy['epsilon'], 2)} at delta "
            f"{privacy.get('delta', 0):g}; the unit is one {privacy.get('unit', 'row')}. "
            f"{privacy.get('mechanism', '')}"
        )
    share, margin = closest["closer_to_training"], closest["margin"]
    table = (
        "<table><tr><th>closeness of synthetic rows</th><th class='n'>to rows trained on</th>"
        "<th class='n'>to held-out rows</th></tr>"
        f"<tr><td>median distance to the closest row</td><td class='n'>"
        f"{number(closest['median'])}</td><td class='n'>{number(closest['median_held_out'])}</td>"
        f"</tr><tr><td>equal to one of {count(closest['references'])} rows</td><td class='n'>"
        f"{closest['exact']:.2%}</td><td class='n'>{closest['exact_held_out']:.2%}</td></tr>"
        f"<tr><td>closer to that side, {count(closest['rows'])} synthetic rows</td>"
        f"<td class='n'>{share:.1%} &plusmn; {margin:.1%}</td>"
        f"<td class='n'>{1 - share:.1%}</td></tr></table>"
    )
    return (
        f"<h2>Privacy</h2><p>{escape(text)}</p>"
        f'<div class="panel">{table}<div class="foot" style="margin-top:10px">About half and half '
        "is what rows give that copy nobody. This is a smoke alarm for copied rows, not a "
        "guarantee: only epsilon is one.</div></div>"
    )


def _limits(figures: dict[str, Any]) -> str:
    items = "".join(f'<li class="note">{escape(text)}</li>' for text in limits(figures))
    return f'<h2>Limits</h2><ul class="means">{items}</ul>'


def _footer(figures: dict[str, Any]) -> str:
    facts = figures.get("made_with") or {}
    text = " · ".join(f"{name}: {value}" for name, value in facts.items())
    return (
        f"<footer>{escape(text)}{'<br>' if text else ''}The same figures for programs are in the "
        "JSON file beside this page.</footer>"
    )
