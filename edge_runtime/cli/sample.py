"""`edge-runtime sample`: fresh rows from a bundle."""

# ruff: noqa: PLC0415 - a verb imports what it needs only, so that --help stays fast

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from edge_runtime.cli.console import WITHOUT_PRIVACY, notes, phases, print_json
from edge_runtime.cli.options import FILE, existing, json_option, read_wishes, seed_option

__all__ = ["sample"]


@click.command(
    short_help="Draw fresh rows from a bundle.",
    epilog="\b\nExample:\n"
    "  edge-runtime sample rows.bundle --rows 10000 --where late=true --out new.csv",
)
@click.argument("bundle", type=existing())
@click.option(
    "--rows",
    metavar="N",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="How many.",
)
@click.option(
    "--out", type=FILE,
    help="A .csv or .parquet file; CSV on standard output when absent.",
)  # fmt: skip
@click.option(
    "--where", "wishes", callback=read_wishes, multiple=True, metavar="COLUMN=VALUE",
    help="Only rows with this value; repeatable. An empty value asks for missing ones.",
)  # fmt: skip
@click.option(
    "--length", metavar="N", type=click.IntRange(min=1),
    help="Draw series of so many rows each; --rows is then the number of series.",
)  # fmt: skip
@click.option(
    "--engine",
    default="auto",
    show_default=True,
    help="What runs the generator: kernel, onnx, tflite, numpy, or auto for the fastest here.",
)
@click.option(
    "--threads", metavar="N", type=click.IntRange(min=1), default=1, show_default=True,
    help="Threads of the engine.",
)  # fmt: skip
@seed_option
@json_option
def sample(
    *,
    bundle: Path,
    rows: int,
    out: Path | None,
    wishes: dict[str, str | None],
    length: int | None,
    engine: str,
    threads: int,
    seed: int,
    as_json: bool,
) -> None:
    """Draw rows from the generator in BUNDLE. The same seed gives the same rows anywhere.

    Rows keep the constraints of the schema. Where some are drawn in vain, for a --where or a
    constraint, the share that was accepted is said.
    """
    if as_json and out is None:
        raise click.UsageError("--json needs --out: without it the rows go to standard output")
    from edge_runtime.api import Generator
    from edge_runtime.schema import TableWriter

    generator = Generator.load(bundle, engine=engine, threads=threads)
    privacy = generator.bundle.lineage.privacy
    started = time.monotonic()
    with (
        TableWriter(sys.stdout if out is None else out) as writer,
        phases(quiet=as_json or out is None) as tell,
    ):
        if length is not None:
            writer.write(generator.sample_series(rows, length, where=wishes, seed=seed))
            acceptance, drawn = None, writer.rows
        else:
            drawing = generator.sample_blocks(rows, where=wishes, seed=seed)
            for block in drawing:
                writer.write(block)
                tell("sampling", writer.rows / max(1, rows))
            acceptance, drawn = drawing.acceptance, drawing.drawn or writer.rows
    seconds = time.monotonic() - started
    if as_json:
        print_json(
            {
                "out": str(out),
                "rows": writer.rows,
                "seconds": seconds,
                "rows_per_s": writer.rows / seconds,
                "seed": seed,
                "drawn": drawn,
                "acceptance": acceptance,
                "bundle_digest": generator.bundle.digest,
                "privacy": privacy,
            }
        )
        return
    if out is not None:
        notes([f"{writer.rows:,} rows in {seconds:.1f} s into {out}"])
    # None rejected is nothing to note, and 1 of 8,192 would read as a single row.
    if acceptance is not None and acceptance < 1.0:
        notes(
            [
                f"{acceptance:.3g} of {drawn:,} rows drawn were accepted; the "
                "others did not meet --where or a constraint of the schema"
            ]
        )
    sequence = generator.schema.sequence
    if length is None and sequence is not None:
        notes(
            [f"a row is a window: {sequence.steps} rows side by side; series: --length 500 or so"]
        )
    if privacy.get("epsilon") is None:
        notes([f"the generator was learnt {WITHOUT_PRIVACY}: these rows may tell about real ones"])
