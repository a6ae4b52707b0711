"""Rows per second from a generator into Arrow columns on one core, for every engine.

    OMP_NUM_THREADS=1 python tools/bench/generation.py [--columns 14 100] [--hidden 128 256]

The table mixes kinds: two of seven columns each are numbers and categories, one each integers,
booleans and timestamps; 18 codes a column, 2 a boolean. The weights are not trained, which changes
no time. For the kernel engine every instruction set of this processor is forced in turn, and the
time of the fastest is split: noise, noise and network, and with decoding. The runs of all settings
are interleaved; best (median), because other work on the machine only ever slows one down.

Then, for each engine, processes of their own that load a bundle, draw 10,000 rows and end: time
from the start of the process to the first row and to the last, and peak memory; into the arrays of
a `Table`, and into Arrow columns, which takes pyarrow's own memory and start.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edge_runtime import Generator, kernel
from edge_runtime.generator import (
    Bundle,
    Layout,
    Lineage,
    available_engines,
    build_bundle,
    initial_weights,
)
from edge_runtime.schema import Codec, Column, Schema, Table

KEY = bytes(range(32))
LABELS = tuple(f"category {k:02}" for k in range(18))
KINDS = ("number", "category", "integer", "boolean", "number", "category", "timestamp")

LOAD = """
import sys, time
began = float(sys.argv[3])
from edge_runtime import Generator
generator = Generator.load(sys.argv[1], engine=sys.argv[2])
first = next(iter(generator.sample_blocks(1, seed=1)))
first_s = time.time() - began
for block in generator.sample_blocks(10_000, seed=1):
    if sys.argv[4] == "arrow":
        block.to_arrow()
all_s = time.time() - began
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(first_s, all_s, int(peak.split()[1]) / 1024)
"""


def column(index: int) -> Column:
    """Return a column of the mixed table."""
    kind = KINDS[index % len(KINDS)]
    name = f"{kind}{index}"
    if kind == "category":
        return Column(name=name, kind=kind, values=LABELS)
    if kind == "boolean":
        return Column(name=name, kind=kind)
    bounds = {"number": (-1e3, 1e3), "integer": (0, 17), "timestamp": (0, 2**50)}[kind]
    return Column(name=name, kind=kind, low=bounds[0], high=bounds[1])


def mixed_table(columns: int, rows: int = 4000) -> Table:
    """Return rows of the mixed table."""
    rng = np.random.default_rng(0)
    schema = Schema(name="bench", columns=tuple(column(i) for i in range(columns)))
    make = {
        "number": lambda: np.clip(rng.normal(0, 200, rows), -1e3, 1e3),
        "category": lambda: np.array(LABELS, object)[rng.integers(0, 18, rows)],
        "integer": lambda: rng.integers(0, 18, rows),
        "boolean": lambda: rng.integers(0, 2, rows).astype(np.int8),
        "timestamp": lambda: rng.integers(0, 2**50, rows),
    }
    return Table(schema=schema, columns={c.name: make[c.kind]() for c in schema.columns})


def make_bundle(columns: int, hidden: int) -> Bundle:
    """Return an untrained generator of the mixed table whose columns depend on each other."""
    table = mixed_table(columns)
    codec = Codec.fit(table, table.schema, max_bins=18)
    layout = Layout(codec.cardinalities, hidden)
    weights = initial_weights(layout, seed=0)
    weights = weights._replace(w3=weights.w3 * np.float32(6))
    lineage = Lineage(parent=None, depth=0, round=0, devices=0, rows=0.0, privacy={})
    return build_bundle(table.schema, codec, layout, weights, lineage=lineage)


def interleaved(work: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return the thread CPU times of every piece of work, run in turns."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(repeats + 1):
        for name, run in work.items():
            start = time.thread_time()
            run()
            if turn:  # the first turn opens engines and touches memory
                times[name].append(time.thread_time() - start)
    return times


def forced(bundle: Bundle, isa: str) -> Generator:
    """Return a generator whose kernel engine runs the given instruction set."""
    os.environ["EDGE_RUNTIME_NETWORK_ISA"] = isa
    generator = Generator(bundle, engine="kernel")
    generator.sample(1)
    del os.environ["EDGE_RUNTIME_NETWORK_ISA"]
    return generator


def rates(bundle: Bundle, rows: int, repeats: int) -> None:
    """Print rows per second of every engine, and the parts of the kernel engine's time."""
    layout = bundle.layout
    generators = {f"kernel {isa}": forced(bundle, isa) for isa in kernel.network_isas()}
    for name in available_engines():
        if name not in ("kernel", "numpy"):
            generators[name] = Generator(bundle, engine=name)
    fast = next(iter(generators.values()))
    network = kernel.Network(
        bundle.quantised.tensors, cardinalities=layout.cardinalities, hidden=layout.hidden
    )
    noise = np.empty(1024 * layout.columns, np.float32)
    codes = np.empty((rows, layout.columns), np.int32)

    def fill() -> None:
        for start in range(0, rows, 1024):
            kernel.fill_uniform(noise, key=KEY, stream=0, offset=start * layout.columns)

    work: dict[str, Callable[[], object]] = {
        name: lambda g=generator: g.sample(rows).to_arrow()
        for name, generator in generators.items()
    }
    work["noise"] = fill
    work["noise, network"] = lambda: network.draw(rows, key=KEY, codes=codes)
    work["noise, network, decoding"] = lambda: fast.sample(rows)
    times = interleaved(work, repeats)
    print(f"\n{layout.columns} columns, {layout.width} codes, H={layout.hidden}, {rows} rows a run")
    for name, seconds in times.items():
        best, median = min(seconds), statistics.median(seconds)
        print(
            f"  {name:28}{rows / best / 1e3:10,.0f} ({rows / median / 1e3:,.0f}) thousand rows/s"
            f"{1e9 * best / rows:10,.0f} ({1e9 * median / rows:,.0f}) ns/row"
        )


def processes(bundle: Bundle, repeats: int) -> None:
    """Print what a process that draws 10,000 rows costs, engine by engine."""
    print("\na process: seconds to the first row, to 10,000 rows, peak RSS in MB (medians)")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "g.bundle"
        bundle.save(path)
        runs: dict[tuple[str, str], list[list[float]]] = {}
        for _ in range(repeats):
            for engine in available_engines():
                for form in ("numpy", "arrow"):
                    command = [
                        sys.executable,
                        "-c",
                        LOAD,
                        str(path),
                        engine,
                        str(time.time()),
                        form,
                    ]
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                    figures = [float(word) for word in done.stdout.split()]
                    runs.setdefault((engine, form), []).append(figures)
    for (engine, form), figures in runs.items():
        first, last, peak = (statistics.median(column) for column in zip(*figures, strict=True))
        print(f"  {engine:10} into {form:6} {first:8.2f} {last:8.2f} {peak:8.1f}")


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--columns", type=int, nargs="+", default=[14, 100])
    parser.add_argument("--hidden", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--rows", type=int, default=65_536)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    print(f"{platform.machine()}, {json.dumps(kernel.network_isas())}; best (median)")
    for columns in options.columns:
        for hidden in options.hidden:
            rates(make_bundle(columns, hidden), options.rows, options.repeats)
    processes(make_bundle(options.columns[0], options.hidden[0]), options.repeats)


if __name__ == "__main__":
    main()
