"""Rows per second of every engine: codes only, one thread, 14 columns.

Run: OMP_NUM_THREADS=1 python tools/bench/engines.py [--columns 14] [--hidden 128]

Each figure is the best of several calls, because other work on the machine only ever slows one
down; the median stands beside it.
"""

from __future__ import annotations

import argparse
import platform
import time

import numpy as np

from edge_runtime.generator import (
    Layout,
    Lineage,
    available_engines,
    build_bundle,
    initial_weights,
    open_engine,
    sample,
)
from edge_runtime.schema import Codec, Column, Schema


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--columns", type=int, default=14)
    parser.add_argument("--cardinality", type=int, default=18)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=40)
    options = parser.parse_args()

    values = tuple(str(k) for k in range(options.cardinality))
    columns = tuple(
        Column(name=f"c{i}", kind="category", values=values) for i in range(options.columns)
    )
    schema = Schema(name="bench", columns=columns)
    codec = Codec(schema=schema, bins={})
    layout = Layout(codec.cardinalities, options.hidden)
    weights = initial_weights(layout, seed=0)
    lineage = Lineage(parent=None, depth=0, round=0, devices=0, rows=0.0, privacy={})
    bundle = build_bundle(schema, codec, layout, weights, lineage=lineage)

    runs = {}
    for name in available_engines():
        start = time.perf_counter()
        engine = open_engine(bundle, engine=name)
        print(f"{name}: opened in {1e3 * (time.perf_counter() - start):.0f} ms")
        runs[name] = engine.generate
    runs["float reference"] = lambda noise: sample(weights, layout, noise)

    print(
        f"{options.columns} columns of {options.cardinality} codes, H={options.hidden}, "
        f"{platform.machine()}, thousand rows/s: best (median) of {options.repeats}"
    )
    print(f"{'batch':>16}" + "".join(f"{name:>20}" for name in runs))
    for batch in (1, 64, 256, 512, 1024, 4096):
        noise = np.random.default_rng(0).random((batch, layout.columns), dtype=np.float32)
        cells = []
        for generate in runs.values():
            times = []
            for _ in range(options.repeats):
                start = time.perf_counter()
                generate(noise)
                times.append(time.perf_counter() - start)
            best, median = (batch / t / 1e3 for t in (min(times), float(np.median(times))))
            cells.append(f"{best:.0f} ({median:.0f})")
        print(f"{batch:>16}" + "".join(f"{cell:>20}" for cell in cells))


if __name__ == "__main__":
    main()
