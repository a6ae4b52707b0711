"""`edge-runtime diag`: one archive for whoever helps from afar."""

from __future__ import annotations

from pathlib import Path

import click

from edge_runtime.cli.options import FILE, existing

__all__ = ["diag"]


@click.command(
    short_help="Pack what helps to find a fault, without any row.",
    epilog="\b\nExample:\n  edge-runtime diag --config device.toml --out diag.tar.gz",
)
@click.option("--config", type=existing(), required=True, help="The device's device.toml.")
@click.option("--out", type=FILE, required=True, help="The .tar.gz to write, for its owner alone.")
@click.option(
    "--unit", default="edge-runtime-device", show_default=True, help="Whose journal is packed."
)
def diag(config: Path, out: Path, unit: str) -> None:
    """Pack configuration without secrets, versions, the doctor's findings, state, ledger, journal.

    No real row is in it, no exact count of rows, no password and no key. Run it as the device's
    own user, or as root for the journal.
    """
    from edge_runtime.device import load_config  # noqa: PLC0415 - --help stays fast
    from edge_runtime.device.diag import write_diag  # noqa: PLC0415

    names = write_diag(load_config(config), out, unit=unit)
    click.echo(f"{out}: {', '.join(names)}")
