"""What the report of a release shows: its rows held against the fleet's noisy counts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.aggregator.anchor import Anchor, Table
from edge_runtime.aggregator.records import MessageRecord
from edge_runtime.schema import Codec

__all__ = ["cell_figures", "column_figures", "findings", "lineage_figures", "table_figures"]

Codes = npt.NDArray[np.int32]

#: labels below a column of numbers
_TICKS = 3
#: a distance beyond what chance explains that is worth a sentence
_VISIBLE = 0.02
#: copies of one pooled row on average from which on people should know
_MANY_COPIES = 3.0
#: share of rows lost to constraints from which on the others may look different for it
_MANY_BROKEN = 0.05


def column_figures(
    codec: Codec, pooled: Codes, released: Codes, anchor: Anchor | None, census: Anchor | None
) -> list[dict[str, Any]]:
    """Return one entry per column: shares in the anchor and the release, and their distance.

    Parameters
    ----------
    codec : Codec
    pooled, released : int32 [n, D]
        The pool before weighting, and the rows drawn.
    anchor, census : Anchor or None
        The second stands in for columns that the first has not measured.
    """
    figures = []
    for d, (column, k) in enumerate(zip(codec.schema.columns, codec.cardinalities, strict=True)):
        measured = [a.one_way(d) for a in (anchor, census) if a is not None]
        table = next((t for t in measured if t is not None), None)
        labels = [codec.label(d, code) for code in range(k)]
        counts = np.bincount(released[:, d], minlength=k)
        figures.append(
            {
                "name": column.name,
                "kind": column.kind,
                "unit": column.unit or "",
                "condition": column.condition,
                "bars": labels,
                "ticks": _ticks(labels, column.nullable) if column.numeric else None,
                "anchor": None if table is None else table.distribution.tolist(),
                "errors": None if table is None else [2 * _share_error(table)] * k,
                "release": (counts / len(released)).tolist(),
                **_distances(table, pooled, released),
            }
        )
    return figures


def table_figures(
    codec: Codec, pooled: Codes, released: Codes, anchor: Anchor | None
) -> list[dict[str, Any]]:
    """Return one entry per measured table over several columns."""
    if anchor is None:
        return []
    names = codec.schema.names
    return [
        {
            "columns": [names[d] for d in table.columns],
            "cells": int(table.counts.size),
            **_distances(table, pooled, released),
        }
        for table in anchor.tables.values()
        if len(table.columns) > 1
    ]


def cell_figures(
    codec: Codec, cells: Codes, cell: npt.NDArray[np.intp], chosen: npt.NDArray[np.intp]
) -> list[dict[str, Any]]:
    """Return one entry per combination of conditions that the pool has.

    Parameters
    ----------
    codec : Codec
    cells, cell
        From `drawing.condition_cells`.
    chosen : intp [rows]
        Indices of the pooled rows drawn.
    """
    names = codec.schema.names
    if not cells.shape[1]:
        return []
    pooled = np.bincount(cell, minlength=len(cells))
    drawn = np.bincount(cell[chosen], minlength=len(cells))
    distinct = np.bincount(cell[np.unique(chosen)], minlength=len(cells))
    return [
        {
            "conditions": {names[d]: codec.label(d, int(code)) for d, code in enumerate(codes)},
            "pooled": int(pooled[i]),
            "released": int(drawn[i]),
            "distinct": int(distinct[i]),
        }
        for i, codes in enumerate(cells)
    ]


def lineage_figures(
    batches: Sequence[MessageRecord], chosen: npt.NDArray[np.intp]
) -> dict[str, Any]:
    """Return where the rows drawn are from.

    Parameters
    ----------
    batches : sequence of MessageRecord
        In the order in which the pool was read.
    chosen : intp [rows]
        Indices of the pooled rows drawn.

    Returns
    -------
    dict
        ``rows``: one entry per device, round, parent bundle and depth with ``pooled`` and
        ``released`` rows; ``groups``: the same over all devices; ``devices``: per device.
    """
    batch_of = np.repeat(np.arange(len(batches)), [batch.rows for batch in batches])
    drawn = np.bincount(batch_of[chosen], minlength=len(batches))
    pooled: Counter[tuple[str, int, str, int]] = Counter()
    released: Counter[tuple[str, int, str, int]] = Counter()
    for batch, count in zip(batches, drawn.tolist(), strict=True):
        key = (batch.device, batch.round, batch.bundle_digest, batch.depth)
        pooled[key] += batch.rows
        released[key] += count
    rows: list[dict[str, Any]] = [
        {
            "device": key[0],
            "round": key[1],
            "parent": key[2],
            "depth": key[3],
            "pooled": pooled[key],
            "released": released[key],
        }
        for key in sorted(pooled)
    ]
    groups: dict[tuple[int, str, int], dict[str, Any]] = {}
    devices: dict[str, dict[str, Any]] = {}
    for row in rows:
        group = groups.setdefault(
            (row["round"], row["parent"], row["depth"]),
            {
                **{name: row[name] for name in ("round", "parent", "depth")},
                "devices": 0,
                "pooled": 0,
                "released": 0,
            },
        )
        device = devices.setdefault(
            row["device"], {"device": row["device"], "rounds": [], "pooled": 0, "released": 0}
        )
        group["devices"] += 1
        if row["round"] not in device["rounds"]:
            device["rounds"].append(row["round"])
        for name in ("pooled", "released"):
            group[name] += row[name]
            device[name] += row[name]
    return {
        "rows": rows,
        "groups": [groups[key] for key in sorted(groups)],
        "devices": list(devices.values()),
    }


def findings(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return ``(kind, sentence)`` pairs on the figures; kind is empty, "note" or "warn"."""
    said: list[tuple[str, str]] = []
    mode, rows = figures["release"]["mode"], figures["rows"]
    measured = [(c["name"], c) for c in figures["columns"] if c["distance"] is not None]
    measured += [(", ".join(t["columns"]), t) for t in figures["tables"]]
    beyond = sorted(
        ((name, f["distance"] - f["expected"]) for name, f in measured),
        key=lambda pair: -pair[1],
    )
    far = [(name, excess) for name, excess in beyond if excess >= _VISIBLE]
    if not measured:
        said.append(("note", "Nothing was measured to hold these rows against."))
    elif not far:
        said.append(("", f"Every measured table is within {_VISIBLE} of what chance explains."))
    elif mode == "balanced":
        said.append(
            (
                "",
                "Conditions are balanced here, so they and what depends on them differ from the "
                "anchor on purpose.",
            )
        )
    else:
        name, excess = far[0]
        said.append(
            (
                "note",
                f"{len(far)} of {len(measured)} tables differ from the anchor by more than chance "
                f"explains, {name} most: by {excess:.3f} more.",
            )
        )
    gained = [f["pool_distance"] - f["distance"] for _, f in measured]
    if mode == "matched" and gained:
        said.append(
            (
                "" if np.mean(gained) >= 0 else "note",
                "Weighting towards the anchor brought the tables "
                f"{abs(float(np.mean(gained))):.3f} {'nearer' if np.mean(gained) >= 0 else 'off'} "
                "on average.",
            )
        )
    copies = rows["released"] / max(1, rows["distinct"])
    rare = [c for c in figures["cells"] if c["released"] > _MANY_COPIES * c["distinct"]]
    if copies > _MANY_COPIES:
        said.append(
            (
                "warn",
                f"Every pooled row stands here {copies:.1f} times on average: ask for fewer rows, "
                "or devices for more.",
            )
        )
    elif rare:
        said.append(
            (
                "note",
                f"{len(rare)} combinations of conditions are stretched: their pooled rows stand "
                f"here more than {_MANY_COPIES:g} times each on average.",
            )
        )
    kept = rows.get("constraints")
    if kept is not None:
        left_out = kept["pooled_rows_left_out"] / max(rows["pooled"], 1)
        said.append(
            (
                "note"
                if max(left_out, kept["rows_rejected"] / kept["rows_drawn"]) > _MANY_BROKEN
                else "",
                f"Every row keeps the constraints of the schema: {left_out:.1%} of the pool cannot "
                f"and is left out, {kept['rows_rejected']:,} of {kept['rows_drawn']:,} rows drawn "
                "were rejected."
                + (
                    f" Of the rows drawn from counts, which know of no constraint, {counted:,} are "
                    "left out as well."
                    if (counted := kept["rows_from_counts_left_out"])
                    else ""
                ),
            )
        )
    said += [
        ("warn", f"The guard has raised an alarm: {alarm['text']}")
        for alarm in figures["guard"]["alarms"]
        if alarm["severity"] != "notice"
    ]
    if figures["guard"]["rejected"]:
        said.append(
            ("note", f"The guard rejected {figures['guard']['rejected']} candidate generators.")
        )
    if not figures["privacy"]["private"]:
        said.append(("warn", "WITHOUT PRIVACY: nothing limits what these rows reveal."))
    return said


def _distances(table: Table | None, pooled: Codes, released: Codes) -> dict[str, float | None]:
    if table is None:
        return {"distance": None, "pool_distance": None, "expected": None}
    return {
        "distance": table.total_variation(released),
        "pool_distance": table.total_variation(pooled),
        "expected": min(1.0, table.error + table.sampling_error(len(released))),
    }


def _share_error(table: Table) -> float:
    return math.sqrt(table.variance) / table.rows


def _ticks(labels: Sequence[str], nullable: bool) -> list[tuple[float, str]]:
    """Places and lower ends of a few bins of numbers; missing, the last code, is none of them."""
    values = len(labels) - nullable
    chosen = sorted({round(i * (values - 1) / (_TICKS - 1)) for i in range(_TICKS)})
    return [
        ((code + 0.5) / len(labels), labels[code].lstrip("[(").split(",")[0]) for code in chosen
    ]
