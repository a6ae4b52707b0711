"""The parts of the report that tell how a fleet produced the rows."""

from __future__ import annotations

from html import escape
from typing import Any

from edge_runtime.evaluation import charts
from edge_runtime.evaluation.words import count, number

__all__ = ["fleet_sections"]


def fleet_sections(figures: dict[str, Any]) -> list[str]:
    """Return the sections on rounds and devices; none when no fleet was involved."""
    fleet = figures.get("fleet")
    if fleet is None:
        return []
    return [_rounds(fleet), _devices(fleet)]


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
