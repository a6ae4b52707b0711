"""Series of a watch, drawn step by step, held against real ones.

    python tools/bench/sequences.py

The recordings are those of the federation bench (10 people, 7 exercises, 6 channels, 50 Hz),
averaged to `--hertz`. The first four fifths of each recording are learnt from WITHOUT PRIVACY, the
last fifth is held out. The averages of a recording begin `--phases` times, each a part of their
length later: all of its samples are learnt from, as series of their own. With `--choose` the fourth
fifth is held out and the last is not looked at: settings are chosen there.

Printed: the mean absolute difference of autocorrelations (lags up to 2 s) and of log power spectra
(in dB) between pieces of 6 s, per channel and exercise, beside the same between learnt and held-out
recordings; the accuracy on held-out windows of 2 s of a random forest that was trained on real and
on synthetic windows; rows per second.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
import pandas as pd

from edge_runtime import Generator, Schema
from edge_runtime.schema import Column, Sequence

_CHANNELS = ("ax", "ay", "az", "wx", "wy", "wz")
_EXERCISES = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
_CACHE = Path("build/bench-data/watch.npz")
_RATE_HZ = 50
#: held-out parts are short: some 7 s
_SERIES_S, _PIECE_S, _WINDOW_S = 20, 6, 2
#: g and rad/s that a wrist does not leave in exercises
_BOUNDS = {"a": 4.0, "w": 10.0}


def recordings() -> list[tuple[int, int, np.ndarray]]:
    """Exercise, person and samples float64 [n, 6] at 50 Hz of every recording."""
    if not _CACHE.is_file():
        raise SystemExit(f"{_CACHE} is missing: the federation bench writes it (docs/baselines.md)")
    with np.load(_CACHE) as stored:
        ends, samples = stored["start"], stored["samples"]
        exercise, person = stored["exercise"], stored["person"]
    return [
        (int(exercise[number]), int(person[number]), samples[start:stop])
        for number, (start, stop) in enumerate(itertools.pairwise(ends))
    ]


def averaged(samples: np.ndarray, hertz: int, *, phase: float = 0.0) -> np.ndarray:
    """Means of samples over 1 / hertz, from a phase 0 to below 1 of that on, float64 [m, 6]."""
    fold = _RATE_HZ // hertz
    later = samples[int(phase * fold) :]
    whole = len(later) // fold * fold
    return later[:whole].reshape(-1, fold, len(_CHANNELS)).mean(axis=1)


def fitted(parts: list[tuple[int, int, np.ndarray]], options: argparse.Namespace) -> Generator:
    """Learn from recordings."""
    frames = []
    people = sorted({f"p{person}" for _, person, _ in parts})
    for number, (exercise, person, samples) in enumerate(parts):
        frame = pd.DataFrame(samples, columns=list(_CHANNELS))
        for name in _CHANNELS:
            frame[name] = frame[name].clip(-_BOUNDS[name[0]], _BOUNDS[name[0]])
        frames.append(
            frame.assign(
                recording=number,
                at=np.arange(len(frame)) / options.hertz,
                exercise=_EXERCISES[exercise],
                person=f"p{person}",
            )
        )
    schema = Schema.ordered(
        name="watch",
        columns=(
            Column(name="recording", kind="integer", low=0, high=10_000),
            Column(name="at", kind="number", low=0, high=86_400, unit="s"),
            Column(name="exercise", kind="category", values=_EXERCISES, condition=True),
            Column(name="person", kind="category", values=tuple(people)),
            *(
                Column(name=n, kind="number", low=-_BOUNDS[n[0]], high=_BOUNDS[n[0]])
                for n in _CHANNELS
            ),
        ),
        sequence=Sequence(
            lags=options.lags,
            entity="recording",
            order="at",
            every=1 / options.hertz,
            static=("exercise", "person"),
        ),
    )
    return Generator.fit(
        pd.concat(frames), schema, hidden=options.hidden, epochs=options.epochs, seed=options.seed
    )


def pieces(parts: list[tuple[int, np.ndarray]], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Exercises [n] and pieces [n, rows, 6] that do not overlap."""
    labels, made = [], []
    for exercise, samples in parts:
        count = len(samples) // rows
        made.append(samples[: count * rows].reshape(count, rows, samples.shape[1]))
        labels += [exercise] * count
    return np.array(labels), np.concatenate(made)


def autocorrelation(series: np.ndarray, lags: int) -> np.ndarray:
    """Mean autocorrelation over series [n, rows, 6], float64 [lags, 6]."""
    centred = series - series.mean(axis=1, keepdims=True)
    power = (centred**2).mean(axis=1) + 1e-9
    found = [
        ((centred[:, :-lag] * centred[:, lag:]).mean(axis=1) / power).mean(axis=0)
        for lag in range(1, lags + 1)
    ]
    return np.array(found)


def spectrum(series: np.ndarray) -> np.ndarray:
    """Mean power spectrum of series [n, rows, 6] in dB, float64 [frequencies, 6]."""
    centred = series - series.mean(axis=1, keepdims=True)
    window = np.hanning(series.shape[1])[None, :, None]
    power = (np.abs(np.fft.rfft(centred * window, axis=1)) ** 2).mean(axis=0)[1:]
    return 10 * np.log10(power + 1e-6)


def features(windows: np.ndarray) -> np.ndarray:
    """Return what the federation bench tells exercises by, float64 [n, 30]."""
    steps = np.abs(np.diff(windows, axis=1)).mean(axis=1)
    return np.concatenate(
        [
            windows.mean(axis=1), windows.std(axis=1), windows.min(axis=1), windows.max(axis=1),
            steps,
        ],
        axis=1,
    )  # fmt: skip


def accuracy(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
    """Share of test windows that a forest of the training windows tells right."""
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(200, random_state=0).fit(features(train[1]), train[0])
    return float(forest.score(features(test[1]), test[0]))


def differences(
    a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray], lags: int
) -> tuple[float, float]:
    """Mean absolute differences of autocorrelations and of spectra in dB, over exercises."""
    correlations, spectra = [], []
    for exercise in range(len(_EXERCISES)):
        one, other = a[1][a[0] == exercise], b[1][b[0] == exercise]
        correlations.append(np.abs(autocorrelation(one, lags) - autocorrelation(other, lags)))
        spectra.append(np.abs(spectrum(one) - spectrum(other)))
    return float(np.mean(correlations)), float(np.mean(spectra))


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hertz", type=int, default=5)
    parser.add_argument("--lags", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=320)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--phases", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--choose", action="store_true", help="hold the fourth fifth out")
    parser.add_argument("--series", type=int, default=240, help="per exercise")
    options = parser.parse_args()
    print(options)
    known, learnt, held = [], [], []
    for exercise, person, samples in recordings():
        cut, end = len(samples) * 4 // 5, len(samples)
        if options.choose:
            cut, end = cut * 4 // 5, cut
        held.append((exercise, averaged(samples[cut:end], options.hertz)))
        for number in range(options.phases):
            part = averaged(samples[:cut], options.hertz, phase=number / options.phases)
            known.append((exercise, person, part))
            learnt.append((exercise, part))
    started = time.perf_counter()
    generator = fitted(known, options)
    seconds = time.perf_counter() - started
    print(f"{sum(len(samples) for _, samples in learnt):,} rows learnt in {seconds:.0f} s")
    rows = _SERIES_S * options.hertz
    generator.sample_series(1, rows)
    drawn = []
    started = time.process_time()
    for number, exercise in enumerate(_EXERCISES):
        table = generator.sample_series(
            options.series, rows, where={"exercise": exercise}, seed=options.seed
        )
        values = np.stack([table.columns[name] for name in _CHANNELS], axis=1)
        values = values.reshape(options.series, rows, -1)
        drawn += [(number, one) for one in np.nan_to_num(values)]
    seconds = time.process_time() - started
    rate = len(_EXERCISES) * options.series * rows / seconds
    print(f"{rate:,.0f} rows per second of processor time, decoded")
    lags = _WINDOW_S * options.hertz
    piece = _PIECE_S * options.hertz
    real, test, made = (pieces(parts, piece) for parts in (learnt, held, drawn))
    names = ("autocorrelation", "spectrum, dB")
    for name, found, floor in zip(
        names, differences(real, made, lags), differences(real, test, lags), strict=True
    ):
        print(f"{name:24} synthetic {found:.3f}   held-out real {floor:.3f}")
    windows = [pieces(parts, _WINDOW_S * options.hertz) for parts in (learnt, held, drawn)]
    ours, theirs = accuracy(windows[2], windows[1]), accuracy(windows[0], windows[1])
    print(f"accuracy: trained on synthetic {ours:.3f}, on real {theirs:.3f}: {ours / theirs:.3f}")
    once = accuracy(pieces(learnt[:: options.phases], _WINDOW_S * options.hertz), windows[1])
    print(f"on real windows of one phase alone {once:.3f}")


if __name__ == "__main__":
    main()
