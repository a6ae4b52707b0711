from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.errors import SchemaError
from edge_runtime.schema import Coded, Column, Schema, Table

SCHEMA = Schema(
    name="t",
    columns=(
        Column(name="word", kind="category", values=("a", "b"), nullable=True),
        Column(name="n", kind="integer", low=0, high=9),
    ),
)
NUMBERS = np.array([4, 5, 6, 7])
CODES = np.array([1, 0, 2, 1], np.int32)
WORDS = np.array(["b", "a", None, "b"], object)


def coded() -> Table:
    return Table(schema=SCHEMA, columns={"word": Coded(CODES, ("a", "b")), "n": NUMBERS})


def spelled() -> Table:
    return Table(schema=SCHEMA, columns={"word": WORDS, "n": NUMBERS})


def test_codes_and_words_are_the_same_table() -> None:
    for ours, theirs in (
        (coded(), spelled()),
        (coded().take(slice(1, 3)), spelled().take(slice(1, 3))),
        (coded().take(NUMBERS > 4), spelled().take(NUMBERS > 4)),
        (Table.concat([coded(), coded()]), Table.concat([spelled(), spelled()])),
        (Table.concat([coded(), spelled()]), Table.concat([spelled(), spelled()])),
    ):
        assert ours.rows == theirs.rows
        assert dict(ours.columns).keys() == dict(theirs.columns).keys()
        np.testing.assert_array_equal(ours["word"], theirs["word"])
        np.testing.assert_array_equal(ours.missing["word"], theirs.missing["word"])
        assert ours.to_arrow().equals(theirs.to_arrow())
        assert ours.to_pandas().equals(theirs.to_pandas())


def test_words_are_spelled_once() -> None:
    table = coded()
    assert table["word"] is table["word"]
    assert table["word"].dtype == object


def test_other_labels_are_joined_as_words() -> None:
    other = Table(schema=SCHEMA, columns={"word": Coded(CODES, ("b", "a")), "n": NUMBERS})
    joined = Table.concat([coded(), other])
    assert joined["word"].tolist() == ["b", "a", None, "b", "a", "b", None, "a"]


def test_only_categories_can_be_coded() -> None:
    with pytest.raises(SchemaError, match="is no category"):
        Table(schema=SCHEMA, columns={"word": WORDS, "n": Coded(CODES, ("a", "b"))})
