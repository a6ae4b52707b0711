"""The table at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["print_table"]

#: around a kill, waits are those of a restart
_AROUND_KILL_S = 30.0


def print_table(figures: dict[str, Any]) -> None:
    """Print what a run has found, for people."""
    counts, found = figures["counts"], figures["found"]
    seconds, killed_s = figures["offered_s"], figures["killed_s"]
    waits = [(at, wait) for at, wait in figures["waits"]]
    calm = [
        wait
        for at, wait in waits
        if killed_s is None or not -_AROUND_KILL_S < at - killed_s < _AROUND_KILL_S
    ]
    in_time = sum(at + wait <= seconds for at, wait in waits)
    lines: list[tuple[str, str]] = [
        ("connections", f"{figures['connections']}, made in {figures['connect_s']:.0f} s"),
        ("batch", f"{figures['bytes']} bytes, {figures['rows']} rows"),
        ("asked for", f"{figures['rate']:.0f} batches/s for {seconds:.0f} s"),
        ("offered", f"{counts['offered'] / seconds:.0f} batches/s ({counts['offered']})"),
        ("held back", f"{counts['held_back']} (too many unacknowledged)"),
        (
            "acknowledged",
            f"{in_time / seconds:.0f} batches/s ({counts['acknowledged']} in the end)",
        ),
        ("committed", f"{found['committed']} batches in {found['files']} files"),
        ("sent again", f"{counts['resent']}"),
        ("statuses", ", ".join(f"{k} {v}" for k, v in sorted(figures["statuses"].items()))),
        ("to acknowledgement", _percentiles([wait for _, wait in waits])),
    ]
    if killed_s is not None:
        lines += [
            (f"  {_AROUND_KILL_S:.0f} s off the kill", _percentiles(calm) if calm else "-"),
            ("aggregator killed", f"after {killed_s:.0f} s, kill -9, and started again"),
        ]
    lines += [
        ("lost", str(found["lost"] + figures["never_acknowledged"])),
        ("duplicated", str(found["duplicated"])),
        ("connections lost", str(counts["disconnected"])),
    ]
    done = max(1, counts["acknowledged"])
    for name, cpu_s in figures["cpu"].items():
        lines.append((f"{name}, processor", f"{1000 * cpu_s / done:.2f} ms per batch"))
    both = sum(figures["cpu"].values())
    lines.append(("two idle cores would carry", f"{2 * done / both:.0f} batches/s"))
    for name, memory in figures["memory"].items():
        lines.append((f"{name}, MB over time", _over_time(memory)))
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:<{width}}  {value}")


def _percentiles(values: Sequence[float]) -> str:
    ordered = sorted(values) or [float("nan")]
    at = {p: ordered[min(len(ordered) - 1, int(p * len(ordered)))] for p in (0.5, 0.99)}
    return f"p50 {at[0.5]:.3f} s, p99 {at[0.99]:.3f} s, longest {ordered[-1]:.3f} s"


def _over_time(memory: Sequence[tuple[float, float]]) -> str:
    """Twelve readings, the last included."""
    if not memory:
        return "-"
    step = max(1, len(memory) // 12)
    some = [*memory[:-1:step], memory[-1]]
    return " ".join(f"{at:.0f}s:{mb:.0f}" for at, mb in some)
