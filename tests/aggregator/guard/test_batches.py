"""Batches against their device's own noisy counts: poison is found, the weak and skewed pass."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.aggregator.anchor import Table
from edge_runtime.aggregator.guard import BatchLimits, judge_batch
from edge_runtime.aggregator.guard.distance import (
    compare,
    counts_of,
    dependence,
    marginal,
    rows_of,
)
from edge_runtime.aggregator.guard.marginals import mean_distance

from .tables import CODES, LABELS, NAMES, World, count, spoil, table, weak

WORLD = World()
ROWS, SENT = 150, 500


def _judge(codes: np.ndarray, own: list[Table], **how: object) -> list[str]:
    found = judge_batch(codes, own, names=NAMES, conditions=(0,), **how)  # type: ignore[arg-type]
    return [finding.kind for finding in found]


@pytest.mark.parametrize("sigma", [0.0, 2.0, 6.0])
@pytest.mark.parametrize("labels", [1, 3, 10])
def test_no_honest_batch_is_flagged(sigma: float, labels: int) -> None:
    """One class per device and weak generators are normal; the stated rate is one in 10,000."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        own = rng.permutation(LABELS)[:labels]
        real = WORLD.rows(rng, ROWS, own)
        sent = weak(WORLD.rows(rng, SENT, own), rng)
        assert _judge(sent, count(real, sigma, rng)) == []


@pytest.mark.parametrize("sigma", [6.0, 10.0, 13.0, 16.0, 30.0, 60.0])
def test_counts_that_noise_drowns_accuse_nobody(sigma: float) -> None:
    for seed in range(60):
        rng = np.random.default_rng(seed)
        own = rng.permutation(LABELS)[:3]
        sent = weak(WORLD.rows(rng, SENT, own), rng, 0.4)
        assert _judge(sent, count(WORLD.rows(rng, 500, own), sigma, rng)) == []


def test_the_false_alarm_rate_holds_at_the_limit() -> None:
    """At a stated rate of one in five, far fewer honest batches are flagged: it is a bound."""
    limits = BatchLimits(false_alarms=0.2, misfit=0.0, mean_misfit=0.0, dependence=0.9)
    flagged = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        real = WORLD.rows(rng, 4000, range(3))
        # Drawn from the device's own rows: no misfit at all.
        sent = real[rng.integers(0, len(real), SENT)]
        flagged += bool(
            judge_batch(sent, count(real, 3.0, rng), names=NAMES, conditions=(0,), limits=limits)
        )
    assert flagged <= 20


@pytest.mark.parametrize(
    ("how", "labels", "sigma", "kinds"),
    [
        ("flip", 1, 0.0, {"shape"}),
        ("flip", 1, 6.0, {"shape"}),
        ("flip", 3, 2.0, {"shape"}),
        ("flip", 10, 0.0, {"dependence"}),
        ("constant", 1, 6.0, {"shape"}),
        ("constant", 3, 2.0, {"shape", "diversity"}),
        ("uniform", 1, 2.0, {"shape"}),
        ("uniform", 3, 2.0, {"shape"}),
        ("shuffle", 10, 0.0, {"dependence"}),
    ],
)
def test_poisoned_batches_are_found(how: str, labels: int, sigma: float, kinds: set[str]) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        own = rng.permutation(LABELS)[:labels]
        many = 4 if labels == 10 else 1
        real = WORLD.rows(rng, many * ROWS, own)
        sent = spoil(WORLD.rows(rng, many * SENT, own), how, rng)
        assert kinds <= set(_judge(sent, count(real, sigma, rng))), seed


@pytest.mark.parametrize("sigma", [0.0, 2.0])
def test_noise_in_every_column_is_found_in_a_small_batch(sigma: float) -> None:
    """No column needs to be further off than a weak generator's; all of them together are."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        real = WORLD.rows(rng, 4 * ROWS, [3])
        sent = WORLD.rows(rng, 120, [3])
        sent[:, 1:] = rng.integers(0, CODES, sent[:, 1:].shape)
        assert "shapes" in _judge(sent, count(real, sigma, rng)), seed


def test_the_mean_distance_is_not_inflated_by_sampling() -> None:
    values, far, errors = [], [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        real = WORLD.rows(rng, 3000, range(3))
        own = count(real, 4.0, rng)
        rows, variance = rows_of(own)
        how = {"weights": np.ones(150), "rows": rows, "rows_variance": variance}
        same = mean_distance(real[rng.integers(0, 3000, 150)], own, **how)
        other = mean_distance(spoil(WORLD.rows(rng, 150), "uniform", rng), own, **how)
        assert same is not None
        assert other is not None
        values.append(same.value)
        far.append(other.value)
        errors.append(other.error)
    assert np.mean(values) < 0.005
    assert np.std(values) < 0.02
    # Where a limit may be reached the error is right.
    assert np.std(far) < np.mean(errors)
    # Total variation of these two is .55 on average over the tables.
    assert 0.4 < np.mean(far) < 0.6
    drowned = count(WORLD.rows(np.random.default_rng(0), 60), 60.0, np.random.default_rng(1))
    none = mean_distance(
        WORLD.rows(np.random.default_rng(2), 150), drowned,
        weights=np.ones(150), rows=60.0, rows_variance=0.0,
    )  # fmt: skip
    assert none is None


def test_rows_that_repeat_a_few_templates_have_vanished_in_diversity() -> None:
    rng = np.random.default_rng(3)
    real = WORLD.rows(rng, 3000)
    templates = WORLD.rows(rng, 12)
    sent = templates[rng.integers(0, 12, SENT)]
    own = [*count(real, 2.0, rng), table(real, (1, 2, 3, 4), 2.0, rng)]
    found = judge_batch(
        sent, own, names=NAMES, conditions=(0,), label=lambda d, code: f"{NAMES[d]}-{code}"
    )
    (finding,) = [f for f in found if f.kind == "diversity"]
    assert finding.value > finding.allowed > finding.expected
    assert "12 different rows among 500" in finding.text
    assert "label=label-" in finding.text


def test_balanced_conditions_are_weighed_back() -> None:
    """The plan may ask for balanced labels: then the label's own shares say nothing."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        real = np.concatenate([WORLD.rows(rng, 2000, [1]), WORLD.rows(rng, 150, [2, 5])])
        sent = weak(WORLD.rows(rng, SENT, [1, 2, 5]), rng)
        own = count(real, 3.0, rng)
        assert "shape" in _judge(sent, own)
        assert _judge(sent, own, clamped_to_own=False) == []
        spoilt = spoil(WORLD.rows(rng, 4 * SENT, [1, 2, 5]), "uniform", rng)
        assert _judge(spoilt, own, clamped_to_own=False)


def test_nothing_is_said_about_what_cannot_be_known() -> None:
    rng = np.random.default_rng(0)
    real = WORLD.rows(rng, 20)
    sent = spoil(WORLD.rows(rng, SENT), "uniform", rng)
    assert _judge(sent, count(real, 60.0, rng)) == []
    assert _judge(sent, []) == []
    assert _judge(sent[:0], count(real, 1.0, rng)) == []
    # Balanced rows of a device that counted no condition cannot be compared.
    other = [t for t in count(real, 0.0, rng, pairs=False) if t.columns != (0,)]
    assert _judge(sent[:10], other, clamped_to_own=False) == []


def test_reasons_have_figures_for_people() -> None:
    rng = np.random.default_rng(1)
    real = WORLD.rows(rng, ROWS, [4])
    found = judge_batch(
        spoil(WORLD.rows(rng, SENT, [4]), "flip", rng),
        count(real, 2.0, rng),
        names=NAMES,
        conditions=(0,),
    )
    first = found[0]
    assert first.kind == "shape"
    assert first.text.startswith("label: 0.9") or first.text.startswith("label: 1.00")
    assert "own counts" in first.text
    assert "noise and sampling" in first.text
    assert first.value > first.allowed


def test_marginals_rows_and_distances_agree_with_what_they_are_made_of() -> None:
    rng = np.random.default_rng(2)
    real = WORLD.rows(rng, 900)
    tables = [*count(real, 0.0, rng), table(real, (0, 3, 5), 0.0, rng)]
    assert rows_of(tables) == (900.0, 0.0)
    noisy = [table(real, (d,), 4.0, rng) for d in range(6)]
    rows, variance = rows_of(noisy)
    assert abs(rows - 900) < 5 * variance**0.5
    assert variance < 16.0 * CODES
    found = marginal([tables[-1]], (3, 5))
    assert found is not None
    np.testing.assert_array_equal(found.counts, table(real, (3, 5), 0.0, rng).counts)
    assert found.variance == 0
    summed = marginal([Table((0, 3), np.ones((10, 4)), 9.0)], (3,))
    assert summed is not None
    assert summed.variance == 90.0
    assert marginal(tables, (7, 8)) is None
    exact = compare(counts_of(real, tables[-1]), tables[-1], sample=900, rows=900)
    assert exact.value == 0
    assert rows_of([]) == (1.0, float("inf"))


def test_dependence_is_unbiased_under_noise() -> None:
    rng = np.random.default_rng(5)
    real = WORLD.rows(rng, 5000)
    sent = WORLD.rows(rng, 5000)
    ratios = []
    for _ in range(200):
        noisy = table(real, (0, 1), 30.0, rng)
        found = dependence(counts_of(sent, noisy).reshape(10, 4), noisy, sample=5000, rows=5000)
        ratios.append((found.product, found.square, found.spread))
    product, square, spread = np.mean(ratios, axis=0)
    assert abs(product / square - 1) < 0.1
    assert np.std([r[1] for r in ratios]) < 1.3 * spread
