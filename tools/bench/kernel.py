"""Print nanoseconds per number of the kernel on each instruction set, beside its peers.

    python tools/bench/kernel.py [--runs 9] [--only decode] [--json]

One thread, CPU time. Each run measures every column of a row once before the next run starts, so
that a busy moment of the machine hits all of them; shown are the median and, in brackets, half the
distance between the quartiles. Every call works on 65,536 rows, which fit the second cache: page
faults of temporaries, which would flatter the kernel, do not count. `x numpy` is numpy's median
divided by the kernel's, for each instruction set.

Peers: numpy with its fastest generator (SFC64) and arrays allocated before; randomgen and
mkl_random where they are installed (`pip install 'edge-runtime[bench-kernel]'`).
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from kernel_cases import Case, cases

from edge_runtime import kernel

CALLS_S = 0.004  # a measurement repeats the call until it takes this long


def repeats(work: Callable[[], object]) -> int:
    """How many calls make a measurement that the clock can tell."""
    work()
    start = time.thread_time_ns()
    work()
    return max(1, int(CALLS_S * 1e9 / max(1, time.thread_time_ns() - start)))


def measure(work: Callable[[], object], calls: int, numbers: int) -> float:
    """One measurement, in ns per number."""
    start = time.thread_time_ns()
    for _ in range(calls):
        work()
    return (time.thread_time_ns() - start) / calls / numbers


def run(case: Case, isas: Sequence[str], runs: int) -> dict[str, list[float]]:
    """All times of one row of the table, by column."""
    columns: dict[str, tuple[str | None, Callable[[], object]]] = {
        isa: (isa, case.ours) for isa in isas
    }
    columns |= {name: (None, work) for name, work in case.peers.items()}
    calls, times = {}, {name: [] for name in columns}
    for name, (isa, work) in columns.items():
        kernel.select_isa(isa)
        calls[name] = repeats(work)
    for _ in range(runs):
        for name, (isa, work) in columns.items():
            kernel.select_isa(isa)
            times[name].append(measure(work, calls[name], case.numbers))
    kernel.select_isa(None)
    return times


def shown(times: list[float]) -> str:
    """Median and half the distance between the quartiles."""
    low, middle, high = statistics.quantiles(times, n=4)
    digits = 2 if middle < 100 else 0
    return f"{middle:.{digits}f} ({(high - low) / 2:.{digits}f})"


def versions() -> str:
    """Machine and packages, for the line above the table."""
    found = []
    for name in ("numpy", "randomgen", "mkl_random"):
        try:
            found.append(f"{name} {importlib.import_module(name).__version__}")
        except ImportError:
            found.append(f"no {name}")
    return f"{platform.machine()}, Python {platform.python_version()}, {', '.join(found)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table as Markdown, or every time as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    isas = kernel.available_isas()
    results = {
        case.name: run(case, isas, max(2, options.runs))
        for case in cases()
        if options.only in case.name
    }
    if options.json:
        print(json.dumps({"versions": versions(), "ns": results}, indent=1))
        return
    peers = ("numpy", "randomgen", "mkl_random")
    print(f"{versions()}; median (half the quartile distance) of {options.runs} runs, ns\n")
    print(f"| | {' | '.join(isas)} | {' | '.join(peers)} | x numpy |")
    print(f"| --- {'| --- ' * (len(isas) + len(peers) + 1)}|")
    for name, times in results.items():
        ratios = "-"
        if "numpy" in times:
            medians = [statistics.median(times[isa]) for isa in isas]
            ratios = ", ".join(f"{statistics.median(times['numpy']) / ns:.1f}" for ns in medians)
        cells = [shown(times[column]) if column in times else "-" for column in (*isas, *peers)]
        print(f"| {name} | {' | '.join(cells)} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
