"""How good a generator's rows are, by the project's own evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_runtime import Generator
from edge_runtime.evaluation import (
    Frame,
    TargetTask,
    closest_records,
    measure_fidelity,
    train_and_score,
)
from edge_runtime.schema import Table
from tools.models.data import Data

__all__ = ["draw", "measure", "measure_real"]

_SEED = 1
#: The classifier's own seeds: one training moves its score by a hundredth on digits.
_CLASSIFIERS = 3
#: A code that fewer training rows have is too rare to be missed in a sample.
_LEAST_SHARE = 0.001
_DIGITS = 4


def draw(data: Data, generator: Generator) -> Table:
    """Draw as many rows as this table's generators are judged by."""
    return generator.sample(data.synthetic_rows, seed=_SEED)


def measure(data: Data, made: Table) -> dict[str, Any]:
    """Return the figures of synthetic rows.

    Returns
    -------
    dict
        ``shapes`` and ``pairs`` (docs/release.md); ``utility``: accuracy or AUC on held-out real
        rows of a classifier that learnt from these rows, mean of three trainings;
        ``closer_to_training`` and ``copies``: how many rows are closer to a training row than to a
        held-out one (one half is ideal), and equal to one; ``labels``: share of each value of the
        target; ``codes_missing``: codes that a thousandth of the training rows have and no
        synthetic row has.
    """
    train, held = (Frame.of(rows, data.schema) for rows in (data.train, data.test))
    frame = Frame.of(made, data.schema, synthetic=True)
    # As many rows as real is held to real by: the scores of samples grow with their size.
    fidelity = measure_fidelity(train, frame, max_rows=held.rows)
    closest = closest_records(train, held, frame)
    codes = data.codec.encode(made).codes
    missing = 0
    for column, size in enumerate(data.codec.cardinalities):
        real = np.bincount(data.codes[:, column], minlength=size) / len(data.codes)
        found = np.bincount(codes[:, column], minlength=size)
        missing += int(((real >= _LEAST_SHARE) & (found == 0)).sum())
    return {
        "shapes": round(fidelity.shapes, _DIGITS),
        "pairs": round(fidelity.pairs, _DIGITS),
        "utility": _utility(data, made),
        "closer_to_training": round(closest.closer_to_training, _DIGITS),
        "copies": round(closest.exact, _DIGITS),
        "labels": _labels(data, codes),
        "codes_missing": missing,
    }


def measure_real(data: Data) -> dict[str, Any]:
    """Return the same figures of the training rows: what no generator can be expected to beat."""
    train, held = (Frame.of(rows, data.schema) for rows in (data.train, data.test))
    fidelity = measure_fidelity(train, held)
    return {
        "shapes": round(fidelity.shapes, _DIGITS),
        "pairs": round(fidelity.pairs, _DIGITS),
        "utility": _utility(data, data.train),
        "labels": _labels(data, data.codes),
    }


def _utility(data: Data, rows: Table) -> float:
    task = TargetTask.of(data.schema, data.target, data.inputs or None)
    learnt = Frame.of(rows, data.schema, synthetic=True)
    held = Frame.of(data.test, data.schema)
    scores = [train_and_score(learnt, held, task, seed=s).value for s in range(_CLASSIFIERS)]
    return round(float(np.mean(scores)), _DIGITS)


def _labels(data: Data, codes: np.ndarray[Any, np.dtype[np.int32]]) -> dict[str, float]:
    column = data.schema.names.index(data.target)
    counts = np.bincount(codes[:, column], minlength=data.codec.cardinalities[column])
    return {
        data.codec.label(column, code): round(float(count / len(codes)), _DIGITS)
        for code, count in enumerate(counts)
    }
