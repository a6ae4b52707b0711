"""The schedule never allows more than the budget, and the census's noise fits its share."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.aggregator.budget import make_schedule
from edge_runtime.errors import ConfigError
from edge_runtime.privacy import ORDERS, rdp_gaussian, to_epsilon


@settings(max_examples=30, deadline=None)
@given(
    epsilon=st.floats(0.2, 30),
    delta=st.sampled_from([1e-9, 1e-5, 1e-2]),
    rounds=st.integers(1, 6),
    share=st.floats(0.01, 0.9),
    columns=st.integers(1, 60),
)
def test_the_schedule_rises_to_exactly_the_budget(
    epsilon: float, delta: float, rounds: int, share: float, columns: int
) -> None:
    schedule = make_schedule(
        epsilon=epsilon,
        delta=delta,
        rounds=rounds,
        census_share=share,
        census_sensitivity_squared=columns,
    )
    after = [e for e in schedule.epsilon_after if e is not None]
    assert len(after) == rounds + 1
    assert after == sorted(set(after))
    assert after[-1] == epsilon
    assert schedule.census_sigma is not None
    cost = rdp_gaussian(schedule.census_sigma / columns**0.5)
    assert to_epsilon(cost, delta) == after[0]
    # The census takes exactly its share of rho.
    rho = columns / (2 * schedule.census_sigma**2)
    assert to_epsilon(ORDERS * rho / share, delta) <= epsilon * (1 + 1e-6)
    assert to_epsilon(ORDERS * rho / share, delta) >= epsilon * (1 - 1e-6)


def test_without_privacy_there_is_no_ceiling_and_no_noise() -> None:
    schedule = make_schedule(
        epsilon=None, delta=1e-5, rounds=2, census_share=0.1, census_sensitivity_squared=4
    )
    assert schedule.epsilon_after == (None, None, None)
    assert schedule.census_sigma is None


def test_a_budget_below_every_release_is_refused() -> None:
    assert to_epsilon(ORDERS * 1e-15, 1e-30) > 1e-3
    with pytest.raises(ConfigError, match="too small"):
        make_schedule(
            epsilon=1e-3, delta=1e-30, rounds=1, census_share=0.1, census_sensitivity_squared=4
        )
