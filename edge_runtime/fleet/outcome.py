"""What a person sees after the demo: one table, the paths, one command to go on with."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edge_runtime.evaluation import Report
from edge_runtime.fleet.configs import FleetSettings
from edge_runtime.fleet.demo import DemoOptions, DemoResult, run_demo

__all__ = ["kept_files", "run_and_show", "summary_rows"]

#: a process ended by Ctrl-C, by the shell's convention
_INTERRUPTED = 130
_LOUD = "WITHOUT PRIVACY"


def run_and_show(
    *,
    out: Path,
    epsilon: float | None,
    rounds: int,
    devices: int | None,
    seed: int,
    as_json: bool = False,
) -> int:
    """Run the demo and print its outcome.

    Parameters
    ----------
    out, epsilon, rounds, devices, seed
        As in `DemoOptions`.
    as_json : bool
        Print the report's figures to standard output; everything for people goes to standard
        error then.

    Returns
    -------
    int
        Exit code: 0, or 130 after Ctrl-C.

    Raises
    ------
    EdgeRuntimeError
        The demo could not be run; the command line prints it.
    """
    console = Console(stderr=as_json)
    settings = FleetSettings(epsilon=epsilon, rounds=rounds, seed=seed)
    if epsilon is None:
        console.print(f"[bold white on red] {_LOUD} [/] no noise is added anywhere in this run")
    try:
        result = run_demo(DemoOptions(out=out, devices=devices, settings=settings), console=console)
    except KeyboardInterrupt:
        console.print("\n[bold]Stopped.[/] Every process has ended.", highlight=False)
        kept = kept_files(out)
        console.print(
            f"Kept in {out}: {', '.join(kept)}; the next run replaces it."
            if kept
            else "Nothing was kept.",
            highlight=False,
            soft_wrap=True,
        )
        return _INTERRUPTED
    _show(console, result)
    if as_json:
        sys.stdout.write(result.report.to_json() + "\n")
    return 0


def summary_rows(report: Report) -> list[tuple[str, str, str]]:
    """Return the final table: what, figure, and what to hold it against."""
    figures: dict[str, Any] = report.figures
    fleet, fidelity = figures["fleet"], figures["fidelity"]
    sent = [device["bytes_up"] for device in fleet["devices"]]
    privacy = figures["privacy"]
    if privacy["epsilon"] is None:
        epsilon = (_LOUD, "no noise was added")
    else:
        epsilon = (
            f"{privacy['epsilon']:.2f}",
            f"of {fleet['epsilon_limit']:g} at delta {privacy['delta']:g}, per {privacy['unit']}",
        )
    quarantined = fleet["rows_quarantined"]
    rows = [
        ("devices", f"{len(fleet['devices'])}", "one per carrier"),
        ("real rows seen by devices", f"{fleet['real_rows']:,}", ""),
        ("real rows sent", f"{fleet['real_rows_sent']:,}", ""),
        (
            "synthetic rows accepted",
            f"{fleet['rows_accepted']:,}",
            f"{quarantined:,} messages quarantined" if quarantined else "",
        ),
        (
            "bytes up per device",
            f"{sum(sent) / len(sent) / 1e3:,.0f} kB",
            f"mean; {min(sent) / 1e3:,.0f} to {max(sent) / 1e3:,.0f} kB",
        ),
        ("epsilon, worst device", *epsilon),
        (
            "SDMetrics column shapes",
            f"{fidelity['shapes']:.3f}",
            f"real against real {fidelity['ceiling']['shapes']:.3f}",
        ),
        (
            "SDMetrics column pairs",
            f"{fidelity['pairs']:.3f}",
            f"real against real {fidelity['ceiling']['pairs']:.3f}",
        ),
    ]
    utility = figures["utility"]
    for letter, score in zip("abcd", utility["scores"], strict=False):
        value = score["value"]
        rows.append(
            (
                f"AUC for {utility['target']}: ({letter}) {score['name']}",
                "-" if value is None or value != value else f"{value:.3f}",  # noqa: PLR0124 - NaN
                score["note"],
            )
        )
    rows.append(("time", f"{fleet['seconds']:.0f} s", ""))
    rows.append(
        (
            "peak memory",
            f"{fleet['peak_memory_bytes'] / 1e9:.2f} GB",
            f"all {fleet['processes']} processes together",
        )
    )
    return rows


def kept_files(out: Path) -> list[str]:
    """Return what a stopped run left in its directory, for people."""
    names = {
        "data": "the prepared data",
        "aggregator": "the aggregator's pool and catalogue",
        "devices": "the devices' stores and ledgers",
        "logs": "all logs",
        "release": "the release",
        "report.html": "the report",
    }
    return [f"{text} ({name})" for name, text in names.items() if (out / name).exists()]


def _show(console: Console, result: DemoResult) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True, style="bold")
    table.add_column(style="dim")
    for what, figure, beside in summary_rows(result.report):
        loud = figure == _LOUD
        table.add_row(what, f"[white on red]{figure}[/]" if loud else figure, beside)
    console.print()
    console.print(table)
    console.print()
    private = result.report.private
    stamp = "" if private else f"  [bold white on red] {_LOUD} [/]"
    for what, path in (
        ("release", result.release),
        ("generator", result.bundle),
        ("report", result.html),
        ("figures", result.json),
    ):
        console.print(f"{what:<10} {_short(path)}{stamp}", highlight=False, soft_wrap=True)
    command = (
        f"edge-runtime sample {shlex.quote(str(_short(result.bundle)))} --rows 1000 --out rows.csv"
    )
    console.print(f"\nfresh rows: [bold]{command}[/]", highlight=False, soft_wrap=True)


def _short(path: Path) -> Path:
    """Return the path as seen from here, when it is below."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path
