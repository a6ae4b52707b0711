"""Held-out cells filled by `Generator.impute`, beside the mode or median and nearest neighbours.

    python tools/bench/imputation.py --seeds 3

Of each table 80 % are learnt from (WITHOUT PRIVACY) and up to `--rows` of the others lose a share
of their cells at random; every method fills the same ones. Categories and booleans: share that is
right. Numbers: mean absolute error in standard deviations of the column. Nearest neighbours are
scikit-learn's KNNImputer (10 neighbours) on standardised numbers and one-hot categories, the
category being that of the largest mean. Also: how often the true number lies between the 5 % and
the 95 % quantile of 40 draws, which is 90 % where the spread of draws is right.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time

import numpy as np
import pandas as pd

from edge_runtime import Generator, Schema

_DRAWS = 40


def tables() -> dict[str, pd.DataFrame]:
    """Return real tables by name, mixed and small to middling."""
    from sklearn.datasets import load_breast_cancer
    from sklego.datasets import load_abalone, load_arrests

    from edge_runtime.fleet.flights import flights_schema, read_flights

    cancer = load_breast_cancer(as_frame=True)
    flights = read_flights()[list(flights_schema().names)].dropna().sample(20_000, random_state=0)
    whole = flights.select_dtypes("Int64").columns
    flights = flights.astype(dict.fromkeys(whole, "int64")).astype({"late": bool})
    return {
        "abalone": load_abalone(as_frame=True),
        "arrests": load_arrests(as_frame=True),
        "breast cancer": cancer.frame.assign(target=cancer.target.map({0: "m", 1: "b"})),
        "flights": flights.reset_index(drop=True),
    }


def neighbours(real: pd.DataFrame, holey: pd.DataFrame, numeric: list[str]) -> pd.DataFrame:
    """Fill by the mean of the ten nearest rows."""
    from sklearn.impute import KNNImputer

    together = pd.concat([real, holey], ignore_index=True)
    numbers = together[numeric].apply(pd.to_numeric)
    middle, spread = numbers[: len(real)].mean(), numbers[: len(real)].std().replace(0, 1)
    parts = [(numbers - middle) / spread]
    others = [name for name in real.columns if name not in numeric]
    for name in others:
        hot = pd.get_dummies(together[name].astype(object), dtype=float)
        hot[together[name].isna()] = np.nan
        parts.append(hot.add_prefix(f"{name}|"))
    wide = pd.concat(parts, axis=1)
    imputer = KNNImputer(n_neighbors=10).fit(wide[: len(real)])
    filled = pd.DataFrame(imputer.transform(wide[len(real) :]), columns=wide.columns)
    made = filled[numeric] * spread + middle
    for name in others:
        hot = filled[[c for c in filled.columns if c.startswith(f"{name}|")]]
        made[name] = hot.idxmax(axis=1).str.removeprefix(f"{name}|")
    return made


def one(frame: pd.DataFrame, options: argparse.Namespace, seed: int) -> dict[str, float]:
    """Figures of one table and seed."""
    frame = frame.sample(frac=1, random_state=seed).reset_index(drop=True)
    cut = int(0.8 * len(frame))
    real, held = frame[:cut], frame[cut : cut + options.rows].reset_index(drop=True)
    schema = Schema.infer(frame)
    numeric = [column.name for column in schema.columns if column.numeric]
    generator = Generator.fit(real, schema, epochs=60, hidden=options.hidden, seed=seed)
    gone = np.random.default_rng(seed).random(held.shape) < options.share
    gone &= held.notna().to_numpy()
    holey = held.astype(object).mask(gone)
    started = time.perf_counter()
    made = generator.impute(holey, seed=seed)
    seconds = time.perf_counter() - started
    drawn = generator.impute(holey, draws=_DRAWS, seed=seed).tables
    middle = {n: real[n].median() if n in numeric else real[n].mode()[0] for n in held.columns}
    filled = {
        "ours": made.tables[0].to_pandas(),
        "mode, median": pd.DataFrame([middle] * len(held)),
        "neighbours": neighbours(real[: options.neighbours], holey, numeric),
    }
    figures = {"rows/s": len(held) / seconds, "exact": made.exact / max(1, made.rows)}
    inside: list[float] = []
    for method, table in filled.items():
        right, error = [], []
        for index, name in enumerate(held.columns):
            asked = gone[:, index]
            if not asked.any():
                continue
            truth, guess = held[name][asked], table[name][asked]
            if name not in numeric:
                right.append((guess.astype(str) == truth.astype(str)).mean())
                continue
            error.append((guess.astype(float) - truth).abs().mean() / real[name].std())
            if method == "ours":
                spread = np.stack([t.columns[name][asked] for t in drawn])
                low, high = np.quantile(spread, [0.05, 0.95], axis=0)
                inside.append(float(((truth >= low) & (truth <= high)).mean()))
        figures[f"{method}: right"] = float(np.mean(right)) if right else float("nan")
        figures[f"{method}: error"] = float(np.mean(error)) if error else float("nan")
    figures["within 90 %"] = float(np.mean(inside))
    return figures


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--neighbours", type=int, default=4000, help="rows that KNN may search")
    parser.add_argument("--tables", nargs="*")
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, numpy {np.__version__}; {options}")
    for name, frame in tables().items():
        if options.tables and name not in options.tables:
            continue
        runs = [one(frame, options, seed) for seed in range(options.seeds)]
        print(f"\n{name}: {len(frame):,} rows x {frame.shape[1]} columns")
        for figure in runs[0]:
            values = [run[figure] for run in runs]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            print(f"  {figure:24} {statistics.mean(values):10.3f} +- {spread:.3f}")


if __name__ == "__main__":
    main()
