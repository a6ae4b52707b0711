"""`edge-runtime device`: the agent on a board."""

# ruff: noqa: PLC0415 - the agent sets its threads up before numpy may be imported

from __future__ import annotations

from pathlib import Path

import click

from edge_runtime.cli.options import FILE, existing

__all__ = ["device"]


@click.group(epilog="\b\nExample:\n  edge-runtime device run --config device.toml")
def device() -> None:
    """Enrol this board in a fleet, and run it as a device."""


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


@device.command(
    short_help="Give this board its identity, from a provisioning file.",
    epilog="\b\nExample:\n  edge-runtime device enrol --from /boot/firmware/edge-runtime.toml",
)
@click.option("--from", "source", type=existing(), required=True, help="The file of `fleet token`.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/var/lib/edge-runtime"),
    show_default=True,
    help="The device's state directory.",
)
@click.option(
    "--config",
    type=FILE,
    default=Path("/etc/edge-runtime/device.toml"),
    show_default=True,
    help="The device.toml to write.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    help="Seconds to wait for network, broker and authority.",
)
def enrol(*, source: Path, state: Path, config: Path, timeout_s: float) -> None:
    """Make a key, have it certified, write device.toml, and wipe the token.

    Cut off at any point, it carries on when it is called again; called again after that, it does
    nothing.
    """
    import logging

    from edge_runtime.device.enrol import enrol as run

    logging.basicConfig(level="INFO", format="%(levelname)s %(message)s")
    done = run(source=source, state_dir=state, config=config, timeout_s=timeout_s)
    said = "is enrolled in" if done.fresh else "was enrolled already in"
    click.echo(f"{done.device} {said} fleet {done.fleet}")
