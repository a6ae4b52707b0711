"""`edge-runtime demo`: a whole fleet on real data, on this machine, from one command."""

from __future__ import annotations

import math
from pathlib import Path

import click

__all__ = ["demo"]

_MAX_ROUNDS = 20


def _epsilon(_context: click.Context, _option: click.Parameter, value: str) -> float | None:
    """Read a positive number, or ``none`` for a run without privacy."""
    if value.strip().lower() == "none":
        return None
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise click.BadParameter(f"{value!r} is neither a positive number nor 'none'")
    return number


@click.command(
    epilog="Example: edge-runtime demo --epsilon 4 --devices 6 --out my-first-fleet",
)
@click.option(
    "--epsilon", callback=_epsilon, metavar="NUMBER|none", default="8", show_default=True,
    help="Privacy budget of a row over the whole run; 'none' runs WITHOUT PRIVACY.",
)  # fmt: skip
@click.option(
    "--rounds", metavar="N", type=click.IntRange(1, _MAX_ROUNDS), default=2, show_default=True,
    help="Training rounds after the census.",
)  # fmt: skip
@click.option(
    "--devices", metavar="N", type=click.IntRange(min=1), default=None,
    help="Only the largest carriers.  [default: all with at least 500 rows]",
)  # fmt: skip
@click.option(
    "--seed", metavar="N", type=click.IntRange(min=0), default=0, show_default=True,
    help="Of the held-out rows and of public sampling; privacy noise has none.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("demo-output"), show_default=True,
    help="Everything is written here; an earlier demo's output is replaced.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the report's figures as JSON.")
def demo(
    *, epsilon: float | None, rounds: int, devices: int | None, seed: int, out: Path, as_json: bool
) -> None:
    """Run a whole fleet on real data and judge what it learnt.

    Flights that left New York in 2013: one device per carrier, each a process of its own that
    sees only its own carrier's flights; a real MQTT broker; an aggregator. After a noisy census
    and the training rounds, the release is compared with real rows that were held out. Takes
    about three minutes on two cores, and 1.5 GB of memory.
    """
    from edge_runtime.fleet.outcome import run_and_show  # noqa: PLC0415 - heavy, for this verb only

    code = run_and_show(
        out=out, epsilon=epsilon, rounds=rounds, devices=devices, seed=seed, as_json=as_json
    )
    if code:
        raise SystemExit(code)
