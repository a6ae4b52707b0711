"""Fidelity, utility and closeness on tables whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ks_2samp

from edge_runtime.errors import EvaluationError
from edge_runtime.evaluation import (
    Features,
    Frame,
    Mlp,
    TargetTask,
    TrainingChoice,
    closest_records,
    measure_fidelity,
    score_network,
    train_and_score,
)
from edge_runtime.schema import Column, Schema

QUICK = TrainingChoice(max_epochs=15, batch=128)


def test_a_table_against_itself_is_perfect(train: Frame) -> None:
    same = measure_fidelity(train, train)
    # one draw of rows for either side, equal when all rows are taken
    assert same.rows == train.rows
    assert same.shapes == pytest.approx(1)
    assert same.pairs == pytest.approx(1)
    assert len(same.pair_scores) == 10
    assert set(same.columns) == set(train.schema.names)


def test_shapes_are_ks_and_total_variation(train: Frame, test: Frame) -> None:
    found = measure_fidelity(train, test, max_rows=2000)
    heat_a = train.sample(2000, seed=0).numbers["heat"]
    heat_b = test.numbers["heat"]
    distance = ks_2samp(heat_a[~np.isnan(heat_a)], heat_b[~np.isnan(heat_b)]).statistic
    assert found.columns["heat"] == pytest.approx(1 - distance, abs=1e-6)
    shares = [
        np.bincount(frame.codes["site"], minlength=3) / frame.rows
        for frame in (train.sample(2000, seed=0), test)
    ]
    assert found.columns["site"] == pytest.approx(1 - np.abs(shares[0] - shares[1]).sum() / 2)


def test_destroyed_relations_cost_pairs_but_not_shapes(
    train: Frame, test: Frame, broken: Frame
) -> None:
    ceiling = measure_fidelity(train, test)
    lost = measure_fidelity(train, broken, max_rows=ceiling.rows)
    assert lost.shapes > ceiling.shapes - 0.02
    assert lost.pairs < ceiling.pairs - 0.05
    by_pair = {(p.a, p.b): p for p in lost.pair_scores}
    assert by_pair["cycles", "heat"].metric == "correlation"
    assert by_pair["cycles", "heat"].score < 0.7
    assert by_pair["site", "hour"].metric == "contingency"


def with_numbers(frame: Frame, **numbers: np.ndarray) -> Frame:
    return Frame(
        schema=frame.schema,
        numbers={**frame.numbers, **numbers},
        codes=frame.codes,
        labels=frame.labels,
    )


def test_a_collapsed_column_is_never_rewarded(train: Frame, test: Frame) -> None:
    healthy = measure_fidelity(train, test)
    collapsed = measure_fidelity(train, with_numbers(test, cycles=np.full(test.rows, 500.0)))
    pair = {(p.a, p.b): p.score for p in collapsed.pair_scores}
    known = ~train.missing("heat")
    correlation = np.corrcoef(train.numbers["heat"][known], train.numbers["cycles"][known])[0, 1]
    assert pair["cycles", "heat"] == pytest.approx(1 - abs(correlation) / 2, abs=0.03)
    assert collapsed.pairs < healthy.pairs - 0.05
    assert collapsed.shapes < healthy.shapes - 0.05


def test_undefined_figures_are_left_out_of_the_mean(train: Frame) -> None:
    constant = train.take(np.zeros(200, np.int64))
    found = measure_fidelity(constant, train)
    pair = {(p.a, p.b): p.score for p in found.pair_scores}
    assert np.isnan(pair["hour", "cycles"])
    assert np.isfinite(found.shapes)
    assert np.isfinite(found.pairs)


def test_columns_without_a_single_value(train: Frame) -> None:
    nothing = with_numbers(train, heat=np.full(train.rows, np.nan))
    assert measure_fidelity(train, nothing).columns["heat"] == 0
    assert measure_fidelity(nothing, nothing).columns["heat"] == 1
    assert closest_records(train, nothing, nothing).rows == 2000


def test_missing_numbers_are_a_bin_of_their_own(train: Frame) -> None:
    none_missing = with_numbers(train, heat=np.nan_to_num(train.numbers["heat"], nan=40.0))
    found = measure_fidelity(train, none_missing)
    pair = next(p for p in found.pair_scores if (p.a, p.b) == ("site", "heat"))
    assert pair.score == pytest.approx(1 - np.isnan(train.numbers["heat"]).mean(), abs=0.02)


def test_empty_tables_are_refused(train: Frame) -> None:
    empty = train.take(np.zeros(0, np.int64))
    with pytest.raises(EvaluationError, match="without rows"):
        measure_fidelity(train, empty)
    with pytest.raises(EvaluationError, match="rows in every table"):
        closest_records(train, empty, train)


def test_utility_ranks_real_above_broken(train: Frame, test: Frame, broken: Frame) -> None:
    task = TargetTask.of(train.schema, "fault", ("site", "hour", "heat"))
    real = train_and_score(train, test, task, choice=QUICK)
    lost = train_and_score(broken, test, task, choice=QUICK)
    assert real.value > 0.85
    # Even noise learns some direction of heat, and heat alone tells much.
    assert lost.value < real.value - 0.1
    assert real.rows == (~train.missing("fault")).sum()
    again = train_and_score(train, test, task, choice=QUICK)
    assert again == real


@pytest.mark.parametrize(
    ("target", "metric", "least"), [("site", "accuracy", 0.45), ("cycles", "r2", 0.7)]
)
def test_other_targets_have_their_metric(
    train: Frame, test: Frame, target: str, metric: str, least: float
) -> None:
    task = TargetTask.of(train.schema, target)
    assert task.metric == metric
    assert target not in task.inputs
    assert train_and_score(train, test, task, choice=QUICK).value > least


def test_two_categories_are_a_binary_task() -> None:
    schema = Schema(
        name="two",
        columns=(
            Column(name="kind", kind="category", values=("a", "b")),
            Column(name="size", kind="number", low=0.0, high=1.0),
        ),
    )
    assert TargetTask.of(schema, "kind").metric == "auc"


def test_rows_that_cannot_train_give_a_reason(train: Frame, test: Frame) -> None:
    task = TargetTask.of(train.schema, "fault")
    one_class = train.take(train.codes["fault"] == 1)
    score = train_and_score(one_class, test, task, choice=QUICK)
    assert np.isnan(score.value)
    assert "same fault" in score.reason
    few = train_and_score(train.take(np.arange(3)), test, task, choice=QUICK)
    assert "only" in few.reason


def test_test_rows_that_cannot_judge_are_refused(train: Frame) -> None:
    features = Features.public(train.schema, ["heat"])
    network = Mlp.create(inputs=features.width, task="binary", seed=0)
    task = TargetTask.of(train.schema, "fault", ["heat"])
    with pytest.raises(EvaluationError, match="AUC needs both"):
        score_network(network, train.take(train.codes["fault"] == 0), task, features)
    with pytest.raises(EvaluationError, match="no test row"):
        score_network(network, train.take(train.codes["fault"] < 0), task, features)
    constant = train.take(np.zeros(5, np.int64))
    number = TargetTask.of(train.schema, "cycles", ["heat"])
    regression = Mlp.create(inputs=features.width, task="regression", seed=0)
    with pytest.raises(EvaluationError, match="R2 is undefined"):
        score_network(regression, constant, number, features)


def test_targets_that_make_no_sense_are_refused(train: Frame) -> None:
    with pytest.raises(EvaluationError, match="not a column"):
        TargetTask.of(train.schema, "ghost")
    with pytest.raises(EvaluationError, match="its own inputs"):
        TargetTask.of(train.schema, "fault", ["fault", "heat"])


def test_copies_of_training_rows_are_noticed(train: Frame, test: Frame) -> None:
    copied = closest_records(train, test, train.sample(500, seed=9), max_references=2000)
    assert copied.closer_to_training - copied.margin > 0.6
    assert copied.exact > 0.3 > copied.exact_held_out
    fresh_rows = np.random.default_rng(0).permutation(test.rows)
    held_out, fresh = test.take(fresh_rows[:1500]), test.take(fresh_rows[1500:])
    honest = closest_records(train, held_out, fresh)
    assert abs(honest.closer_to_training - 0.5) < honest.margin + 0.02
    assert honest.references == 1500
