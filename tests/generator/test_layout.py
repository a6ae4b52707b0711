from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import EngineError
from edge_runtime.generator import Layout, Weights, initial_weights, logits

layouts = st.builds(
    Layout,
    st.lists(st.integers(1, 6), min_size=1, max_size=7).map(tuple),
    st.integers(1, 20),
)


@given(layouts)
def test_degrees_are_sorted_and_spread(layout: Layout) -> None:
    degrees = layout.degrees
    assert degrees.shape == (layout.hidden,)
    assert (np.diff(degrees) >= 0).all()
    assert degrees.min() == 0
    counts = np.bincount(degrees, minlength=max(1, layout.columns - 1))
    assert len(counts) == max(1, layout.columns - 1)
    assert counts.max() - counts.min() <= 1
    for degree, count in enumerate(counts):
        first, end = layout.units(degree)
        assert end - first == count
        assert (degrees[first:end] == degree).all()


@given(layouts, st.integers(0, 2**32 - 1))
def test_logits_of_a_column_see_earlier_columns_only(layout: Layout, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = initial_weights(layout, seed=seed)
    codes = rng.integers(0, layout.cardinalities, (3, layout.columns)).astype(np.int32)
    before = logits(weights, layout, codes)
    for column in range(layout.columns):
        changed = codes.copy()
        rest = layout.cardinalities[column:]
        changed[:, column:] = rng.integers(0, rest, (3, len(rest)))
        end = layout.offsets[column + 1]
        np.testing.assert_array_equal(logits(weights, layout, changed)[:, :end], before[:, :end])


def test_later_columns_do_see_earlier_ones() -> None:
    layout = Layout((3, 3, 3), 12)
    weights = initial_weights(layout, seed=0)
    a = logits(weights, layout, np.array([[0, 0, 0]], np.int32))
    b = logits(weights, layout, np.array([[1, 0, 0]], np.int32))
    assert (a[:, 3:6] != b[:, 3:6]).all()
    assert (a[:, 6:] != b[:, 6:]).all()


@given(layouts, st.integers(0, 2**32 - 1))
def test_flatten_holds_exactly_the_unmasked_parameters(layout: Layout, seed: int) -> None:
    masks = layout.masks
    biases = 2 * layout.hidden + layout.width
    assert layout.parameters == int(sum(m.sum() for m in masks)) + biases
    flat = np.random.default_rng(seed).standard_normal(layout.parameters).astype(np.float32)
    weights = layout.unflatten(flat)
    layout.check(weights)
    for tensor, masked in zip(weights, layout.mask(weights), strict=True):
        np.testing.assert_array_equal(tensor, masked)
    np.testing.assert_array_equal(layout.flatten(weights), flat)


def test_flatten_drops_what_is_masked() -> None:
    layout = Layout((2, 3), 4)
    ones = Weights(*(np.ones(s, np.float32) for s in ((5, 4), (4,), (4, 4), (4,), (4, 5), (5,))))
    assert layout.flatten(ones).sum() == layout.parameters
    assert layout.flatten(ones).size < sum(t.size for t in ones)


@pytest.mark.parametrize(
    ("cardinalities", "hidden", "words"),
    [
        ((), 4, "0 columns"),
        ((2,) * 1025, 4, "1025 columns"),
        ((2, 0), 4, "column 1 has 0 codes"),
        ((2, 70_000), 4, "column 1 has 70000 codes"),
        ((60_000, 60_000), 4, "120000 codes"),
        ((2, 2), 0, "0 hidden"),
        ((2, 2), 1025, "1025 hidden"),
        ((2, 2.0), 4, "must be an integer"),
        ((2, True), 4, "must be an integer"),
        ((2, 2), "4", "must be an integer"),
    ],
)
def test_impossible_layouts_are_refused(cardinalities: object, hidden: object, words: str) -> None:
    with pytest.raises(EngineError, match=words):
        Layout(cardinalities, hidden)  # type: ignore[arg-type]


@given(layouts)
def test_json_form_round_trips(layout: Layout) -> None:
    assert Layout.from_dict(layout.to_dict()) == layout


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {"cardinalities": [2]},
        {"cardinalities": [2], "hidden": 3, "more": 1},
        {"cardinalities": 2, "hidden": 3},
        {"cardinalities": ["2"], "hidden": 3},
    ],
)
def test_wrong_json_is_refused(data: object) -> None:
    with pytest.raises(EngineError):
        Layout.from_dict(data)  # type: ignore[arg-type]


def test_wrong_tensors_are_refused() -> None:
    layout = Layout((2, 3), 4)
    weights = initial_weights(layout, seed=0)
    with pytest.raises(EngineError, match="w2 must be float32"):
        layout.check(weights._replace(w2=weights.w2.astype(np.float64)))
    with pytest.raises(EngineError, match="b3 must be float32"):
        layout.flatten(weights._replace(b3=weights.b3[:-1]))
    with pytest.raises(EngineError, match="parameters must be float32"):
        layout.unflatten(np.zeros(layout.parameters + 1, np.float32))


def test_masks_cannot_be_changed_by_accident() -> None:
    with pytest.raises(ValueError, match="read-only"):
        Layout((2, 3), 4).masks[0][0, 0] = 5
