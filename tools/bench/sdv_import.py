"""A CTGAN and a TVAE of SDV beside the bundles that `edge-runtime import sdv` makes of them.

    python tools/bench/sdv_import.py --train-rows 10000 --rows 100000

Each synthesizer is trained for a few epochs, saved, and imported. Distances are between the rows
that SDV draws and those that the bundle draws; beside them stand the distances between two draws
of SDV itself, which is what the number of rows alone costs. Per column: Kolmogorov-Smirnov for
numbers and moments, total variation for categories and for missing cells. Per pair of columns:
total variation of a table of at most 10 by 10 cells. Speed and memory are measured as in
tools/bench/sampling.py: interleaved processes, one core, one thread.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import sampling

_TABLE = "rows"
_CELLS = 10


def coded(columns: list[pd.Series]) -> list[np.ndarray]:
    """Cells of at most 10 quantiles (numbers) or the most frequent values, missing ones apart."""
    together = pd.concat(columns, ignore_index=True)
    present = together.dropna()
    if pd.api.types.is_numeric_dtype(together) and together.nunique() > _CELLS:
        borders = np.unique(np.quantile(present.astype(float), np.linspace(0, 1, _CELLS + 1)[1:-1]))
        cells = [np.searchsorted(borders, own.astype(float), side="right") for own in columns]
    else:
        known = list(present.astype(str).value_counts().index[: _CELLS - 1])
        number = {value: index for index, value in enumerate(known)}
        cells = [own.astype(str).map(number).fillna(_CELLS - 1).astype(int) for own in columns]
    return [np.where(own.isna(), _CELLS, cell) for own, cell in zip(columns, cells, strict=True)]


def column_distance(a: pd.Series, b: pd.Series) -> float:
    """Kolmogorov-Smirnov or total variation, whichever is larger with that of missing cells."""
    gone = abs(a.isna().mean() - b.isna().mean())
    if pd.api.types.is_numeric_dtype(a) and not pd.api.types.is_bool_dtype(a):
        x, y = np.sort(a.dropna().astype(float)), np.sort(b.dropna().astype(float))
        places = np.concatenate([x, y])
        ranks = [np.searchsorted(own, places, side="right") / len(own) for own in (x, y)]
        return max(gone, float(np.abs(ranks[0] - ranks[1]).max()))
    shares = [own.astype(str).value_counts(normalize=True) for own in (a, b)]
    return max(gone, float(shares[0].sub(shares[1], fill_value=0).abs().sum() / 2))


def pair_distances(a: pd.DataFrame, b: pd.DataFrame) -> list[float]:
    """Total variation of every pair of columns."""
    size = _CELLS + 1
    cells = {name: coded([a[name], b[name]]) for name in a.columns}
    found = []
    for one, other in itertools.combinations(a.columns, 2):
        tables = [
            np.bincount(cells[one][side] * size + cells[other][side], minlength=size * size)
            for side in (0, 1)
        ]
        found.append(float(np.abs(tables[0] / len(a) - tables[1] / len(b)).sum() / 2))
    return found


def plain(frame: pd.DataFrame, kinds: dict[str, str]) -> pd.DataFrame:
    """Give both sides the same types: moments as numbers, categories as texts."""
    made = {}
    for name, kind in kinds.items():
        own = frame[name]
        if kind == "timestamp":
            moments = pd.to_datetime(own, utc=True).astype("datetime64[us, UTC]")
            made[name] = moments.astype("int64").where(moments.notna()).astype("float64")
        elif kind in ("category", "boolean"):
            made[name] = own.astype("object").map(str, na_action="ignore")
        else:
            made[name] = own.astype("float64")
    return pd.DataFrame(made)


def table(options: argparse.Namespace) -> pd.DataFrame:
    """Rows to train on: a CSV file's, or flights."""
    if options.csv is None:
        _, frame = sampling.table(options.train_rows, 0)
        return frame
    frame = pd.read_csv(options.csv)
    return frame.sample(min(len(frame), options.train_rows), random_state=0, ignore_index=True)


def train(folder: Path, frame: pd.DataFrame, options: argparse.Namespace) -> None:
    """Fit and save both synthesizers."""
    import torch
    from sdv.metadata import Metadata
    from sdv.single_table import CTGANSynthesizer, TVAESynthesizer

    metadata = Metadata.detect_from_dataframes({_TABLE: frame})
    epochs = {"CTGAN": options.ctgan_epochs, "TVAE": options.tvae_epochs}
    for name, maker in (("CTGAN", CTGANSynthesizer), ("TVAE", TVAESynthesizer)):
        torch.manual_seed(0)
        start = time.perf_counter()
        synthesizer = maker(metadata, epochs=epochs[name], enable_gpu=False)
        synthesizer.fit({_TABLE: frame})
        synthesizer.save(str(folder / name))
        print(f"{name}: {epochs[name]} epochs in {time.perf_counter() - start:.0f} s", flush=True)


def compare(folder: Path, name: str, rows: int) -> list[str]:
    """Import one synthesizer and print how far its rows are from SDV's; return the size line."""
    from sdv.utils import load_synthesizer

    from edge_runtime import Generator
    from edge_runtime.importing.sdv import import_sdv

    start = time.perf_counter()
    bundle = import_sdv(folder / name)
    seconds = time.perf_counter() - start
    bundle.save(folder / f"{name}.bundle")
    synthesizer = load_synthesizer(str(folder / name))
    kinds = {column.name: column.kind for column in bundle.schema.columns}
    first, second = (plain(synthesizer.sample(rows)[_TABLE], kinds) for _ in range(2))
    ours = plain(Generator(bundle).sample(rows, seed=1).to_pandas(), kinds)
    print(f"\n{name}: imported in {seconds:.0f} s, {bundle.metrics['import']}")
    print("| column | ours to SDV | SDV to SDV |\n| --- | --- | --- |")
    distances = []
    for column in kinds:
        pair = [column_distance(first[column], other[column]) for other in (ours, second)]
        distances.append(pair)
        print(f"| {column} | {pair[0]:.4f} | {pair[1]:.4f} |")
    print("| columns, mean | {:.4f} | {:.4f} |".format(*np.mean(distances, axis=0)))
    pairs = [pair_distances(first, other) for other in (ours, second)]
    print("| pairs, mean | {:.4f} | {:.4f} |".format(*map(statistics.fmean, pairs)))
    print("| pairs, largest | {:.4f} | {:.4f} |".format(*map(max, pairs)), flush=True)
    sizes = ((folder / name).stat().st_size, (folder / f"{name}.bundle").stat().st_size)
    return [f"{size / 1e3:,.0f}" for size in sizes]


def main() -> None:
    """Train, import, compare, measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", type=Path, help="train on this table instead of flights")
    parser.add_argument("--train-rows", type=int, default=10_000)
    parser.add_argument("--ctgan-epochs", type=int, default=30)
    parser.add_argument("--tvae-epochs", type=int, default=50)
    parser.add_argument("--rows", type=int, default=100_000, help="rows of each comparison and run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--folder", type=Path, help="keep the files here; train only what is new")
    options = parser.parse_args()
    options.into = "arrow"
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as own:
        folder = options.folder or Path(own)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "TVAE").exists():
            train(folder, table(options), options)
        lines = []
        for name in ("CTGAN", "TVAE"):
            sizes = compare(folder, name, options.rows)
            runs: dict[str, list[dict[str, float]]] = {name: [], "edge-runtime": []}
            for _ in range(options.repeats):
                for system, path in ((name, folder / name), ("edge-runtime", f"{name}.bundle")):
                    runs[system].append(
                        sampling.measure(
                            system, folder / path, options.rows, folder / "out.parquet", options
                        )
                    )
            for (system, figures), size in zip(runs.items(), sizes, strict=True):
                rates = sorted(options.rows / run["sampling_s"] for run in figures)
                what = f"SDV {name}" if system == name else f"{name} imported"
                lines.append(
                    f"| {what} | {statistics.median(rates):,.0f} ({rates[0]:,.0f} to "
                    f"{rates[-1]:,.0f}) | {statistics.median(r['first_s'] for r in figures):.2f} "
                    f"| {statistics.median(r['peak_mb'] for r in figures):.0f} | {size} |"
                )
    packages = ("edge-runtime", "sdv", "ctgan", "torch", "onnxruntime")
    print(f"\n{options.rows:,} rows a run, {options.repeats} interleaved runs; ", end="")
    print(", ".join(f"{package} {version(package)}" for package in packages))
    print("| | rows/s into columns (min to max) | first row, s | peak RSS, MB | file, kB |")
    print("| --- | --- | --- | --- | --- |\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
