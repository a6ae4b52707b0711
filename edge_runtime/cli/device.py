"""`edge-runtime device`: the agent on a board."""

# ruff: noqa: PLC0415 - the agent sets its threads up before numpy may be imported

from __future__ import annotations

from pathlib import Path

import click

from edge_runtime.cli.options import FILE, existing, json_option

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


@device.command(
    short_help="Show everything that this device ever released, and what it cost.",
    epilog="\b\nExample:\n  edge-runtime device ledger --config device.toml",
)
@click.option("--config", type=existing(), required=True, help="The device's device.toml.")
@json_option
def ledger(*, config: Path, as_json: bool) -> None:
    """Show every release in order: its plan, its noise, what it cost, and what became of it.

    Epsilon is that of one row (or what the schema has in its place) over all releases so far. No
    real row and no count of rows is shown. A running agent is not disturbed.
    """
    import msgspec

    from edge_runtime.device import load_config
    from edge_runtime.device.account import read_account

    found = read_account(load_config(config))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=1).decode())
        return
    click.echo(f"device {found.device} of fleet {found.fleet}, epsilon per {found.unit} at delta "
               f"{found.delta:g}")  # fmt: skip
    rows = [("#", "round", "plan", "what", "epsilon", "after", "state", "how")]
    for release in found.releases:
        rows.append(
            (
                str(release.number or ""),
                "" if release.round is None else str(release.round),
                release.plan or "not kept",
                release.what,
                "infinite" if release.epsilon is None else f"{release.epsilon:.3g}",
                _number(release.epsilon_after, free=not release.number),
                release.state,
                release.mechanism,
            )
        )
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
    if not found.private:
        click.echo("spent: infinite, WITHOUT PRIVACY")
    elif found.epsilon_limit is None:
        click.echo(f"spent: {found.epsilon_spent:.4g}; this device has no limit")
    else:
        click.echo(
            f"spent: {found.epsilon_spent:.4g} of {found.epsilon_limit:g}, "
            f"left: {found.epsilon_left:.4g}"
        )


def _number(epsilon: float | None, *, free: bool) -> str:
    return "" if free else "infinite" if epsilon is None else f"{epsilon:.3g}"
