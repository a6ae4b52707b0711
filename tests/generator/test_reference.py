from __future__ import annotations

import itertools

import numpy as np
import pytest

from edge_runtime.errors import EngineError
from edge_runtime.generator import Layout, Weights, logits, nll, sample
from edge_runtime.generator.reference import draw

from .conftest import strong_weights

LAYOUT = Layout((3, 2, 4), 12)
WEIGHTS = strong_weights(LAYOUT)
ALL = np.array(list(itertools.product(range(3), range(2), range(4))), np.int32)


def test_logits_are_those_of_the_written_formula() -> None:
    x = np.zeros((len(ALL), LAYOUT.width))
    for column, offset in enumerate(LAYOUT.offsets[:-1]):
        x[np.arange(len(ALL)), offset + ALL[:, column]] = 1
    w = Weights(*(t.astype(np.float64) for t in WEIGHTS))
    h1 = np.maximum(x @ w.w1 + w.b1, 0)
    h2 = np.maximum(h1 @ w.w2 + w.b2, 0) + h1
    np.testing.assert_allclose(logits(WEIGHTS, LAYOUT, ALL), h2 @ w.w3 + w.b3, atol=1e-5)


def test_probabilities_of_all_rows_sum_to_one() -> None:
    assert np.exp(-nll(WEIGHTS, LAYOUT, ALL)).sum() == pytest.approx(1, abs=1e-6)


def test_likelihood_survives_a_wide_spread_of_logits() -> None:
    wide = WEIGHTS._replace(b3=np.array([300, -300, 0, 0, 0, 0, 0, 0, 1], np.float32))
    value = nll(wide, LAYOUT, ALL)
    assert np.isfinite(value).all()
    assert value.max() > 500


def test_sampled_rows_follow_the_likelihood() -> None:
    n = 200_000
    codes = sample(WEIGHTS, LAYOUT, np.random.default_rng(0).random((n, 3), dtype=np.float32))
    assert codes.dtype == np.int32
    found = np.bincount(np.ravel_multi_index(codes.T, (3, 2, 4)), minlength=24)
    expected = n * np.exp(-nll(WEIGHTS, LAYOUT, ALL))
    chi_square = ((found - expected) ** 2 / expected).sum()
    # 23 degrees of freedom: above 60 with probability 4e-5, and the noise is fixed.
    assert chi_square < 60


def test_each_code_is_drawn_from_its_own_logits() -> None:
    noise = np.random.default_rng(1).random((500, 3), dtype=np.float32)
    codes = sample(WEIGHTS, LAYOUT, noise)
    scores = logits(WEIGHTS, LAYOUT, codes)
    for column, (a, b) in enumerate(itertools.pairwise(LAYOUT.offsets)):
        again = draw(scores[:, a:b], noise[:, column])
        # The sampler multiplies block by block, which rounds differently once in a while.
        assert (again == codes[:, column]).mean() > 0.995


def test_draw_at_the_edges() -> None:
    scores = np.log(np.array([[1, 2, 1]], np.float32))
    u = np.array([0, 0.2499, 0.25, 0.7499, 0.75, 0.9999999, 1, 2, 3], np.float32)
    assert draw(scores, u).tolist() == [0, 0, 1, 1, 2, 2, 0, 1, 2]


@pytest.mark.parametrize(
    "codes",
    [
        np.zeros((2, 2), np.int32),
        np.zeros(3, np.int32),
        np.zeros((2, 3), np.int64),
        np.array([[0, 0, 4]], np.int32),
        np.array([[0, -1, 0]], np.int32),
    ],
)
def test_codes_that_do_not_fit_are_refused(codes: np.ndarray) -> None:
    with pytest.raises(EngineError, match="codes"):
        nll(WEIGHTS, LAYOUT, codes)


def test_no_rows_are_fine() -> None:
    assert nll(WEIGHTS, LAYOUT, np.zeros((0, 3), np.int32)).shape == (0,)
    assert sample(WEIGHTS, LAYOUT, np.zeros((0, 3), np.float32)).shape == (0, 3)


@pytest.mark.parametrize("cardinalities", [(5,), (1,), (1, 4, 1), (2,) * 9])
def test_unusual_layouts(cardinalities: tuple[int, ...]) -> None:
    layout = Layout(cardinalities, 3)
    weights = strong_weights(layout)
    noise = np.random.default_rng(0).random((50, layout.columns), dtype=np.float32)
    codes = sample(weights, layout, noise)
    assert (codes >= 0).all()
    assert (codes < np.array(cardinalities)).all()
    assert np.isfinite(nll(weights, layout, codes)).all()
