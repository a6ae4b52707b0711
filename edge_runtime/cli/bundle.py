"""`edge-runtime bundle`: what is inside a packed generator."""

# ruff: noqa: PLC0415 - a verb imports what it needs only, so that --help stays fast

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from edge_runtime.cli.console import facts, print_json, privacy_text, say, table
from edge_runtime.cli.options import existing, json_option

if TYPE_CHECKING:
    from edge_runtime.schema import Column

__all__ = ["bundle"]


@click.group(epilog="\b\nExample:\n  edge-runtime bundle inspect rows.bundle")
def bundle() -> None:
    """Look into packed generators."""


@bundle.command(
    short_help="Verify a bundle and show what is in it.",
    epilog="\b\nExample:\n  edge-runtime bundle inspect rows.bundle --json",
)
@click.argument("file", type=existing())
@click.option("--card", is_flag=True, help="Print the model card (Markdown) instead.")
@json_option
def inspect(*, file: Path, card: bool, as_json: bool) -> None:
    """Verify FILE and show what it generates, where it comes from and what privacy it cost."""
    from edge_runtime.generator import Bundle

    loaded = Bundle.load(file)
    lineage, schema, layout = loaded.lineage, loaded.schema, loaded.layout
    if as_json:
        print_json(
            {
                "file": str(file),
                "bytes": file.stat().st_size,
                "digest": loaded.digest,
                "schema_digest": schema.digest,
                "codec_digest": loaded.codec.digest,
                "schema": msgspec.json.decode(schema.to_json()),
                "cardinalities": loaded.codec.cardinalities,
                "hidden": layout.hidden,
                "parameters": layout.parameters,
                "lineage": lineage,
                "metrics": loaded.metrics,
                "card": loaded.card,
            }
        )
        return
    if card:
        click.echo(loaded.card)
        return
    facts(
        {
            "table": f"{schema.name} ({len(schema.columns)} columns)",
            "privacy": privacy_text(lineage.privacy),
            "learnt from": f"about {lineage.rows:,.0f} real rows on {lineage.devices} device(s), "
            f"round {lineage.round}, {lineage.depth} generation(s) of synthetic rows",
            "parent": lineage.parent or "none",
            "network": f"{layout.hidden} hidden units, {layout.parameters:,} parameters",
            "digest": loaded.digest,
        }
    )
    say("")
    table(
        ("column", "kind", "range or values", "missing", "condition", "#codes"),
        [
            (
                column.name,
                column.kind,
                _range(column),
                "yes" if column.nullable else "",
                "yes" if column.condition else "",
                str(codes),
            )
            for column, codes in zip(schema.columns, loaded.codec.cardinalities, strict=True)
        ],
    )


def _range(column: Column) -> str:
    from edge_runtime.schema import format_timestamp

    if not column.numeric:
        shown = ", ".join(column.labels[:6])
        more = len(column.labels) - 6
        return shown + (f" and {more} more" if more > 0 else "")
    low, high = column.bounds
    if column.kind == "timestamp":
        return f"{format_timestamp(int(low))} .. {format_timestamp(int(high))}"
    return f"{low:g} .. {high:g} {column.unit}".rstrip()
