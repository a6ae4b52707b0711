"""`edge-runtime schema`: public declarations of tables."""

# ruff: noqa: PLC0415 - a verb imports what it needs only, so that --help stays fast

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from edge_runtime.cli.console import notes, print_json, say, working
from edge_runtime.cli.options import FILE, existing, json_option

__all__ = ["schema"]


@click.group(epilog="\b\nExample:\n  edge-runtime schema infer rows.csv --out schema.json")
def schema() -> None:
    """Draft public declarations of tables."""


@schema.command(
    short_help="Draft a schema from a table.",
    epilog="\b\nExample:\n  edge-runtime schema infer rows.csv --condition late --out schema.json",
)
@click.argument("data", type=existing())
@click.option("--out", type=FILE, help="The file to write; standard output when absent.")
@click.option("--name", help="What the table is called.  [default: the file's name]")
@click.option(
    "--condition", "conditions", multiple=True, metavar="COLUMN",
    help="Rows may be asked for by this column's value; repeatable.",
)  # fmt: skip
@json_option
def infer(
    *, data: Path, out: Path | None, name: str | None, conditions: tuple[str, ...], as_json: bool
) -> None:
    """Draft a schema from DATA (.csv, .csv.gz or .parquet) and note what a person must decide.

    Bounds and categories are public: they travel to every device and out of the fleet. The draft
    reads them off the rows, so replace each by what is known without looking.
    """
    from edge_runtime.schema import infer_schema

    with working("reading ...", quiet=as_json):
        drafted, said = infer_schema(data, name=name, conditions=conditions)
    if out is not None:
        drafted.save(out)
    if as_json:
        print_json(
            {
                "schema": msgspec.json.decode(drafted.to_json()),
                "digest": drafted.digest,
                "notes": said,
                "out": None if out is None else str(out),
            }
        )
        return
    notes(said)
    if out is None:
        click.echo(drafted.to_text())
    else:
        say(f"{len(drafted.columns)} columns into {out}: a draft, go through the notes above")
