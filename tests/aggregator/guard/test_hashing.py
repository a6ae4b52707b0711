"""What is counted by hashes and in folds at once says the same as row by row, fold by fold."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edge_runtime.aggregator.anchor import Table
from edge_runtime.aggregator.guard import batches as batches_module
from edge_runtime.aggregator.guard import judge_batch, marginals
from edge_runtime.aggregator.guard.distance import rows_behind, rows_of
from edge_runtime.aggregator.guard.marginals import MeanDistance, mean_distance
from edge_runtime.reception.hashing import hash_rows, row_counts

from .tables import LABELS, NAMES, World, count, spoil, weak

WORLD = World()


def _counts_by_rows(rows: np.ndarray) -> np.ndarray:
    return np.unique(rows, axis=0, return_counts=True)[1]


def _fold_by_fold(
    codes: np.ndarray, own: list[Table], *, weights: np.ndarray, rows: float, rows_variance: float
) -> MeanDistance | None:
    """`mean_distance` as its page describes it, one fold of one table after the other."""
    n, folds = len(codes), marginals._FOLDS
    fold = np.random.default_rng(n).permutation(n) % folds
    score, expected = np.zeros(n), np.zeros(folds)
    bias = noise = 0.0
    used = 0
    for table in marginals._tables(own, codes.shape[1]):
        behind, behind_variance = rows_behind(table, rows, rows_variance)
        real, variance = table.counts.ravel() / behind, table.variance / behind**2
        deviation = np.sqrt(np.clip(real, 1 / n, 1.0) / n + variance)
        full = marginals._FULL_SIGMAS * deviation
        added = 0.5 * float(np.minimum(variance / full, variance**0.5).sum())
        if added > marginals._DROWNED:
            continue
        used, bias = used + 1, bias + added
        cell = table.cells(codes)
        for k in range(folds):
            rest = np.where(fold == k, 0.0, weights)
            share = np.bincount(cell, rest, minlength=len(real)) / rest.sum()
            direction = np.clip((share - real) / full, -1.0, 1.0)
            score[fold == k] += 0.5 * direction[cell[fold == k]]
            total = 0.5 * float((real * direction).sum())
            expected[k] += total
            noise += 0.25 * variance * float((direction**2).sum()) / folds
            noise += total**2 * behind_variance / behind**2 / folds
    if not used:
        return None
    difference = (score - expected[fold]) / used
    share = weights / weights.sum()
    value = float((share * difference).sum())
    error = float((share**2 * (difference - value) ** 2).sum()) + noise / used
    return MeanDistance(value - bias / used, marginals._DRAWN * math.sqrt(error), used)


@pytest.mark.parametrize("codes", [1, 2, 7, 65_536])
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (500, 1), (500, 4), (20_000, 12)])
def test_rows_are_counted_as_if_they_were_compared(codes: int, shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(codes).integers(0, codes, shape).astype(np.int32)
    assert sorted(row_counts(rows)) == sorted(_counts_by_rows(rows))


def test_rows_that_differ_by_one_code_or_by_their_order_differ() -> None:
    rows = np.random.default_rng(0).integers(0, 40, (1, 11)).astype(np.int32)
    near = [rows[:, ::-1]]
    for column in range(rows.shape[1]):
        for change in (-1, 1):
            near.append(rows.copy())
            near[-1][0, column] += change
    assert len({int(hash_rows(row)[0]) for row in (rows, *near)}) == 1 + len(near)


@pytest.mark.parametrize("how", ["honest", "flip", "constant", "shuffle", "uniform"])
@pytest.mark.parametrize("clamped_to_own", [True, False])
def test_verdicts_are_those_of_comparing_rows(
    how: str, clamped_to_own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts included, with all their figures."""
    judged: list[list[str]] = []
    for counting in (row_counts, _counts_by_rows):
        monkeypatch.setattr(batches_module, "row_counts", counting)
        monkeypatch.setattr(
            batches_module,
            "mean_distance",
            mean_distance if counting is row_counts else _fold_by_fold,
        )
        texts = []
        for seed in range(12):
            rng = np.random.default_rng(seed)
            own = rng.permutation(LABELS)[:3]
            counts = count(WORLD.rows(rng, 600, own), float(seed % 3), rng)
            sent = weak(WORLD.rows(rng, 500, own), rng)
            if how != "honest":
                sent = spoil(sent, how, rng)
            found = judge_batch(
                sent, counts, names=NAMES, conditions=(0,), clamped_to_own=clamped_to_own
            )
            texts += [finding.text for finding in found] or ["nothing"]
        judged.append(texts)
    assert judged[0] == judged[1]
    assert (set(judged[0]) == {"nothing"}) == (how == "honest")


def test_all_folds_at_once_give_the_distance_of_each() -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        own = count(WORLD.rows(rng, 400), 1.0, rng)
        sent = spoil(WORLD.rows(rng, 300), "shuffle", rng)
        weights = rng.uniform(0.0, 3.0, len(sent))
        rows, rows_variance = rows_of(own)
        given = {"weights": weights, "rows": rows, "rows_variance": rows_variance}
        found, expected = mean_distance(sent, own, **given), _fold_by_fold(sent, own, **given)
        assert found is not None
        assert found == pytest.approx(expected, rel=1e-9)
