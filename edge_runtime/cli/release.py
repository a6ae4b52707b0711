"""`edge-runtime release`: a dataset from what a fleet has sent."""

# ruff: noqa: PLC0415 - a verb imports what it needs only, so that --help stays fast

from __future__ import annotations

from pathlib import Path

import click

from edge_runtime.cli.aggregator import data_dir_of
from edge_runtime.cli.console import facts, print_json, privacy_text, working
from edge_runtime.cli.options import existing, json_option, seed_option

__all__ = ["release"]


@click.command(
    short_help="Write a dataset from what a fleet has sent.",
    epilog="\b\nExample:\n  edge-runtime release aggregator.toml --out release --rows 100000",
)
@click.argument("where", type=existing(either=True))
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False),
    help="The directory to write; an earlier release there is replaced.",
)  # fmt: skip
@click.option(
    "--rows", type=click.IntRange(min=1),
    help="How many.  [default: as many as the fleet is estimated to hold]",
)  # fmt: skip
@click.option("--verify", is_flag=True, help="Check the release in WHERE instead of making one.")
@seed_option
@json_option
def release(
    *, where: Path, out: Path | None, rows: int | None, verify: bool, seed: int, as_json: bool
) -> None:
    """Write a dataset with schema, generator, model card, privacy statement and checksums.

    WHERE is aggregator.toml or its data directory. The rows are drawn from the pool of accepted
    synthetic rows; the same seed gives the same files.
    """
    from edge_runtime.aggregator import make_release, verify_release

    if verify:
        if out is not None or rows is not None:
            raise click.UsageError("--verify checks a release; it takes neither --out nor --rows")
        files = verify_release(where)
        if as_json:
            print_json({"release": str(where), "files": files, "intact": True})
        else:
            facts({"intact": f"{where}: {files} files match their checksums"})
        return
    if out is None:
        raise click.UsageError("--out is needed: the directory to write")
    with working("drawing ...", quiet=as_json):
        made = make_release(data_dir_of(where), out, rows, seed=seed)
    if as_json:
        print_json({"release": str(made.path), "data": str(made.data), **made.facts})
        return
    facts(
        {
            "release": str(made.path),
            "rows": f"{made.rows:,} synthetic rows in {made.data.name}, drawn from "
            f"{made.facts['pooled_rows']:,} of {made.facts['devices']} devices",
            "privacy": privacy_text(made.facts["privacy"]),
        }
    )
