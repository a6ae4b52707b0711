"""`edge-runtime import`: generators of other projects as bundles."""

# ruff: noqa: PLC0415 - a verb imports what it needs only, so that --help stays fast

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_runtime.cli.console import facts, notes, print_json, privacy_text, working
from edge_runtime.cli.options import FILE, existing, json_option

if TYPE_CHECKING:
    from edge_runtime.importing.sdv import Names

__all__ = ["import_"]


@click.group(
    "import", epilog="\b\nExample:\n  edge-runtime import sdv ctgan.pkl --out ctgan.bundle"
)
def import_() -> None:
    """Turn generators of other projects into bundles."""


@import_.command(
    short_help="Make a bundle of SDV's CTGAN or TVAE.",
    epilog="\b\nExample:\n  edge-runtime import sdv ctgan.pkl --out ctgan.bundle",
)
@click.argument("model", type=existing())
@click.option("--out", type=FILE, required=True, help="The bundle to write.")
@click.option("--yes", is_flag=True, help="Do not ask: you know who made MODEL.")
@json_option
def sdv(*, model: Path, out: Path, yes: bool, as_json: bool) -> None:
    """Make a bundle of MODEL, a CTGAN or TVAE synthesizer that SDV 2 saved.

    Reading it RUNS CODE: a pickle does whatever its maker wanted. Needs SDV and torch
    (pip install 'edge-runtime[sdv]'); the bundle needs neither.
    """
    from edge_runtime.importing.sdv import check_model, import_checked

    data = model.read_bytes()
    _warn(model, data, check_model(data, file=model))
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("there is no terminal to ask on; say --yes to read it")
        click.confirm("Read it?", abort=True, err=True)
    with working("unpickling, converting and trying it ...", quiet=as_json):
        made = import_checked(data, file=model)
    made.save(out)
    found = made.metrics["import"]
    left_out = found.get("left_out", {})
    if as_json:
        print_json({"bundle": str(out), "digest": made.digest, **made.metrics})
        return
    notes(f"column {name!r} is left out: {why}" for name, why in left_out.items())
    learnt = f", fitted on {found['rows']:,} rows" if "rows" in found else ""
    facts(
        {
            "model": f"{found['model']} of SDV {found.get('sdv_version', '')}{learnt}",
            "table": f"{made.schema.name} ({len(made.schema.columns)} columns)",
            "int8": f"network within {found['worst_error']:.2g}, "
            f"{found['changed_codes']:.1%} of the codes change from the same noise",
            "trial": f"{made.metrics['trial']['thousand_rows_per_s']:.0f} thousand rows/s",
            "privacy": f"{privacy_text(None)}: SDV gives none",
            "bundle": f"{out} ({out.stat().st_size / 1e3:,.0f} kB, was {len(data) / 1e3:,.0f} kB)",
        }
    )


def _warn(model: Path, data: bytes, names: Names) -> None:
    """Say what is about to happen, on standard error and before it does."""
    lines = [
        "WARNING: reading a pickle runs code that its maker chose.",
        f"  file    {model.resolve()} ({len(data) / 1e3:,.0f} kB)",
        f"  sha256  {hashlib.sha256(data).hexdigest()}",
        f"  says    it is a {names.first}; it names {names.different} classes and functions",
    ]
    if names.unexpected:
        lines.append(f"  ODD     no synthesizer needs {', '.join(names.unexpected)}")
    lines += [
        "The code runs in a process of its own, but with your rights: it can read and change your",
        "files and use the network. Go on only if you or somebody you trust has made this file.",
    ]
    for line in lines:
        click.echo(line, err=True)
