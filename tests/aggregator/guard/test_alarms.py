"""Alarms: what declined is named, what is weak is noted, drift is not taken for collapse."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.aggregator.anchor import Table
from edge_runtime.aggregator.guard import (
    AlarmLimits,
    ColumnFacts,
    Comparison,
    CurvePoint,
    Drift,
    budget_alarms,
    drift_alarms,
    kept_figures,
    likelihood_alarm,
    measure,
    measure_alarms,
    ordered,
)
from edge_runtime.messages import Alarm, Alarms, decode_alarms, encode_alarms

from .tables import table

#: late (condition), origin with rare values, delay in 16 bins that follows late
SIZES = (2, 8, 16)
FACTS = (
    ColumnFacts("late", 0, True, lambda code: ("no", "yes")[code]),
    ColumnFacts("origin", 0, False, lambda code: f"O{code}"),
    ColumnFacts("delay", 16, False, lambda code: f"[{code}, {code + 1})"),
)
KEYS = ((0,), (1,), (2,), (0, 1), (0, 2))
ORIGINS = np.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.02, 0.015, 0.005])


def _rows(
    rng: np.random.Generator,
    rows: int,
    *,
    origins: np.ndarray = ORIGINS,
    tails: float = 1.0,
    follow: float = 1.0,
    amplify: float = 1.0,
) -> np.ndarray:
    origin = rng.choice(8, rows, p=origins / origins.sum())
    rate = 0.3 + amplify * 0.15 * np.where(origin == 1, 1.0, np.where(origin == 0, -0.6, 0.0))
    late = rng.random(rows) < rate
    level = 7.5 + 3.0 * (late & (rng.random(rows) < follow))
    delay = np.rint(np.clip(rng.normal(level, 2.6 * tails, rows), 0, 15))
    return np.column_stack([late, origin, delay]).astype(np.int32)


def _anchor(codes: np.ndarray, rng: np.random.Generator, sigma: float = 10.0) -> list[Table]:
    return [table(codes, key, sigma, rng, sizes=SIZES) for key in KEYS]


def _kinds(alarms: list[Alarm], *severities: str) -> set[str]:
    return {a.kind for a in alarms if a.severity in (severities or ("warning", "critical"))}


@pytest.fixture(scope="module")
def real() -> np.ndarray:
    return _rows(np.random.default_rng(99), 20_000)


def test_a_faithful_generator_raises_nothing(real: np.ndarray) -> None:
    for seed in range(60):
        rng = np.random.default_rng(seed)
        measures = measure(_rows(rng, 20_000), _anchor(real, rng), FACTS)
        assert {m.kind for m in measures} == {"tails", "rare", "pairs", "subgroup"}
        best = {f"{m.kind}/{m.subject}": 1.0 for m in measures}
        assert measure_alarms(measures, best=best, round_number=3) == [], seed


@pytest.mark.parametrize(
    ("changes", "kind", "subject"),
    [
        ({"tails": 0.6}, "tails", "delay"),
        ({"origins": np.where(ORIGINS < 0.018, ORIGINS / 8, ORIGINS)}, "rare", "origin=O"),
        ({"follow": 0.25}, "pairs", "late and delay"),
        ({"amplify": 2.2}, "subgroup", "late=yes where origin="),
    ],
)
def test_what_a_generator_loses_is_named(
    real: np.ndarray, changes: dict[str, float], kind: str, subject: str
) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        anchor = _anchor(real, rng)
        before = kept_figures(measure(_rows(rng, 20_000), anchor, FACTS))
        measures = measure(_rows(rng, 20_000, **changes), anchor, FACTS)
        found = measure_alarms(measures, best=before, round_number=4)
        assert kind in _kinds(found), seed
        alarm = next(a for a in found if a.kind == kind)
        assert subject in alarm.subject
        assert alarm.since_round == 4
        assert alarm.error is not None
        assert alarm.text.endswith(".")
        # A generator that never kept it is weak, not collapsing.
        never = dict.fromkeys(before, 0.0)
        noted = measure_alarms(measures, best=never, round_number=4)
        assert _kinds(noted) == set()
        assert kind in _kinds(noted, "notice")
    if kind == "subgroup":
        assert "amplified" in alarm.text


def test_independent_columns_keep_nothing_of_their_dependence(real: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    loose = np.column_stack([rng.permutation(real[:, d]) for d in range(3)])
    kept = {m.subject: m for m in measure(loose, _anchor(real, rng), FACTS) if m.kind == "pairs"}
    for one in kept.values():
        assert abs(one.value) < 4 * one.error < 0.5


def test_drift_that_the_generator_has_not_followed_is_a_notice(real: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    # O6 grows from 1.5 % to 4.9 %: the generator of before falls short of it.
    moved = np.where(np.arange(8) == 6, 0.05, ORIGINS)
    now = _anchor(_rows(rng, 20_000, origins=moved), rng)
    generated = _rows(rng, 20_000)
    before = measure(generated, _anchor(real, rng), FACTS)
    best = {f"{m.kind}/{m.subject}": 1.0 for m in before}
    measures = measure(generated, now, FACTS)
    assert "rare" in _kinds(measure_alarms(measures, best=best, round_number=5))
    found = measure_alarms(measures, best=best, round_number=5, before_drift=before)
    assert _kinds(found) == set()
    assert "has not followed yet" in next(a for a in found if a.kind == "rare").text


def test_an_anchor_that_knows_little_says_little(real: np.ndarray) -> None:
    rng = np.random.default_rng(2)
    few = real[:400]
    assert not [m for m in measure(real, _anchor(few, rng, 60.0), FACTS) if m.kind != "subgroup"]


def test_the_likelihood_alarm_tells_both_bundles() -> None:
    best = CurvePoint("b" * 64, 2, 14.0, 0.02, 0.2, 20, 3000.0)
    (alarm,) = likelihood_alarm((best, Comparison(0.8, 0.05, 18)), bundle="c" * 64, round_number=5)
    assert (alarm.kind, alarm.severity, alarm.expected) == ("likelihood", "critical", 14.0)
    assert "bundle bbbbbbbbbbbb of round 2" in alarm.text
    assert "0.800 nats" in alarm.text
    assert likelihood_alarm(None, bundle="c" * 64, round_number=5) == []


def test_budget_alarms_begin_at_the_stated_share() -> None:
    spent = {"a": 7.3, "b": 3.0, "c": 1.0}
    (alarm,) = budget_alarms(spent, limit=8.0, round_number=2)
    assert (alarm.value, alarm.expected, alarm.severity) == (7.3, 8.0, "notice")
    assert "1 of 3 devices (a)" in alarm.text
    assert budget_alarms(spent, limit=8.0, round_number=2, limits=AlarmLimits(budget=0.95)) == []
    assert budget_alarms(spent, limit=None, round_number=2) == []
    assert budget_alarms({"a": 8.5}, limit=8.0, round_number=2)[0].severity == "critical"


def test_drift_is_told_once() -> None:
    found = [Drift((0, 2), 3, 0.2, 1e-9, 12), Drift((1,), 3, 0.1, 1e-8, 12)]
    (alarm,) = drift_alarms(found, names=("late", "origin", "delay"))
    assert (alarm.kind, alarm.severity, alarm.subject) == ("drift", "notice", "late and delay")
    assert "2 tables changed" in alarm.text
    assert drift_alarms([], names=()) == []


def test_alarms_keep_the_round_they_began_in_and_travel() -> None:
    old = Alarm(kind="tails", severity="warning", subject="delay", since_round=2, text="x")
    new = Alarm(kind="tails", severity="warning", subject="delay", since_round=5, text="y")
    worse = Alarm(kind="likelihood", severity="critical", subject="bundle", since_round=5)
    sorted_ = ordered([new, worse], [old])
    assert [a.kind for a in sorted_] == ["likelihood", "tails"]
    assert [a.since_round for a in sorted_] == [5, 2]
    sent = Alarms(fleet="testing", round=5, bundle_digest="c" * 64, alarms=sorted_)
    assert decode_alarms(encode_alarms(sent)) == sent
