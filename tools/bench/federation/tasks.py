"""The five tasks: a table spread over devices, and rows that no device has.

A task is the same in every process for a seed; the held-out rows are the same for all seeds.
What a schema declares is known without looking at the rows: codes by construction, calendars,
timetables, and what a wrist can do. Packages that only carry a table are not imported; their file
is found and read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from edge_runtime.fleet.flights import DESTINATIONS, LATE_AFTER_MINUTES, flights_file
from edge_runtime.schema import Column, Schema

__all__ = ["TASKS", "Task", "load_task"]

LABEL = "label"
#: The held-out rows are the same for every seed, so that rows on which settings were chosen with
#: one seed never score a run with another.
_DRAW = 0
TEST_SHARE = 0.2
#: of every device's rows, kept from training while settings are tuned
VALIDATION_SHARE = 0.15

DIGITS_DEVICES = 20
DIRICHLET = 0.1
#: a device with fewer digits than this would only add noise to every system alike
DIRICHLET_LEAST_ROWS = 5
FLIGHTS_ROWS = 60_000

CHANNELS = ("ax", "ay", "az", "wx", "wy", "wz")
EXERCISES = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
#: two seconds at 50 Hz
WINDOW = 100
#: What the wrist of a person doing physiotherapy can do: gravity and a slow swing stay within
#: 4 g, turns within 10 rad/s. Rarer values are clamped, as any sensor does at its end of range.
_ACCELERATION, _TURN = 4.0, 10.0

CACHE = Path("build/bench-data")

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One table spread over devices.

    Parameters
    ----------
    name : str
    metric : {"accuracy", "auc"}
    schema : Schema
        The label is the first column, and a condition.
    devices : tuple of pandas.DataFrame
        Each device's training rows, in the schema's columns.
    test : pandas.DataFrame
        Held-out rows; no device has them and nothing may be tuned on them.
    quantities : tuple of str
        Integer columns that a classifier reads as one scaled number each.
    seed : int
        Of the spread over devices (where it is drawn) and of the validation rows.
    """

    name: str
    metric: Literal["accuracy", "auc"]
    schema: Schema
    devices: tuple[pd.DataFrame, ...]
    test: pd.DataFrame
    quantities: tuple[str, ...] = ()
    seed: int = 0

    @property
    def label(self) -> str:
        """Name of the label."""
        return self.schema.names[0]

    @property
    def rows(self) -> int:
        """Training rows of all devices together."""
        return sum(len(device) for device in self.devices)

    def tuning(self) -> tuple[tuple[pd.DataFrame, ...], pd.DataFrame]:
        """Return every device's rows without its validation rows, and the validation rows.

        Settings are chosen on these; the final runs train on `devices` and score on `test`.
        """
        rng = np.random.default_rng([self.seed, 15])
        kept: list[pd.DataFrame] = []
        checks: list[pd.DataFrame] = []
        for device in self.devices:
            order = rng.permutation(len(device))
            held = round(len(device) * VALIDATION_SHARE)
            checks.append(device.iloc[np.sort(order[:held])])
            kept.append(device.iloc[np.sort(order[held:])].reset_index(drop=True))
        return tuple(kept), pd.concat(checks, ignore_index=True)


def load_task(name: str, *, seed: int = 0) -> Task:
    """Return one of `TASKS`.

    Parameters
    ----------
    name : str
    seed : int
        Of the spread over devices where it is drawn (digits), and of the validation rows.

    Raises
    ------
    SystemExit
        There is no such task, or the package that carries its table is not installed.
    """
    if name not in TASKS:
        raise SystemExit(f"no task {name!r}; there are: {', '.join(TASKS)}")
    return TASKS[name](seed)


def _digits(seed: int, name: str, split: Callable[[Ints, np.random.Generator], Ints]) -> Task:
    from sklearn.datasets import load_digits

    digits = load_digits()
    # Sixteen grey levels in four steps: what a small generator needs of them.
    codes = np.clip(digits.data // 4.25, 0, 3).astype(np.int64)
    pixels = tuple(f"p{row}{column}" for row in range(8) for column in range(8))
    frame = pd.DataFrame(codes, columns=list(pixels))
    frame.insert(0, LABEL, [str(label) for label in digits.target])
    schema = Schema(
        name="digits",
        columns=(
            Column(name=LABEL, kind="category", values=tuple("0123456789"), condition=True),
            *(Column(name=pixel, kind="integer", low=0.0, high=3.0) for pixel in pixels),
        ),
    )
    test = _stratified(digits.target, np.random.default_rng([_DRAW, 1]))
    train = frame[~test].reset_index(drop=True)
    owner = split(digits.target[~test], np.random.default_rng([seed, 1]))
    return Task(
        name=name,
        metric="accuracy",
        schema=schema,
        devices=_spread(train, owner),
        test=frame[test].reset_index(drop=True),
        quantities=pixels,
        seed=seed,
    )


def _by_class(labels: Ints, rng: np.random.Generator) -> Ints:
    """Give each class to two devices of its own."""
    owner = np.empty(len(labels), np.int64)
    for label in range(10):
        rows = rng.permutation(np.flatnonzero(labels == label))
        owner[rows] = label + 10 * (np.arange(len(rows)) % (DIGITS_DEVICES // 10))
    return owner


def _by_dirichlet(labels: Ints, rng: np.random.Generator) -> Ints:
    """Spread each class by shares of Dirichlet(0.1), as Hsu, Qi and Brown 2019 do."""
    owner = np.empty(len(labels), np.int64)
    while True:
        for label in range(10):
            rows = np.flatnonzero(labels == label)
            shares = rng.dirichlet(np.full(DIGITS_DEVICES, DIRICHLET))
            owner[rows] = rng.choice(DIGITS_DEVICES, len(rows), p=shares)
        if np.bincount(owner, minlength=DIGITS_DEVICES).min() >= DIRICHLET_LEAST_ROWS:
            return owner


def _flights(seed: int) -> Task:
    names = ["month", "day", "hour", "minute", "sched_arr_time", "origin", "dest", "distance"]
    table = pd.read_csv(flights_file(), usecols=[*names, "carrier", "arr_delay"])
    table = table[table["arr_delay"].notna()].reset_index(drop=True)
    rng = np.random.default_rng([_DRAW, 2])
    table = table.iloc[rng.permutation(len(table))[:FLIGHTS_ROWS]].reset_index(drop=True)
    clock = table["sched_arr_time"]
    frame = pd.DataFrame(
        {
            LABEL: table["arr_delay"] > LATE_AFTER_MINUTES,
            **{name: table[name] for name in ("month", "day", "hour", "minute")},
            "arrival": clock // 100 % 24 * 60 + clock % 100,
            "origin": table["origin"],
            "dest": table["dest"].where(table["dest"].isin(DESTINATIONS), "other"),
            "distance": table["distance"],
        }
    )
    schema = Schema(
        name="flights-ahead",
        columns=(
            Column(name=LABEL, kind="boolean", condition=True),
            Column(name="month", kind="integer", low=1.0, high=12.0),
            Column(name="day", kind="integer", low=1.0, high=31.0),
            Column(name="hour", kind="integer", low=0.0, high=23.0, unit="scheduled hour"),
            Column(name="minute", kind="integer", low=0.0, high=59.0, unit="scheduled minute"),
            Column(name="arrival", kind="integer", low=0.0, high=1439.0, unit="minute of the day"),
            Column(name="origin", kind="category", values=("EWR", "JFK", "LGA")),
            Column(name="dest", kind="category", values=DESTINATIONS, other=True),
            # the longest flight inside the United States, New York to Honolulu
            Column(name="distance", kind="integer", low=0.0, high=5000.0, unit="miles"),
        ),
    )
    test = _stratified(frame[LABEL].to_numpy(np.int64), rng)
    owner = pd.Categorical(table["carrier"]).codes.astype(np.int64)
    return Task(
        name="flights-by-carrier",
        metric="auc",
        schema=schema,
        devices=_spread(frame[~test].reset_index(drop=True), owner[~test]),
        test=frame[test].reset_index(drop=True),
        seed=seed,
    )


def _watch(seed: int, name: str, by: Literal["person", "exercise"]) -> Task:
    """Hold out a fifth of every recording, in one piece; windows do not overlap.

    A window between two that were trained on would be nearly known.
    """
    rng = np.random.default_rng([_DRAW, 3])
    series = _watch_series()
    lengths = np.diff(series["start"])
    parts, labels, people, tested = [], [], [], []
    for position, length in enumerate(lengths):
        begin = series["start"][position]
        count = length // WINDOW
        samples = series["samples"][begin : begin + count * WINDOW]
        parts.append(samples.reshape(count, WINDOW, len(CHANNELS)))
        labels += [series["exercise"][position]] * count
        people += [series["person"][position]] * count
        length_held = round(count * TEST_SHARE)
        first = rng.integers(0, count - length_held + 1)
        tested += ((np.arange(count) >= first) & (np.arange(count) < first + length_held)).tolist()
    windows = np.concatenate(parts)
    summaries = {
        "mean": windows.mean(axis=1),
        "std": windows.std(axis=1),
        "min": windows.min(axis=1),
        "max": windows.max(axis=1),
        "step": np.abs(np.diff(windows, axis=1)).mean(axis=1),
    }
    columns = [Column(name=LABEL, kind="category", values=EXERCISES, condition=True)]
    values: dict[str, npt.NDArray[np.float64]] = {}
    for channel, at in zip(CHANNELS, range(len(CHANNELS)), strict=True):
        most = _ACCELERATION if channel[0] == "a" else _TURN
        unit = "g" if channel[0] == "a" else "rad/s"
        for kind, summary in summaries.items():
            low, high = _watch_bounds(kind, most)
            column = f"{channel}_{kind}"
            columns.append(Column(name=column, kind="number", low=low, high=high, unit=unit))
            values[column] = np.clip(summary[:, at], low, high)
    frame = pd.DataFrame({LABEL: [EXERCISES[code] for code in labels], **values})
    group = np.array(people if by == "person" else labels, np.int64)
    test = np.array(tested)
    return Task(
        name=name,
        metric="accuracy",
        schema=Schema(name="watch", columns=tuple(columns)),
        devices=_spread(frame[~test].reset_index(drop=True), group[~test]),
        test=frame[test].reset_index(drop=True),
        seed=seed,
    )


def _watch_bounds(kind: str, most: float) -> tuple[float, float]:
    """Bounds of one summary of a window whose samples stay within -most .. most."""
    if kind == "std":  # of a swing between 0 and the end of the range
        return 0.0, most / 2
    if kind == "step":  # such a swing takes a second or more, 50 samples, with some jerk on top
        return 0.0, most / 10
    if kind == "mean":
        return -most / 2, most / 2
    return -most, most


def _watch_series() -> dict[str, npt.NDArray[np.float64]]:
    """Return the recordings as flat arrays; converted once, because the package has a pickle."""
    cached = CACHE / "watch.npz"
    if not cached.is_file():
        found = find_spec("seglearn")
        if found is None or found.origin is None:
            raise SystemExit("seglearn is missing: pip install --no-deps seglearn==1.2.5")
        path = Path(found.origin).parent / "data" / "watch_dataset.npy"
        data = np.load(path, allow_pickle=True).item()
        cached.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            cached,
            samples=np.concatenate(data["X"]),
            start=np.concatenate([[0], np.cumsum([len(x) for x in data["X"]])]),
            exercise=np.asarray(data["y"], np.int64),
            person=np.asarray(data["subject"], np.int64),
        )
    with np.load(cached) as stored:
        return {key: stored[key] for key in stored.files}


def _stratified(groups: Ints, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Mark a fifth of every group, rounded."""
    mask = np.zeros(len(groups), np.bool_)
    for group in np.unique(groups):
        rows = rng.permutation(np.flatnonzero(groups == group))
        mask[rows[: round(len(rows) * TEST_SHARE)]] = True
    return mask


def _spread(frame: pd.DataFrame, owner: Ints) -> tuple[pd.DataFrame, ...]:
    devices: Sequence[int] = np.unique(owner).tolist()
    return tuple(frame[owner == device].reset_index(drop=True) for device in devices)


TASKS: dict[str, Callable[[int], Task]] = {
    "digits-by-class": lambda seed: _digits(seed, "digits-by-class", _by_class),
    "digits-dirichlet": lambda seed: _digits(seed, "digits-dirichlet", _by_dirichlet),
    "flights-by-carrier": _flights,
    "watch-by-person": lambda seed: _watch(seed, "watch-by-person", "person"),
    "watch-by-exercise": lambda seed: _watch(seed, "watch-by-exercise", "exercise"),
}
