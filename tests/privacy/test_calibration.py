from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import BudgetError
from edge_runtime.privacy import (
    calibrate_counts,
    calibrate_noise,
    rdp_gaussian,
    rdp_subsampled_gaussian,
    to_epsilon,
)

DELTA = 1e-5


@settings(max_examples=12, deadline=None)
@given(
    epsilon=st.floats(0.3, 20.0),
    q=st.floats(1e-4, 1.0),
    steps=st.integers(1, 3000),
    before=st.one_of(st.none(), st.floats(8.0, 100.0)),
)
def test_training_noise_fits_and_is_the_least(epsilon, q, steps, before):
    spent = None if before is None else rdp_gaussian(before)
    start = np.zeros_like(rdp_gaussian(1.0)) if spent is None else spent
    if to_epsilon(start, DELTA) > 0.9 * epsilon:
        return
    sigma = calibrate_noise(spent=spent, epsilon=epsilon, delta=DELTA, q=q, steps=steps)
    assert to_epsilon(start + rdp_subsampled_gaussian(q, sigma, steps), DELTA) <= epsilon
    tighter = start + rdp_subsampled_gaussian(q, sigma * 0.999, steps)
    assert to_epsilon(tighter, DELTA) > epsilon or sigma < 2e-3


def test_counts_by_share_leave_the_rest_for_others():
    spent = rdp_gaussian(6.0)
    sigma = calibrate_counts(
        epsilon=8.0, delta=DELTA, sensitivity_squared=11.0, spent=spent, share=0.25
    )
    whole = calibrate_counts(epsilon=8.0, delta=DELTA, sensitivity_squared=11.0, spent=spent)
    assert sigma == pytest.approx(2.0 * whole)
    after = spent + rdp_gaussian(sigma / np.sqrt(11.0))
    # The other three quarters as one more Gaussian release.
    rest = rdp_gaussian(whole / np.sqrt(0.75) / np.sqrt(11.0))
    assert to_epsilon(after + rest, DELTA) == pytest.approx(8.0, rel=1e-3)
    assert to_epsilon(after + rest, DELTA) <= 8.0 * (1 + 1e-9)


def test_nothing_left_is_refused_with_the_numbers():
    spent = rdp_gaussian(0.5)
    with pytest.raises(BudgetError) as caught:
        calibrate_noise(spent=spent, epsilon=1.0, delta=DELTA, q=0.1, steps=10)
    assert caught.value.limit == 1.0
    assert caught.value.spent == pytest.approx(to_epsilon(spent, DELTA))
    assert caught.value.needed >= caught.value.spent
    with pytest.raises(BudgetError):
        calibrate_counts(epsilon=1.0, delta=DELTA, sensitivity_squared=3.0, spent=spent)


def test_arguments_out_of_range():
    for share in (0.0, 1.1, -1.0):
        with pytest.raises(ValueError, match="share"):
            calibrate_counts(epsilon=1.0, delta=DELTA, sensitivity_squared=1.0, share=share)
    with pytest.raises(ValueError, match="sensitivity"):
        calibrate_counts(epsilon=1.0, delta=DELTA, sensitivity_squared=0.0)


def test_huge_budget_needs_hardly_any_noise():
    assert calibrate_noise(spent=None, epsilon=1e9, delta=DELTA, q=0.1, steps=1) < 0.01
