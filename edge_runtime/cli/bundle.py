"""`edge-runtime bundle`: look into packed generators, compare them, take them apart, make one."""

# ruff: noqa: PLC0415 - a verb imports what it needs only, so that --help stays fast

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
import msgspec

from edge_runtime.cli.console import facts, print_json, privacy_text, say, table
from edge_runtime.cli.options import FILE, existing, json_option, read_epsilon
from edge_runtime.errors import BundleError

if TYPE_CHECKING:
    from edge_runtime.generator import Bundle, GraphBundle
    from edge_runtime.schema import Column

__all__ = ["bundle"]


#: Characters shown of a value that changed.
_SHOWN = 40


def _optional_epsilon(
    context: click.Context, option: click.Parameter, value: str | None
) -> dict[str, float | None]:
    """Read an epsilon that may be left out: then nothing is said of privacy."""
    return {} if value is None else {"epsilon": read_epsilon(context, option, value)}


@click.group(epilog="\b\nExample:\n  edge-runtime bundle inspect rows.bundle")
def bundle() -> None:
    """Inspect, compare, export and pack generators."""


@bundle.command(
    short_help="Verify a bundle and show what is in it.",
    epilog="\b\nExample:\n  edge-runtime bundle inspect rows.bundle --json",
)
@click.argument("file", type=existing())
@click.option("--card", is_flag=True, help="Print the model card (Markdown) instead.")
@json_option
def inspect(*, file: Path, card: bool, as_json: bool) -> None:
    """Verify FILE and show what it generates, where it comes from and what privacy it cost."""
    from edge_runtime.generator import GraphBundle, load_bundle

    loaded = load_bundle(file)
    lineage, schema = loaded.lineage, loaded.schema
    packed = isinstance(loaded, GraphBundle)
    if card:
        click.echo(loaded.card)
        return
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
                **_network(loaded),
                "lineage": lineage,
                "metrics": loaded.metrics,
                "card": loaded.card,
            }
        )
        return
    network = (
        f"{loaded.runtime} graph of {len(loaded.graph) / 1e3:,.0f} kB made elsewhere, gives "
        f"{loaded.output}"
        if isinstance(loaded, GraphBundle)
        else f"{loaded.layout.hidden} hidden units, {loaded.layout.parameters:,} parameters, "
        f"int8 within {loaded.quantised.worst_error:.2g} nats"
        + ("" if loaded.tflite is None else ", .tflite file")
    )
    learnt = (
        f"about {lineage.rows:,.0f} real rows on {lineage.devices} device(s), "
        f"round {lineage.round}, {lineage.depth} generation(s) of synthetic rows"
    )
    facts(
        {
            "table": f"{schema.name} ({len(schema.columns)} columns)",
            "privacy": privacy_text(lineage.privacy or None),
            "learnt from": "not stated" if packed and not lineage.rows else learnt,
            "parent": lineage.parent or "none",
            "network": network,
            "size": f"{file.stat().st_size / 1e3:,.0f} kB",
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


def _network(bundle: Bundle | GraphBundle) -> dict[str, object]:
    from edge_runtime.generator import GraphBundle

    if isinstance(bundle, GraphBundle):
        return {
            "kind": "graph",
            "runtime": bundle.runtime,
            "output": bundle.output,
            "noise": bundle.noise,
        }
    return {
        "kind": "network",
        "hidden": bundle.layout.hidden,
        "parameters": bundle.layout.parameters,
        "worst_error": bundle.quantised.worst_error,
        "tflite": bundle.tflite is not None,
    }


@bundle.command(
    short_help="Check a bundle byte by byte and in every engine.",
    epilog="\b\nExample:\n  edge-runtime bundle verify rows.bundle",
)
@click.argument("file", type=existing())
@json_option
def verify(*, file: Path, as_json: bool) -> None:
    """Check FILE byte by byte, and run it in every engine that is installed here."""
    from edge_runtime.generator import load_bundle, verify_bundle

    loaded = load_bundle(file)
    checks = verify_bundle(loaded)
    wrong = [check for check in checks if not check.fine]
    if as_json:
        print_json(
            {
                "digest": loaded.digest,
                "fine": not wrong,
                "checks": [check._asdict() for check in checks],
            }
        )
    else:
        rows = [("members", "fine", "sizes, digests, shapes and ranges")]
        rows += [(c.name, "fine" if c.fine else "WRONG", c.found) for c in checks]
        table(("check", "", "found"), rows)
    if wrong:
        raise BundleError(f"{file}: {', '.join(check.name for check in wrong)} failed")


@bundle.command(
    short_help="Show how one bundle differs from another.",
    epilog="\b\nExample:\n  edge-runtime bundle diff before.bundle after.bundle",
)
@click.argument("old", type=existing())
@click.argument("new", type=existing())
@json_option
def diff(*, old: Path, new: Path, as_json: bool) -> None:
    """Show how NEW differs from OLD: columns, lineage, weights, and the rows that they draw."""
    from edge_runtime.generator import diff_bundles, load_bundle

    found = diff_bundles(load_bundle(old), load_bundle(new))
    if as_json:
        print_json(found)
        return
    if not found:
        say("the same bundle, byte for byte")
        return
    rows = []
    for name, change in found.items():
        parts = change.items() if isinstance(change, dict) else [("", change)]
        rows += [(name, part, *_change(value)) for part, value in parts]
    table(("what", "", "before", "after"), rows)


def _change(value: object) -> tuple[str, str]:
    """Two cells: before and after, or one figure of the difference."""
    if isinstance(value, list):
        before, after = (_short(side) for side in value)
        return before, after
    if isinstance(value, dict):
        return "", ", ".join(f"{key} {_short(figure)}" for key, figure in value.items())
    return "", _short(value)


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = "none" if value is None else str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


@bundle.command(
    short_help="Write a bundle's members as files.",
    epilog="\b\nExample:\n  edge-runtime bundle export rows.bundle --to rows",
)
@click.argument("file", type=existing())
@click.option(
    "--to", "folder", type=click.Path(path_type=Path, file_okay=False), required=True,
    help="A folder; made where missing.",
)  # fmt: skip
@click.option("--tflite", is_flag=True, help="Make the .tflite file where FILE has none.")
def export(*, file: Path, folder: Path, tflite: bool) -> None:
    """Verify FILE and write its members as files, each of which runs or reads on its own."""
    import dataclasses

    from edge_runtime.generator import Bundle, build_tflite, load_bundle

    loaded = load_bundle(file)
    if tflite and isinstance(loaded, Bundle) and loaded.tflite is None:
        graph = build_tflite(loaded.quantised.tensors, loaded.layout)
        loaded = dataclasses.replace(loaded, tflite=graph)
    folder.mkdir(parents=True, exist_ok=True)
    members = loaded.members()
    for name, data in members.items():
        (folder / name).write_bytes(data)
    table(
        ("file", "#bytes"),
        [(str(folder / name), f"{len(data):,}") for name, data in members.items()],
    )


@bundle.command(
    short_help="Make a bundle of a generator of your own.",
    epilog="\b\nExample:\n"
    "  edge-runtime bundle pack vae.onnx --like rows.bundle --noise normal:16 --out vae.bundle",
)
@click.argument("graph", type=existing())
@click.option("--out", type=FILE, required=True, help="The bundle to write.")
@click.option("--like", type=existing(), help="A bundle whose schema and codec the graph has.")
@click.option("--codec", "codec_path", type=existing(), help="The graph's codec (codec.json).")
@click.option(
    "--noise", metavar="KIND:WIDTH,...",
    help="Its noise, where its metadata does not say: uniform or normal segments, in order.",
)  # fmt: skip
@click.option(
    "--output", type=click.Choice(["codes", "logits"]),
    help="What it gives; by its type when absent.",
)  # fmt: skip
@click.option(
    "--epsilon", callback=_optional_epsilon, metavar="NUMBER|none",
    help="What learning it cost per row ('none': WITHOUT PRIVACY); not stated when absent.",
)  # fmt: skip
@click.option(
    "--delta", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=1e-5,
    show_default=True, help="Probability part of that statement.",
)  # fmt: skip
@click.option("--card", "card_path", type=existing(), help="A model card (Markdown) of your own.")
@click.option("--about", default="", help="What the graph is, for the card that is written else.")
@json_option
def pack(
    *,
    graph: Path,
    out: Path,
    like: Path | None,
    codec_path: Path | None,
    noise: str | None,
    output: Literal["codes", "logits"] | None,
    epsilon: Mapping[str, float | None],
    delta: float,
    card_path: Path | None,
    about: str,
    as_json: bool,
) -> None:
    """Make a bundle of GRAPH, an ONNX or .tflite generator of your own, after running it.

    The graph takes noise float32 [B, N] and gives codes int32 [B, D] or logits float32 [B, V].
    """
    from edge_runtime.generator import Lineage, load_bundle, pack_graph, parse_noise
    from edge_runtime.schema import Codec

    if (like is None) == (codec_path is None):
        raise click.UsageError("say what the codes mean: either --like BUNDLE or --codec FILE")
    codec = (
        load_bundle(like).codec
        if like is not None
        else Codec.from_json((codec_path or Path()).read_bytes())
    )
    privacy = {**epsilon, "delta": delta, "unit": codec.schema.privacy_unit} if epsilon else {}
    made = pack_graph(
        graph.read_bytes(),
        codec,
        noise=None if noise is None else parse_noise(noise),
        output=output,
        lineage=Lineage(parent=None, depth=0, round=0, devices=0, rows=0.0, privacy=privacy),
        card=None if card_path is None else card_path.read_text(encoding="utf-8"),
        about=about,
    )
    made.save(out)
    trial = made.metrics["trial"]
    if as_json:
        print_json({"bundle": str(out), "digest": made.digest, **_network(made), "trial": trial})
        return
    facts(
        {
            "graph": f"{made.runtime}, gives {made.output}",
            "noise": ", ".join(f"{part.width} {part.kind}" for part in made.noise),
            "trial": f"{trial['distinct']} different rows among {trial['rows']}, "
            f"{trial['thousand_rows_per_s']:.0f} thousand rows/s",
            "privacy": privacy_text(made.lineage.privacy or None),
            "bundle": f"{out} ({out.stat().st_size / 1e3:,.0f} kB)",
        }
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
