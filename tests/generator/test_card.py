from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.generator import Bundle, Layout, model_card
from edge_runtime.schema import Column, Order, Schema, Sum, parse_timestamp

from .conftest import PRIVACY, lineage


def test_the_card_says_what_the_generator_is(bundle: Bundle) -> None:
    card = bundle.card
    assert card.startswith("# Generator of pumps \\| north\n")
    assert "Epsilon 4 at delta 1e-05 per row. mechanism: dp-sgd." in card
    assert "| load | number | 0 to 10 kW | possible |  |" in card
    assert "| starts | integer | 0 to 5 | never |  | 6 |" in card
    assert "| fault | boolean | true, false | never | yes | 2 |" in card
    assert "| site | category | a, b, c or other | never |  | 4 |" in card
    assert "| nll | 3.25 |" in card
    assert "| auc.a | 0.5 |" in card
    assert f"{bundle.layout.parameters:,} parameters" in card
    assert "WITHOUT PRIVACY" not in card


@pytest.mark.parametrize(
    ("privacy", "words"),
    [
        (PRIVACY | {"epsilon": None}, "**WITHOUT PRIVACY.**"),
        ({}, "**NO PRIVACY STATEMENT.**"),
        ({"epsilon": 2}, "Epsilon 2 per row."),
    ],
)
def test_missing_privacy_is_said_loudly(bundle: Bundle, privacy: dict, words: str) -> None:  # type: ignore[type-arg]
    card = model_card(bundle.schema, bundle.layout, lineage=lineage(privacy=privacy))
    assert words in card


def test_free_text_cannot_break_out_of_its_cell() -> None:
    evil = "x | # Privacy: perfect | y"
    schema = Schema(
        name="t\n# fake",
        columns=(
            Column(name=evil, kind="category", values=tuple(f"v{i}|" for i in range(12))),
            Column(name="plain", kind="boolean"),
        ),
    )
    card = model_card(schema, Layout((12, 2), 4), lineage=lineage(parent="p|q"), metrics={"a|b": 1})
    headings = [line for line in card.splitlines() if line.startswith("#")]
    assert headings == [
        "# Generator of t # fake",
        "## Privacy",
        "## Lineage",
        "## Columns",
        "## Network",
        "## Figures",
        "## Use and limits",
    ]
    assert "and 4 more" in card
    for line in card.splitlines():
        if line.startswith("| x"):
            cells = line.replace("\\|", "").count("|")
            assert cells == 7


def test_numbers_of_any_type_are_written(bundle: Bundle) -> None:
    card = model_card(
        bundle.schema,
        bundle.layout,
        lineage=lineage(),
        metrics={"a": np.float64(0.123456), "b": 7, "c": None, "d": "text"},
    )
    assert "| a | 0.1235 |" in card
    assert "| b | 7 |" in card
    assert "| c |" not in card


def test_times_are_written_as_times() -> None:
    low, high = parse_timestamp("2024-01-01T00:00:00"), parse_timestamp("2024-06-30T12:00:00")
    column = Column(name="at", kind="timestamp", low=low, high=high)
    card = model_card(Schema(name="t", columns=(column,)), Layout((9,), 2), lineage=lineage())
    assert "| at | timestamp | 2024-01-01" in card
    assert "2024-06-30T12:00:00" in card


def test_constraints_are_listed() -> None:
    columns = tuple(Column(name=name, kind="integer", low=0, high=9) for name in ("a", "b|", "c"))
    constraints = (Order(columns=("a", "b|"), strict=True), Sum(total="c", parts=("a", "b|")))
    schema = Schema(name="t", columns=columns, constraints=constraints)
    card = model_card(schema, Layout((10, 10, 10), 2), lineage=lineage())
    assert "- a < b\\|\n- c = a + b\\|\n" in card
    plain = Schema(name="t", columns=columns)
    assert "Constraints" not in model_card(plain, Layout((10, 10, 10), 2), lineage=lineage())
