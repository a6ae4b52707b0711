"""`edge-runtime device`: the agent on a board."""

# ruff: noqa: PLC0415 - the agent sets its threads up before numpy may be imported

from __future__ import annotations

from pathlib import Path

import click

from edge_runtime.cli.options import existing

__all__ = ["device"]


@click.group(epilog="\b\nExample:\n  edge-runtime device run --config device.toml")
def device() -> None:
    """Run a device of a fleet."""


@device.command(
    short_help="Print the memory and CPU limits for systemd.",
    epilog="\b\nExample:\n  edge-runtime device limits --config device.toml",
)
@click.option("--config", type=existing(), required=True, help="The device's device.toml.")
@click.option(
    "--properties", is_flag=True, help="For `systemctl set-property`: the bare lines, no section."
)
def limits(*, config: Path, properties: bool) -> None:
    """Print limits.memory_bytes and limits.cpu_percent as a drop-in file for a unit.

    systemd holds the service to them; the agent slows down before it comes to that.
    """
    from edge_runtime.device import load_config, unit_limits

    found = load_config(config).limits
    if properties:
        for line in unit_limits.properties(found):
            click.echo(line)
    else:
        click.echo(unit_limits.drop_in(found), nl=False)


@device.command(
    name="run",
    short_help="Learn from local rows, publish private synthetic ones.",
    epilog="\b\nExample:\n  edge-runtime device run --config device.toml",
)
@click.option("--config", type=existing(), required=True, help="The device's device.toml.")
def run_device(*, config: Path) -> int:
    """Learn from local rows and publish private synthetic ones until stopped (Ctrl-C, SIGTERM).

    The same as `python -m edge_runtime.device`, which a board without this command line runs.
    """
    from edge_runtime.device.__main__ import main

    return main(["--config", str(config)])
