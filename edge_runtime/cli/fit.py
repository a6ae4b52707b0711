"""`edge-runtime fit`: a generator from one table."""

# ruff: noqa: PLC0415 - a verb imports what it needs only, so that --help stays fast

from __future__ import annotations

import shlex
import time
from pathlib import Path

import click

from edge_runtime.cli.console import facts, notes, phases, print_json, privacy_text, say
from edge_runtime.cli.options import FILE, existing, json_option, read_epsilon, seed_option

__all__ = ["fit"]


@click.command(
    short_help="Learn a generator from one table.",
    epilog="\b\nExample:\n"
    "  edge-runtime fit rows.csv --schema schema.json --epsilon 4 --out rows.bundle",
)
@click.argument("data", type=existing())
@click.option("--out", type=FILE, required=True, help="The bundle to write.")
@click.option(
    "--schema", "schema_path", type=existing(),
    help="Declaration of the table; read off the rows when absent (not with --epsilon).",
)  # fmt: skip
@click.option(
    "--epsilon", callback=read_epsilon, metavar="NUMBER|none", default="none", show_default=True,
    help="Privacy budget of a row; 'none' learns WITHOUT PRIVACY.",
)  # fmt: skip
@click.option(
    "--delta", metavar="NUMBER", type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=1e-5, show_default=True, help="Probability part of the guarantee; well below 1/rows.",
)  # fmt: skip
@click.option(
    "--hidden", metavar="N", type=click.IntRange(8, 1024), default=128, show_default=True,
    help="Units per hidden layer; 256 for many related sensors.",
)  # fmt: skip
@click.option(
    "--epochs", metavar="N", type=click.IntRange(min=1), default=30, show_default=True,
    help="Passes over the rows at most.",
)  # fmt: skip
@click.option(
    "--tflite", is_flag=True,
    help="Put the sampler in as a .tflite file too, for the tflite engine.",
)  # fmt: skip
@seed_option
@json_option
def fit(
    *,
    data: Path,
    out: Path,
    schema_path: Path | None,
    epsilon: float | None,
    delta: float,
    hidden: int,
    epochs: int,
    tflite: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Learn a generator from the table in DATA (.csv, .csv.gz or .parquet)."""
    from edge_runtime.api import Generator
    from edge_runtime.schema import Schema

    schema = None if schema_path is None else Schema.load(schema_path)
    started = time.monotonic()
    with phases(quiet=as_json) as tell:
        generator = Generator.fit(
            data,
            schema,
            epsilon=epsilon,
            delta=delta,
            hidden=hidden,
            epochs=epochs,
            seed=seed,
            tflite=tflite,
            on_progress=tell,
        )
        generator.save(out)
    seconds = time.monotonic() - started
    bundle = generator.bundle
    if as_json:
        print_json(
            {
                "bundle": str(out),
                "bytes": out.stat().st_size,
                "digest": bundle.digest,
                "schema_digest": bundle.schema.digest,
                "rows": round(bundle.lineage.rows),
                "columns": list(bundle.schema.names),
                "parameters": bundle.layout.parameters,
                "privacy": bundle.lineage.privacy,
                "metrics": bundle.metrics,
                "seconds": seconds,
            }
        )
        return
    if schema is None:
        notes(
            ["the schema was read off the rows; to decide it yourself: "
             f"edge-runtime schema infer {shlex.quote(str(data))}"]
        )  # fmt: skip
    series = bundle.schema.sequence is not None
    facts(
        {
            "learnt from": f"{bundle.lineage.rows:,.0f} {'windows' if series else 'rows'} x "
            f"{len(bundle.schema.columns)} columns in {seconds:.0f} s",
            "privacy": privacy_text(bundle.lineage.privacy),
            "bundle": f"{out} ({out.stat().st_size / 1e3:,.0f} kB)",
        }
    )
    fresh, asked = ("series", "--rows 100 --length 500") if series else ("rows", "--rows 1000")
    say(f"\nfresh {fresh}: edge-runtime sample {shlex.quote(str(out))} {asked} --out fresh.csv")
