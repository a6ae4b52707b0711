"""The table, the plots and the Markdown block of the federation benchmark, from its records.

python -m tools.bench.federation.report --page docs/federation-bench.md --plots docs
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tools.bench.federation.memory import FILE as MEMORY_FILE
from tools.bench.federation.memory import load_figures, with_memory
from tools.bench.federation.records import PRIVACY_LEVELS, RESULTS, Record, level_name, load
from tools.bench.federation.tasks import TASKS

__all__ = ["FILES", "Row", "draw", "markdown", "summarise"]

FILES = ("peers.json", "ours.json")
#: everything behind it in a page is written here
HEADING = "## Results"
#: in this order in tables and legends
ORDER = (
    "centralised",
    "local only",
    "FedAvg",
    "FedProx",
    "FedAdam",
    "SCAFFOLD",
    "ours: pool",
    "ours: average",
    "ours: hybrid",
)
#: Okabe and Ito's colours, distinct for colour-blind readers
COLOURS = {
    "FedAvg": "#56B4E9",
    "FedProx": "#0072B2",
    "FedAdam": "#009E73",
    "SCAFFOLD": "#CC79A7",
    "ours: pool": "#D55E00",
    "ours: average": "#E69F00",
    "ours: hybrid": "#000000",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One system on one task at one privacy level, over its seeds.

    Parameters
    ----------
    records : tuple of Record
        One per seed.
    """

    records: tuple[Record, ...]

    @property
    def first(self) -> Record:
        """The record of the lowest seed."""
        return self.records[0]

    @property
    def mean(self) -> float:
        """Mean score over the seeds."""
        return float(np.mean([record.score for record in self.records]))

    @property
    def spread(self) -> float:
        """Largest distance of a seed's score from the mean."""
        return max(abs(record.score - self.mean) for record in self.records)


def summarise(records: Iterable[Record]) -> list[Row]:
    """Group records by task, privacy level and system, in the order of the tables."""
    groups: dict[tuple[str, float | None, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.task, record.epsilon, record.system), []).append(record)
    rows = [
        Row(records=tuple(sorted(group, key=lambda record: record.seed)))
        for group in groups.values()
    ]
    return sorted(rows, key=_place)


def _place(row: Row) -> tuple[int, int, int]:
    first = row.first
    system = ORDER.index(first.system) if first.system in ORDER else len(ORDER)
    return list(TASKS).index(first.task), PRIVACY_LEVELS.index(first.epsilon), system


def markdown(rows: Sequence[Row], abouts: Sequence[dict[str, Any]]) -> str:
    """Return the results as Markdown: scores of all systems, then what they cost.

    Parameters
    ----------
    rows : sequence of Row
    abouts : sequence of dict
        Date, machine and versions of each results file.
    """
    parts = [_about(abouts)]
    for level in PRIVACY_LEVELS:
        some = [row for row in rows if row.first.epsilon == level]
        if some:
            parts.append(f"### {_level_title(level).capitalize()}\n{_scores(some)}")
    parts.append(f"### Cost on a device\n{_costs(rows)}")
    return "\n\n".join(parts) + "\n"


def _scores(rows: Sequence[Row]) -> str:
    tasks = [task for task in TASKS if any(row.first.task == task for row in rows)]
    systems = dict.fromkeys(
        row.first.system for row in sorted(rows, key=lambda row: _place(row)[2])
    )
    found = {(row.first.task, row.first.system): row for row in rows}
    lines = [
        "| | " + " | ".join(f"{task} ({_metric(found, task)})" for task in tasks) + " |",
        "| --- |" + " --- |" * len(tasks),
    ]
    for system in systems:
        cells = [
            f"{_score(found[task, system].mean)} ± {_score(found[task, system].spread)}"
            if (task, system) in found
            else ""
            for task in tasks
        ]
        lines.append(f"| {system} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _costs(rows: Sequence[Row]) -> str:
    lines = [
        "| task | privacy | system | rounds | kB up per device | CPU s per device | peak RSS, MB "
        "| held-out NLL, nats |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        first = row.first
        if first.rounds == 0:  # the bounds send nothing
            continue
        peak = "" if first.peak_rss_mb is None else f"{first.peak_rss_mb:.0f}"
        nll = "" if first.nll is None else f"{_mean(r.nll for r in row.records):.2f}"
        lines.append(
            f"| {first.task} | {_level_title(first.epsilon)} | {first.system} | {first.rounds} "
            f"| {_mean(r.bytes_up for r in row.records) / 1000:,.0f} "
            f"| {_mean(r.device_cpu_s for r in row.records):.2f} | {peak} | {nll} |"
        )
    return "\n".join(lines)


def draw(rows: Sequence[Row], directory: Path) -> list[Path]:
    """Draw the score against bytes and against rounds, one figure for each privacy level.

    A figure has a column for each task; bytes above, rounds below. Lines are means over seeds,
    the grey lines are the bounds without privacy.

    Returns
    -------
    list of Path
        The SVG files.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    # Text stays text, and equal figures give equal files.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "federation", "font.size": 8})
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    tasks = [task for task in TASKS if any(row.first.task == task for row in rows)]
    for level in PRIVACY_LEVELS:
        curves = [row for row in rows if row.first.epsilon == level and row.first.rounds]
        if not curves:
            continue
        figure, axes = plt.subplots(
            2, len(tasks), figsize=(3.2 * len(tasks), 5.2), sharey="col", squeeze=False
        )
        for column, task in enumerate(tasks):
            bounds = [r for r in rows if r.first.task == task and not r.first.rounds]
            for half, axis in enumerate(axes[:, column]):
                _draw_panel(axis, [r for r in curves if r.first.task == task], bounds, half == 0)
            axes[0, column].set_title(task)
        figure.suptitle(_level_title(level))
        names = {
            h: t for a in axes.flat for h, t in zip(*a.get_legend_handles_labels(), strict=True)
        }
        seen = {text: handle for handle, text in names.items()}
        figure.legend(
            seen.values(), seen.keys(), loc="lower center", ncols=len(seen), frameon=False
        )
        figure.tight_layout(rect=(0, 0.05, 1, 1))
        path = directory / f"federation-{level_name(level)}.svg"
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
        written.append(path)
    return written


def _draw_panel(axis: Any, rows: Sequence[Row], bounds: Sequence[Row], by_bytes: bool) -> None:
    for row in rows:
        points = [record.curve for record in row.records]
        shared = [curve[: min(map(len, points))] for curve in points]
        across = [point.bytes_up / 1000 if by_bytes else point.round for point in shared[0]]
        heights = np.mean([[point.score for point in curve] for curve in shared], axis=0)
        axis.plot(
            across,
            heights,
            color=COLOURS.get(row.first.system, "grey"),
            marker="o" if len(across) < 5 else None,
            markersize=3,
            linewidth=1.2,
            label=row.first.system,
        )
    for row in bounds:
        axis.axhline(row.mean, color="grey", linewidth=0.8, linestyle=_dash(row.first.system))
        axis.annotate(
            row.first.system, (1, row.mean), xycoords=("axes fraction", "data"), ha="right",
            va="bottom", color="grey", fontsize=6,
        )  # fmt: skip
    axis.set_xscale("log")
    axis.set_xlabel("kB up per device" if by_bytes else "rounds")
    if rows:
        axis.set_ylabel(rows[0].first.metric)


def _dash(system: str) -> str:
    return "-" if system == "centralised" else ":"


def _about(abouts: Sequence[dict[str, Any]]) -> str:
    lines = []
    for about in abouts:
        versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
        lines.append(f"{about['file']}: {about['date']}, {about['machine']}; {versions}.")
    return "\n".join(lines)


def _metric(found: dict[tuple[str, str], Row], task: str) -> str:
    metric = next(row.first.metric for (name, _), row in found.items() if name == task)
    return "AUC" if metric == "auc" else metric


def _score(value: float) -> str:
    return f"{value:.3f}".lstrip("0") or "0"


def _mean(values: Iterable[float | None]) -> float:
    return float(np.mean([value for value in values if value is not None]))


def _level_title(level: float | None) -> str:
    return "without privacy" if level is None else f"epsilon {level:g}"


def main() -> None:
    """Print the tables; write the Markdown block and the plots where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "--page", type=Path, help=f"replace what stands behind {HEADING!r} in this page"
    )
    parser.add_argument("--plots", type=Path, help="write the SVG files into this folder")
    options = parser.parse_args()
    paths = [options.results / name for name in FILES if (options.results / name).is_file()]
    if not paths:
        raise SystemExit(f"no results in {options.results}; run tools.bench.federation.peers first")
    memory = options.results / MEMORY_FILE
    described = [*paths, memory] if memory.is_file() else paths
    abouts = [{"file": path.name, **json.loads(path.read_text("utf-8"))} for path in described]
    records = [record for path in paths for record in load(path)]
    rows = summarise(with_memory(records, load_figures(memory)))
    text = markdown(rows, abouts)
    print(text)
    if options.page:
        page = options.page.read_text("utf-8")
        if HEADING not in page:
            raise SystemExit(f"{options.page} has no heading {HEADING!r} to write behind")
        options.page.write_text(page.partition(HEADING)[0] + HEADING + "\n" + text, "utf-8")
    if options.plots:
        for path in draw(rows, options.plots):
            print(path)


if __name__ == "__main__":
    main()
