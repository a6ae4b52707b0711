"""`edge-runtime impute`: missing cells of given rows."""

# ruff: noqa: PLC0415 - a verb imports what it needs only, so that --help stays fast

from __future__ import annotations

import time
from pathlib import Path

import click

from edge_runtime.cli.console import WITHOUT_PRIVACY, facts, notes, print_json, working
from edge_runtime.cli.options import FILE, existing, json_option, seed_option

__all__ = ["impute"]


@click.command(
    short_help="Fill the missing cells of rows.",
    epilog="\b\nExample:\n"
    "  edge-runtime impute rows.bundle holes.csv --out filled.csv\n"
    "  edge-runtime impute rows.bundle holes.csv --draws 5 --out filled.csv",
)
@click.argument("bundle", type=existing())
@click.argument("data", type=existing())
@click.option("--out", type=FILE, required=True, help="The .csv or .parquet file to write.")
@click.option(
    "--draws", metavar="N", type=click.IntRange(min=0), default=0, show_default=True,
    help="So many files, each with values drawn at random given the known ones: out.1.csv, "
    "out.2.csv, ... 0 fills in the likeliest category or the median number.",
)  # fmt: skip
@seed_option
@json_option
def impute(*, bundle: Path, data: Path, out: Path, draws: int, seed: int, as_json: bool) -> None:
    """Fill the missing cells of the rows in DATA by the generator in BUNDLE.

    Known cells stay as they are. What the constraints of the schema leave no value for stays
    missing and is counted.
    """
    from edge_runtime.api import Generator
    from edge_runtime.schema import write_table

    generator = Generator.load(bundle)
    started = time.monotonic()
    with working("filling ...", quiet=as_json):
        made = generator.impute(data, draws=draws, seed=seed)
    files = [out]
    if draws:
        files = [out.with_suffix(f".{number}{out.suffix}") for number in range(1, draws + 1)]
    for table, path in zip(made.tables, files, strict=True):
        write_table(table, path)
    seconds = time.monotonic() - started
    privacy = generator.bundle.lineage.privacy
    if as_json:
        print_json(
            {
                "files": [str(path) for path in files],
                "rows": made.tables[0].rows,
                "rows_with_missing": made.rows,
                "cells": made.cells,
                "exact": made.exact,
                "unmet": made.unmet,
                "seed": seed,
                "seconds": seconds,
                "bundle_digest": generator.bundle.digest,
                "privacy": privacy,
            }
        )
        return
    facts(
        {
            "filled": f"{made.cells:,} cells of {made.rows:,} of {made.tables[0].rows:,} rows in "
            f"{seconds:.1f} s",
            "distributions": f"{made.exact:,} exact, {made.rows - made.exact:,} sampled",
            "written": ", ".join(map(str, files)),
        }
    )
    if made.unmet:
        notes(
            [
                f"{made.unmet:,} rows were left as they are: what is known of them and the "
                "constraints of the schema leave no value"
            ]
        )
    if privacy.get("epsilon") is None:
        notes([f"the generator was learnt {WITHOUT_PRIVACY}: values may tell about real rows"])
