from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.errors import EngineError
from edge_runtime.generator import Layout, initial_weights, sample

LAYOUT = Layout((3, 4, 2), 16)


def test_same_seed_same_weights_and_masked_from_the_start() -> None:
    a, b, c = (initial_weights(LAYOUT, seed=s) for s in (7, 7, 8))
    for x, y, m in zip(a, b, LAYOUT.mask(a), strict=True):
        np.testing.assert_array_equal(x, y)
        np.testing.assert_array_equal(x, m)
        assert x.dtype == np.float32
    assert (a.w1 != c.w1).any()


def test_untrained_rows_follow_the_marginals() -> None:
    counts = [np.array([700.0, 200.0, 100.0]), np.array([1.0, 1, 1, 997]), np.array([0.0, 10.0])]
    weights = initial_weights(LAYOUT, seed=1, marginals=counts)
    n = 20_000
    codes = sample(weights, LAYOUT, np.random.default_rng(2).random((n, 3), dtype=np.float32))
    for column, count in enumerate(counts[:2]):
        share = np.bincount(codes[:, column], minlength=len(count)) / n
        # Small output weights tilt the shares a little; sampling adds about .004.
        np.testing.assert_allclose(share, count / count.sum(), atol=0.05)


def test_unseen_codes_stay_possible_and_noisy_counts_are_taken() -> None:
    counts = [np.array([-3.0, 50.0, 0.0]), np.zeros(4), np.array([0.2, 0.8])]
    b3 = initial_weights(LAYOUT, seed=1, marginals=counts).b3
    assert np.isfinite(b3).all()
    assert b3[0] == b3[2] < b3[1]
    np.testing.assert_allclose(b3[3:7], np.log(0.25), rtol=1e-6)
    # Probabilities count as shares, not as fewer than two rows.
    np.testing.assert_allclose(np.exp(b3[7:]), [0.2, 0.8], atol=0.001)


@pytest.mark.parametrize(
    "counts",
    [
        [np.ones(3), np.ones(4)],
        [np.ones(3), np.ones(5), np.ones(2)],
        [np.ones(3), np.array([1.0, np.nan, 1, 1]), np.ones(2)],
    ],
)
def test_marginals_that_do_not_fit_are_refused(counts: list[np.ndarray]) -> None:
    with pytest.raises(EngineError, match="marginal"):
        initial_weights(LAYOUT, seed=0, marginals=counts)
