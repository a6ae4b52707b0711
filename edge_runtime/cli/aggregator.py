"""`edge-runtime aggregator`: serving a fleet, and what has come of it."""

# ruff: noqa: PLC0415 - a verb imports what it needs only, so that --help stays fast

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from edge_runtime.cli.console import WITHOUT_PRIVACY, facts, print_json, privacy_text, say, table
from edge_runtime.cli.options import existing, json_option

__all__ = ["aggregator", "data_dir_of"]


def data_dir_of(path: Path) -> Path:
    """Return the data directory that a person means: itself, or the one that a config names."""
    if path.is_dir():
        return path
    from edge_runtime.aggregator import load_config

    return load_config(path).data_dir


@click.group(epilog="\b\nExample:\n  edge-runtime aggregator status aggregator.toml")
def aggregator() -> None:
    """Run a fleet's aggregator, or see how far it is."""


@aggregator.command(
    name="run",
    short_help="Serve a fleet until stopped.",
    epilog="\b\nExample:\n  edge-runtime aggregator run --config aggregator.toml",
)
@click.option("--config", type=existing(), required=True, help="The fleet's aggregator.toml.")
def run_aggregator(*, config: Path) -> None:
    """Serve a fleet until stopped (Ctrl-C, SIGTERM).

    Start it again to carry on: everything acknowledged is in the data directory, and a directory
    of an earlier version is brought up to date.
    """
    from edge_runtime.aggregator import load_config, run
    from edge_runtime.process import log_to_stderr

    settings = load_config(config)
    log_to_stderr(settings.log_level, subject="threadName")
    run(settings)


@aggregator.command(epilog="\b\nExample:\n  edge-runtime aggregator status aggregator.toml --json")
@click.argument("where", type=existing(either=True))
@json_option
def status(*, where: Path, as_json: bool) -> None:
    """Show rounds, devices, the generator in force and alarms.

    WHERE is aggregator.toml or its data directory. No broker is needed, and a running aggregator
    is not disturbed.
    """
    from edge_runtime.aggregator import status as collect

    found = collect(data_dir_of(where))
    if as_json:
        print_json(found)
        return
    bundle, totals = found["bundle"], found["totals"]
    facts(
        {
            "fleet": found["fleet"],
            "phase": _phase(found["phase"], found["round"], found["planned"]),
            "privacy": privacy_text(found["privacy"]) if found["private"] else WITHOUT_PRIVACY,
            "accepted": f"{totals['rows']:,} synthetic rows in {totals['batches']:,} batches, "
            f"{totals['summaries']:,} summaries, {_size(totals['bytes'])}",
            "quarantined": f"{totals['quarantined']:,}",
            "generator": f"{bundle['digest'][:12]}, {_origin(bundle['round'], found['rounds'])}"
            if bundle
            else "none yet",
            "alarms": _count_alarms(found["alarms"]),
            "updates": "signed" if found["signed"] else "NOT signed (docs/updates.md)",
        }
        | _rollout(found)
    )
    if found["alarms"]:
        say("")
        for alarm in found["alarms"]:
            since = f"since round {alarm['since_round']}"
            say(f"{alarm['severity']}: {alarm['kind']}, {alarm['subject']}, {since}")
            say(f"  {alarm['text']}")
    if found["rounds"]:
        say("")
        table(
            ("#round", "kind", "state", "started", "#seconds", "outcome"),
            [_round(entry) for entry in found["rounds"]],
        )
    if found["devices"]:
        say("")
        table(
            ("device", "state", "#rows", "#kB up", "#epsilon", "seen", "reason"),
            [_device(name, entry) for name, entry in found["devices"].items()],
        )


@aggregator.command(
    short_help="Copy the data directory, while the aggregator runs or not.",
    epilog="\b\nExample:\n  edge-runtime aggregator backup aggregator.toml --to /backup/clinics",
)
@click.argument("where", type=existing(either=True))
@click.option(
    "--to", type=click.Path(path_type=Path, file_okay=False), required=True,
    help="A new directory, or an earlier backup to bring up to date.",
)  # fmt: skip
def backup(*, where: Path, to: Path) -> None:
    """Copy catalogue, pool, summaries, generators and quarantine as they are at one moment.

    WHERE is aggregator.toml or its data directory. Whatever was acknowledged before is in the
    copy. To restore, stop the aggregator and copy the backup to where its data directory was.
    """
    from edge_runtime.aggregator.backup import back_up

    made = back_up(data_dir_of(where), to)
    say(
        f"{made.path}: {made.files:,} files, {_size(made.size_bytes)}; "
        f"{made.files - made.kept:,} of them new"
    )


def _rollout(found: dict[str, Any]) -> dict[str, str]:
    if found.get("rollout", 1.0) == 1.0:
        return {}
    stopped = found["rounds"][-1]["reason"] if found["rollout_stopped"] else ""
    return {"rollout": stopped or f"{found['rollout']:.2g} of the fleet so far"}


def _count_alarms(alarms: list[dict[str, Any]]) -> str:
    counts = [
        f"{sum(a['severity'] == severity for a in alarms)} {severity}"
        for severity in ("critical", "warning", "notice")
    ]
    return ", ".join(c for c in counts if not c.startswith("0 ")) or "none"


def _phase(phase: str, number: int, planned: int) -> str:
    """Say what is going on; round 0 is the census."""
    match phase:
        case "waiting":
            return "waiting for devices"
        case "census":
            return f"collecting the census; {planned} rounds follow"
        case "fusing" if number == 0:
            return f"making the first generator from the census; {planned} rounds follow"
    word = {"round": "collecting"}.get(phase, phase)
    return f"{word}, round {number} of {planned}"


def _origin(number: int, rounds: list[dict[str, Any]]) -> str:
    if any(entry["kind"] == "sample" for entry in rounds):
        return "a packed graph"
    return f"from round {number}" if number else "from the census"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:,.0f} kB"


def _time(moment: datetime) -> str:
    """Write a moment in local time, to the second."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _round(entry: dict[str, Any]) -> tuple[str, ...]:
    started, ended = entry["started_unix_s"], entry["ended_unix_s"]
    return (
        str(entry["round"]),
        entry["kind"],
        entry["status"],
        _time(datetime.fromtimestamp(started, UTC)),
        f"{ended - started:,.0f}" if ended else "",
        entry["reason"] or "",
    )


def _device(name: str, entry: dict[str, Any]) -> tuple[str, ...]:
    accepted = entry.get("accepted") or {}
    seen = entry.get("seen_at")
    return (
        name,
        entry["status"],
        f"{accepted.get('rows', 0):,}",
        f"{entry.get('bytes_up', accepted.get('bytes', 0)) / 1e3:,.0f}",
        _epsilon(entry, accepted),
        _time(datetime.fromisoformat(seen)) if seen else "",
        "; ".join(
            text for key in ("flood", "throttled", "refused", "reason") if (text := entry.get(key))
        ),
    )


def _epsilon(entry: dict[str, Any], accepted: dict[str, Any]) -> str:
    """Return what the device says, else what its messages state; empty where neither is known."""
    if not entry.get("private", True):
        return "infinite"
    said = entry.get("epsilon_spent")
    epsilon = accepted.get("epsilon") if said is None else said
    return "" if epsilon is None else f"{epsilon:.3g}"
