"""The statement says what every plan asked for, and is honest from strong to none."""

from __future__ import annotations

from typing import Any

import pytest

from edge_runtime.aggregator.composition import composition
from edge_runtime.aggregator.privacy_page import privacy_page
from edge_runtime.aggregator.records import MessageRecord, RoundRecord
from edge_runtime.aggregator.statement import privacy_facts
from edge_runtime.messages import (
    AnchorRequest,
    Plan,
    RowRequest,
    ScoreRequest,
    TrainRequest,
    UpdateRequest,
    encode_plan,
    new_id,
)

from .conftest import make_schema

TRAIN = TrainRequest(steps=1500, expected_batch=256, clip_norm=0.5, learning_rate=0.01)
ROWS = RowRequest(share=1.0, minimum=1, maximum=10)


def record(number: int, kind: str, epsilon: float | None, **parts: Any) -> RoundRecord:
    plan = Plan(
        fleet="f", id=new_id(), round=number, kind=kind, schema_digest="a" * 64,  # type: ignore[arg-type]
        bundle_digest=None if kind == "census" else "b" * 64, epsilon_after=epsilon,
        delta=0.0 if epsilon is None else 1e-5, deadline_s=1.0, quorum=1, **parts,
    )  # fmt: skip
    return RoundRecord(number, kind, plan.id, encode_plan(plan).decode(), "closed", 0.0, 1.0, "")


def message(number: int, device: str, epsilon: float | None) -> MessageRecord:
    return MessageRecord(
        id=new_id(), device=device, sequence=number, sha256="", kind="batch", status="accepted",
        reason="", round=number, plan_id="", part=1, parts=1, depth=1, bundle_digest="b" * 64,
        rows=1, bytes=1, path="", epsilon=epsilon, received_at="",
    )  # fmt: skip


def rounds(*, private: bool) -> list[dict[str, Any]]:
    spent = (1.0, 2.0, 4.0) if private else (None,) * 3
    records = [
        record(0, "census", spent[0]),
        record(
            1, "measure", spent[1], holdout=0.1,
            anchor=AnchorRequest(share=0.75, tables=((0,), (1, 2, 3))),
            score=ScoreRequest(share=0.25, clip_nats=30.0),
        ),
        record(
            2, "train", spent[2], train=TRAIN, rows=ROWS, update=UpdateRequest(clip_norm=1.0),
            anchor=AnchorRequest(share=0.1, tables=((0,),)),
        ),
    ]  # fmt: skip
    messages = [
        message(number, device, spent[number] and spent[number] * share)  # type: ignore[operator]
        for number in range(3)
        for device, share in (("a", 0.5), ("b", 0.9))
        if (number, device) != (2, "a")
    ]
    return composition(records, messages)


def test_every_release_of_a_plan_is_in_words() -> None:
    census, measure, train = rounds(private=True)
    assert [e["devices"] for e in (census, measure, train)] == [2, 2, 1]
    assert [e["ceiling"] for e in (census, measure, train)] == [1.0, 2.0, 4.0]
    assert [e["stated"] for e in (census, measure, train)] == pytest.approx([0.9, 1.8, 3.6])
    assert len(census["mechanisms"]) == 1
    counts, score = measure["mechanisms"]
    assert "2 tables of counts over up to 3 columns together" in counts
    assert "75% of the round's budget" in counts
    assert "at most 30" not in score
    assert "cut at 30 nats a row" in score
    anchor, training, rows, update = train["mechanisms"]
    assert "1 table of counts over single columns: exact discrete Gaussian noise" in anchor
    assert "1,500 steps" in training
    assert "about 256 rows" in training
    assert "cut to norm 0.5" in training
    assert "no further cost" in rows
    assert "weights" in update
    said = " ".join(m for e in rounds(private=False) for m in e["mechanisms"])
    assert said.count("no noise") == 5
    for word in ("Gaussian", "budget", "cost", "DP-SGD"):
        assert word not in said, word


def page(epsilon: float, limit: float | None) -> str:
    facts = privacy_facts(epsilon_limit=limit, epsilon=epsilon, delta=1e-5, schema=make_schema())
    return privacy_page(
        title="x | y", privacy=facts, rounds=rounds(private=limit is not None), release="Rows."
    )


def test_the_figures_are_explained_from_strong_to_weak() -> None:
    # Odds of even become e^eps to 1.
    for epsilon, belief, factor, strength in (
        (0.5, "at most 62.2% sure", "(1.65)", "a strong guarantee"),
        (2.0, "at most 88.1% sure", "(7.39)", "moderate strength"),
        (8.0, "at most 99.966% sure", "(2,981)", "moderate strength"),
        (20.0, "practically sure", "(over a million)", "a weak guarantee"),
    ):
        text = page(epsilon, 20.0)
        for words in (belief, factor, strength, "one row: added or removed", "1e-05"):
            assert words in text, (epsilon, words)
        assert "WITHOUT PRIVACY" not in text
        assert "Several rows of one person" in text
    assert "x \\| y" in text  # a name cannot open a column of a table


def test_without_privacy_there_is_no_guarantee_to_read_into_it() -> None:
    text = page(0.0, None)
    assert "## WITHOUT PRIVACY" in text
    assert "There is no guarantee" in text
    assert "none: WITHOUT PRIVACY" in text
    for words in ("The guarantee", "strong", "protected unit", "sure of it"):
        assert words not in text
