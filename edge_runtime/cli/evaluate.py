"""`edge-runtime evaluate`: how good synthetic rows are."""

# ruff: noqa: PLC0415 - a verb imports what it needs only, so that --help stays fast

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_runtime.cli.console import facts, privacy_text, say, working
from edge_runtime.cli.options import FILE, existing, json_option, seed_option

if TYPE_CHECKING:
    from edge_runtime.evaluation import Report

__all__ = ["evaluate"]


@click.command(
    short_help="Say how good synthetic rows are, and write the report.",
    epilog="\b\nExample:\n"
    "  edge-runtime evaluate real.csv new.parquet --target late --out report.html",
)
@click.argument("real", type=existing())
@click.argument("synthetic", type=existing())
@click.option(
    "--schema", "schema_path", type=existing(),
    help="Declaration of both tables.  [default: the bundle's, or read off REAL]",
)  # fmt: skip
@click.option(
    "--bundle", "bundle_path", type=existing(),
    help="What the rows were drawn from: its schema and its privacy statement are used.",
)  # fmt: skip
@click.option(
    "--holdout", type=existing(),
    help="Real rows that nothing was learnt from.  [default: a fifth of REAL]",
)  # fmt: skip
@click.option(
    "--target", metavar="COLUMN",
    help="What a model trained on the synthetic rows predicts; usefulness is not judged without.",
)  # fmt: skip
@click.option("--inputs", help="Columns it may use, with commas.  [default: all others]")
@click.option("--title", default="", help="Heading of the report.  [default: names the table]")
@click.option("--out", type=FILE, help="The report, one standalone .html file.")
@seed_option
@json_option
def evaluate(
    *,
    real: Path,
    synthetic: Path,
    schema_path: Path | None,
    bundle_path: Path | None,
    holdout: Path | None,
    target: str | None,
    inputs: str | None,
    title: str,
    out: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Compare the rows in SYNTHETIC with those in REAL (each .csv, .csv.gz or .parquet).

    Says how well columns and pairs of columns are kept, how useful a model trained on the
    synthetic rows is for real ones, and whether rows lie closer to those they were learnt from
    than to held-out ones.
    """
    from edge_runtime.errors import EvaluationError
    from edge_runtime.evaluation import evaluate as compare
    from edge_runtime.generator import load_bundle
    from edge_runtime.schema import Schema

    bundle = None if bundle_path is None else load_bundle(bundle_path)
    schema = None if schema_path is None else Schema.load(schema_path)
    if schema is None and bundle is not None:
        schema = bundle.schema
        if schema.sequence is not None:
            raise EvaluationError(
                f"{bundle_path} is of windows, and does not say what orders the rows of a series: "
                "name the schema of the rows with --schema"
            )
    with working("comparing ...", quiet=as_json):
        report = compare(
            real,
            synthetic,
            schema=schema,
            holdout=holdout,
            target=target,
            inputs=[name.strip() for name in inputs.split(",")] if inputs else None,
            privacy=None if bundle is None else bundle.lineage.privacy,
            title=title,
            seed=seed,
        )
        if out is not None:
            report.to_html(out)
            report.to_json(out.with_suffix(".json"))
    if as_json:
        say(report.to_json())
        return
    facts(_summary(report))
    if out is not None:
        say(f"\nreport: {out}\nfigures: {out.with_suffix('.json')}")


def _summary(report: Report) -> dict[str, str]:
    figures: dict[str, Any] = report.figures
    fidelity, closest, rows = figures["fidelity"], figures["closest"], figures["rows"]
    shown = {
        "rows": f"{rows['synthetic']:,} synthetic against {rows['real']:,} real, "
        f"{rows['held_out']:,} held out",
    }
    for name, what in (("shapes", "column shapes"), ("pairs", "column pairs")):
        shown[what] = f"{fidelity[name]:.3f} (real against real {fidelity['ceiling'][name]:.3f})"
    series: dict[str, Any] = figures.get("series") or {}
    for name, what, digits, unit in (
        ("autocorrelation", "autocorrelations, mean difference", 3, ""),
        ("spectrum", "power spectra, mean difference", 1, " dB"),
    ):
        if series.get(name) is not None:
            beside = series[f"{name}_ceiling"]
            real = "" if beside is None else f" (real against real {beside:.{digits}f}{unit})"
            shown[what] = f"{series[name]:.{digits}f}{unit}{real}"
    utility: dict[str, Any] = figures.get("utility") or {}
    scores = utility.get("scores", ())
    for score in scores:
        value = score["value"]
        # NaN is what differs from itself: rows that no model can be trained on
        known = value is not None and value == value  # noqa: PLR0124
        shown[f"{utility['metric']} of {utility['target']}, {score['name']}"] = (
            f"{value:.3f}" if known else f"none: {score['note']}"
        )
    shown["closer to real rows learnt from"] = (
        f"{closest['closer_to_training']:.3f} of rows (0.5 is chance, "
        f"margin {closest['margin']:.3f})"
    )
    shown["privacy"] = privacy_text(figures["privacy"])
    return shown
