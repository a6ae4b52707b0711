"""`edge-runtime doctor`: whether this machine can run what is installed, and what to do if not."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from edge_runtime.cli.options import existing

__all__ = ["doctor"]


@click.command(
    short_help="Check this machine, or a device on it.",
    epilog="\b\nExample:\n  edge-runtime doctor --config device.toml",
)
@click.option("--config", type=existing(), help="A device.toml: check this device as well.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(config: Path | None, as_json: bool) -> None:
    """Check this machine: Python, the kernel and its instruction set, engines, the clock.

    With --config also what the device needs: a state directory it may write to, disk, memory,
    temperature, its source, certificates, and a broker that lets it in. Run it as the device's
    own user. Nothing is changed, and a running agent is not disturbed.

    Exit codes: 0 no problem, 1 a problem (each comes with its fix), 2 a mistake in the arguments
    or the configuration.
    """
    from edge_runtime.device.doctor import examine  # noqa: PLC0415 - --help stays fast

    if config is None:
        found = examine()
    else:
        # Brings the kernel; without a device one that fails is a finding like any other.
        from edge_runtime.device import load_config  # noqa: PLC0415

        found = examine(load_config(config))
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in found], indent=2))
    else:
        width = max(len(finding.check) for finding in found)
        for finding in found:
            click.echo(
                f"{'PROBLEM' if finding.problem else 'ok':8}"
                f"{finding.check:{width}}  {finding.found}"
            )
            if finding.problem:
                click.echo(f"{'':8}{'':{width}}  {finding.problem}")
                click.echo(f"{'':8}{'':{width}}  fix: {finding.fix}")
    if any(finding.problem for finding in found):
        raise SystemExit(1)
