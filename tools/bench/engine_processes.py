"""What each engine costs a device: rows/s, memory, load time, file size; one process per run.

    OMP_NUM_THREADS=1 python tools/bench/engine_processes.py [--columns 14] [--hidden 128]
        [--python .venv/legacy/bin/python]   # tflite-runtime: another environment, beside this one

A process imports what the device agent imports, loads the bundle, opens the engine and draws rows
in blocks of the agent's size, noise included: the agent without its broker and its store. Load time
is from the bundle's bytes in memory to the first 256 rows; memory is the resident set afterwards
(VmRSS, and VmHWM at its highest). Times are CPU time, one thread. Medians of the runs, which are
interleaved; rows/s is the best, because other work on the machine only ever slows one down.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from edge_runtime.generator import (
    Bundle,
    Layout,
    Lineage,
    available_engines,
    build_bundle,
    find_runtime,
    initial_weights,
)
from edge_runtime.schema import Codec, Column, Schema

RUN = """
import json, sys, time
import numpy as np
import edge_runtime.device.agent
from edge_runtime.generator import Bundle, open_engine, sample_codes
data = open(sys.argv[1], "rb").read()
start = time.process_time()
engine = open_engine(Bundle.from_bytes(data), engine=sys.argv[2])
noise = np.random.default_rng(0).random((256, engine.layout.columns), dtype=np.float32)
engine.generate(noise)
load_ms = 1e3 * (time.process_time() - start)
del data
times = []
for _ in range(10):
    start = time.process_time()
    sample_codes(engine, 4096, key=bytes(32))
    times.append(time.process_time() - start)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
rss, peak = (int(status[key].split()[0]) / 1024 for key in ("VmRSS", "VmHWM"))
print(json.dumps([4.096 / min(times), load_ms, rss, peak]))
"""


def make_bundle(columns: int, cardinality: int, hidden: int) -> Bundle:
    """Return an untrained generator with a .tflite file."""
    values = tuple(str(k) for k in range(cardinality))
    schema = Schema(
        name="bench",
        columns=tuple(Column(name=f"c{i}", kind="category", values=values) for i in range(columns)),
    )
    codec = Codec(schema=schema, bins={})
    layout = Layout(codec.cardinalities, hidden)
    weights = initial_weights(layout, seed=0)
    lineage = Lineage(parent=None, depth=0, round=0, devices=0, rows=0.0, privacy={})
    return build_bundle(schema, codec, layout, weights, lineage=lineage, tflite=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--columns", type=int, default=14)
    parser.add_argument("--cardinality", type=int, default=18)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--python", help="interpreter of an environment with tflite-runtime")
    options = parser.parse_args()

    bundle = make_bundle(options.columns, options.cardinality, options.hidden)
    here = (find_runtime() or "").replace("_", "-")
    runs = {
        f"tflite, {here}" if name == "tflite" else name: (sys.executable, name)
        for name in available_engines()
    }
    if options.python:
        runs["tflite, tflite-runtime"] = (options.python, "tflite")
    found: dict[str, list[list[float]]] = {name: [] for name in runs}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "g.bundle"
        bundle.save(path)
        members = {
            "kernel": ("quantised.safetensors",),
            "onnx": ("quantised.safetensors", "sampler.onnx"),
            "numpy": ("quantised.safetensors",),
            "tflite": ("sampler.tflite", "sampler.tflite.json"),
        }
        sizes = {name: len(data) for name, data in bundle.members().items()}
        for _ in range(options.repeats):
            for name, (python, engine) in runs.items():
                done = subprocess.run(
                    [python, "-c", RUN, path, engine], capture_output=True, text=True, check=True
                )
                found[name].append(json.loads(done.stdout))
        total = path.stat().st_size
    print(
        f"{options.columns} columns of {options.cardinality} codes, H={options.hidden}, "
        f"{platform.machine()}, Python {platform.python_version()}; bundle {total / 1e3:.0f} kB"
    )
    print("| engine | thousand rows/s | load, ms | RSS, MB (peak) | its files, kB |")
    print("| --- | --- | --- | --- | --- |")
    for name, results in found.items():
        rates, loads, rss, peaks = zip(*results, strict=True)
        size = sum(sizes[member] for member in members[runs[name][1]]) / 1e3
        print(
            f"| {name} | {max(rates):.0f} | {statistics.median(loads):.0f} "
            f"| {statistics.median(rss):.0f} ({statistics.median(peaks):.0f}) | {size:.0f} |"
        )


if __name__ == "__main__":
    main()
