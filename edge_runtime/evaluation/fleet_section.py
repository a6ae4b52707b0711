"""The parts of the report that tell how a fleet produced the rows."""

from __future__ import annotations

from html import escape
from typing import Any

from edge_runtime.evaluation import charts
from edge_runtime.evaluation.words import count, number

__all__ = ["fleet_sections"]


def fleet_sections(figures: dict[str, Any]) -> list[str]:
    """Return the sections on rounds, guard and devices; none when no fleet was involved."""
    fleet = figures.get("fleet")
    if fleet is None:
        return []
    return [_rounds(fleet), _guard(fleet), _devices(fleet)]


def _rounds(fleet: dict[str, Any]) -> str:
    rounds = fleet["rounds"]
    rows = "".join(
        f"<tr><td>{escape(r['name'])}</td><td class='n'>{count(r.get('devices'))}</td>"
        f"<td class='n'>{count(r.get('rows'))}</td>"
        f"<td class='n'>{number(r.get('epsilon'), 2)}</td>"
        f"<td class='n'>{number(r.get('seconds'), 1)}</td></tr>"
        for r in rounds
    )
    spent = [(r["name"], r["epsilon"]) for r in rounds if r.get("epsilon") is not None]
    pooled = [(r["name"], r["rows"]) for r in rounds if r.get("rows")]
    drawings = []
    if spent:
        drawings.append(
            '<div class="panel"><h3>Epsilon spent so far, worst device</h3>'
            + charts.lines(
                spent,
                title="Epsilon spent after each round",
                limit=fleet.get("epsilon_limit"),
                limit_name="limit",
            )
            + "</div>"
        )
    if pooled:
        drawings.append(
            '<div class="panel"><h3>Synthetic rows in the pool</h3>'
            + charts.lines(pooled, title="Rows in the pool after each round", digits=0)
            + "</div>"
        )
    return (
        "<h2>Rounds</h2><p>Devices first release a noisy census of their columns, then train and "
        "send synthetic rows. The pool accumulates; every round starts from the latest generator."
        f'</p><div class="grid2">{"".join(drawings)}</div>'
        '<div class="panel" style="margin-top:14px"><table><tr><th>round</th>'
        "<th class='n'>devices</th><th class='n'>rows in the pool</th>"
        f"<th class='n'>epsilon so far</th><th class='n'>seconds</th></tr>{rows}</table></div>"
    )


#: which class of the style sheet marks an alarm
_MARKS = {"critical": "warn", "warning": "warn", "notice": "note"}


def _guard(fleet: dict[str, Any]) -> str:
    """Return what the guard found wrong, and the score curve; empty where it did not watch."""
    alarms = fleet.get("alarms")
    if alarms is None:
        return ""
    items = "".join(
        f'<li class="{_MARKS[a["severity"]]}"><b>{escape(a["severity"])}: {escape(a["kind"])}, '
        f"{escape(a['subject'])}</b> (since round {count(a['since_round'])}). "
        f"{escape(a['text'])}</li>"
        for a in alarms
    )
    what = (
        f'<ul class="means">{items}</ul>'
        if items
        else "<p>No alarm is in force: likelihood, tails, rare categories, pairs of columns, "
        "subgroup rates and privacy budgets are as the fleet's noisy counts say.</p>"
    )
    points = fleet.get("curve") or []
    drawing = ""
    if points:
        rows = "".join(
            f"<tr><td>{escape(p['bundle'][:12])}</td><td class='n'>{count(p['round'])}</td>"
            f"<td class='n'>{number(p['nll'])} &plusmn; {number(p['error'])}</td>"
            f"<td class='n'>{count(p['devices'])}</td><td class='n'>{count(p['rows'])}</td></tr>"
            for p in points
        )
        line = charts.lines(
            [(f"round {p['round']}", p["nll"]) for p in points],
            title="Nats per held-out real row, by bundle",
            digits=2,
        )
        drawing = (
            f'<div class="grid2"><div class="panel"><h3>How likely generators find real rows'
            f"</h3>{line}</div><div class='panel'><table><tr><th>bundle</th>"
            "<th class='n'>scored in round</th><th class='n'>nats per row</th>"
            "<th class='n'>devices</th><th class='n'>rows</th></tr>"
            f"{rows}</table><div class='foot'>Lower is better. Rows that devices hold out for "
            "ever, scored with noise; a rise beyond the error is what collapse looks like."
            "</div></div></div>"
        )
    return f"<h2>Guard</h2>{what}{drawing}"


def _devices(fleet: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><b>{escape(d['device'])}</b></td><td>{escape(d.get('name', ''))}</td>"
        f"<td class='n'>{count(d.get('real_rows'))}</td>"
        f"<td class='n'>{count(d.get('rows_accepted'))}</td>"
        f"<td class='n'>{number(d['bytes_up'] / 1e3, 1) if d.get('bytes_up') else '-'}</td>"
        f"<td class='n'>{number(d.get('epsilon'), 2)}</td><td>{escape(d.get('status', ''))}</td>"
        "</tr>"
        for d in fleet["devices"]
    )
    total = (
        f"{count(fleet['real_rows'])} real rows stayed where they were; "
        f"{count(fleet['rows_accepted'])} synthetic rows were accepted, "
        f"{count(fleet.get('rows_quarantined', 0))} quarantined."
    )
    costs = []
    if fleet.get("seconds"):
        costs.append(f"{fleet['seconds']:.0f} s in all")
    if fleet.get("peak_memory_bytes"):
        costs.append(f"{fleet['peak_memory_bytes'] / 1e6:,.0f} MB at most, all processes together")
    return (
        f"<h2>Devices</h2><p>{escape(total)} {escape('; '.join(costs))}</p>"
        '<div class="panel"><table><tr><th>device</th><th></th><th class="n">real rows</th>'
        '<th class="n">synthetic rows accepted</th><th class="n">kB up</th>'
        f'<th class="n">epsilon</th><th>state</th></tr>{rows}</table></div>'
    )
