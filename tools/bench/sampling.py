"""Rows per second from a generator into a Parquet file on one core, beside SDV's synthesizers.

    python tools/bench/sampling.py --rows 200000 --repeats 5

Every measured run is a process of its own, pinned to one core and allowed one thread: it loads the
generator, draws one row, then as many as asked for into a Parquet file (or into Arrow columns in
memory: ``--into arrow``), and ends. ``first row`` is the time from the start of the process to
that one row, ``whole process`` its whole life, imports and loading included. The runs of all
systems are interleaved, so that a change of the machine's speed meets each of them. All systems
learn from the same rows (the flights table of the demo); how well they learn does not change how
fast they draw, so the peers train for few epochs unless told otherwise.
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
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_TABLE = "rows"
_PEERS = ("GaussianCopula", "CTGAN", "TVAE")


def table(rows: int, columns: int):
    """Return a schema and as many rows: of the demo's flights, or of the mixed table if asked."""
    if columns:
        from generation import mixed_table

        mixed = mixed_table(columns, rows)
        return mixed.schema, mixed.to_pandas()
    from edge_runtime.fleet.flights import flights_schema, read_flights

    frame = read_flights().sample(rows, random_state=0).reset_index(drop=True)
    return flights_schema(), frame[list(flights_schema().names)]


def train(folder: Path, options: argparse.Namespace, with_peers: bool) -> list[str]:
    """Train every system on the same rows; returns the names of those that can be measured."""
    from edge_runtime import Generator

    schema, frame = table(options.train_rows, options.columns)
    epochs = options.epochs
    fitted = Generator.fit(frame, schema, epochs=epochs, hidden=options.hidden)
    fitted.save(folder / "edge-runtime")
    if not with_peers:
        return ["edge-runtime"]
    import torch
    from sdv.metadata import Metadata
    from sdv.single_table import CTGANSynthesizer, GaussianCopulaSynthesizer, TVAESynthesizer

    torch.manual_seed(0)
    metadata = Metadata.detect_from_dataframes({_TABLE: frame})
    for name, maker in (
        ("GaussianCopula", lambda: GaussianCopulaSynthesizer(metadata)),
        ("CTGAN", lambda: CTGANSynthesizer(metadata, epochs=epochs, enable_gpu=False)),
        ("TVAE", lambda: TVAESynthesizer(metadata, epochs=epochs, enable_gpu=False)),
    ):
        synthesizer = maker()
        synthesizer.fit({_TABLE: frame})
        synthesizer.save(str(folder / name))
    return ["edge-runtime", *_PEERS]


def draw(system: str, path: Path, rows: int, out: Path, into: str) -> dict[str, float]:
    """Load, draw one row, draw and write all; in this process."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if system == "edge-runtime":
        from edge_runtime import Generator

        generator = Generator.load(path)

        def blocks(count: int) -> Iterator[pa.Table]:
            return (block.to_arrow() for block in generator.sample_blocks(count, seed=1))
    else:
        from sdv.utils import load_synthesizer

        synthesizer = load_synthesizer(str(path))

        def blocks(count: int) -> Iterator[pa.Table]:
            yield pa.Table.from_pandas(synthesizer.sample(count)[_TABLE])

    first = next(blocks(1))
    first_at = time.time()
    start = time.perf_counter()
    if into == "parquet":
        with pq.ParquetWriter(out, first.schema) as writer:
            for block in blocks(rows):
                writer.write_table(block)
    else:
        kept = list(blocks(rows))
        assert sum(block.num_rows for block in kept) == rows
    seconds = time.perf_counter() - start
    return {"sampling_s": seconds, "first_at": first_at, "peak_mb": _peak_mb()}


def _peak_mb() -> float:
    # Not ru_maxrss: a child inherits that of the process it was forked from.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("this kernel does not tell a process its peak memory (VmHWM)")


def measure(
    system: str, path: Path, rows: int, out: Path, options: argparse.Namespace
) -> dict[str, float]:
    """Run `draw` in a process of its own."""
    command = [sys.executable, __file__, "--core", str(options.core), "--into", options.into]
    command += ["--draw", system, str(path), str(rows), str(out)]
    start, started_at = time.perf_counter(), time.time()
    done = subprocess.run(
        command,
        env={**os.environ, **_ONE_THREAD},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    figures = json.loads(done.stdout.splitlines()[-1])
    figures["process_s"] = time.perf_counter() - start
    figures["first_s"] = figures.pop("first_at") - started_at
    return figures


def report(runs: dict[str, list[dict[str, float]]], rows: int, into: str) -> str:
    """Return the table, medians with the spread of the sampling rate."""
    lines = [
        f"| system | rows/s into {into} (min to max) | first row, s | whole process, s "
        "| peak RSS, MB |",
        "| --- | --- | --- | --- | --- |",
    ]
    for system, figures in runs.items():
        rates = sorted(rows / figure["sampling_s"] for figure in figures)
        lines.append(
            f"| {system} | {statistics.median(rates):,.0f} ({rates[0]:,.0f} to {rates[-1]:,.0f}) "
            f"| {statistics.median(f['first_s'] for f in figures):.2f} "
            f"| {statistics.median(f['process_s'] for f in figures):.2f} "
            f"| {statistics.median(f['peak_mb'] for f in figures):.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000, help="rows per run")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--train-rows", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--columns", type=int, default=0, help="of the mixed table, not flights")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--into", choices=("parquet", "arrow"), default="parquet")
    parser.add_argument("--draw", nargs=4, metavar=("SYSTEM", "PATH", "ROWS", "OUT"))
    options = parser.parse_args()
    if options.draw:
        os.sched_setaffinity(0, {options.core})
        system, path, rows, out = options.draw
        print(json.dumps(draw(system, Path(path), int(rows), Path(out), options.into)))
        return
    peers = find_spec("sdv") is not None
    if not peers:
        print("SDV is not installed (pip install 'edge-runtime[bench]'): no peers in this table")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        systems = train(folder, options, peers)
        runs: dict[str, list[dict[str, float]]] = {system: [] for system in systems}
        for _ in range(options.repeats):
            for system in systems:
                runs[system].append(
                    measure(system, folder / system, options.rows, folder / "out.parquet", options)
                )
    packages = ("edge-runtime", "onnxruntime", "numpy", "pyarrow", *(("sdv", "torch") * peers))
    what = f"{options.columns} mixed columns" if options.columns else "flights"
    print(
        f"{what}, H={options.hidden}, {options.rows:,} rows a run, {options.repeats} interleaved "
        f"runs, one core of {platform.machine()}; "
        + ", ".join(f"{name} {version(name)}" for name in packages)
    )
    print(report(runs, options.rows, options.into))


if __name__ == "__main__":
    main()
