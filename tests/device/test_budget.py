from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from edge_runtime.device.budget import check_limits, counts_cost, counts_sigma
from edge_runtime.errors import BudgetError, PlanError
from edge_runtime.privacy import ORDERS, to_epsilon
from edge_runtime.schema import Schema

NOTHING = np.zeros_like(ORDERS)


@pytest.mark.parametrize("share", [0.08, 0.5, 1.0])
def test_shares_of_the_room_add_up_to_the_ceiling(share: float) -> None:
    spent = counts_cost(
        sigma=counts_sigma(sensitivity_squared=11, spent=NOTHING, epsilon_after=1.0, delta=1e-5),
        sensitivity_squared=11,
    )
    assert to_epsilon(spent, 1e-5) <= 1.0
    rest = 1.0 - share
    total = spent
    for part in (share, rest):
        if part > 0:
            sigma = counts_sigma(
                sensitivity_squared=20, spent=spent, epsilon_after=4.0, delta=1e-5, share=part
            )
            total = total + counts_cost(sigma=sigma, sensitivity_squared=20)
    assert 3.98 < to_epsilon(total, 1e-5) <= 4.0


def test_no_ceiling_means_no_noise() -> None:
    sigma = counts_sigma(sensitivity_squared=3, spent=NOTHING, epsilon_after=None, delta=0.0)
    assert sigma == 0


def test_noise_grows_with_what_one_row_changes() -> None:
    one, four = (
        counts_sigma(sensitivity_squared=s, spent=NOTHING, epsilon_after=2.0, delta=1e-5)
        for s in (1, 4)
    )
    assert float(four) == pytest.approx(2 * float(one), rel=1e-3)


def test_limits(kit: SimpleNamespace, schema: Schema) -> None:
    plan = kit.census_plan(schema, epsilon=4.0)
    check_limits(plan, epsilon_limit=4.0, delta=1e-5, spent=3.9)
    check_limits(plan, epsilon_limit=None, delta=1e-5, spent=0.0)
    with pytest.raises(BudgetError, match=r"limit is 3\.9"):
        check_limits(plan, epsilon_limit=3.9, delta=1e-5, spent=1.0)
    with pytest.raises(PlanError, match="delta"):
        check_limits(plan, epsilon_limit=8.0, delta=1e-6, spent=0.0)
    with pytest.raises(PlanError, match="already spent"):
        check_limits(plan, epsilon_limit=8.0, delta=1e-5, spent=4.0)
    with pytest.raises(PlanError, match="WITHOUT PRIVACY"):
        check_limits(plan, epsilon_limit=None, delta=1e-5, spent=math.inf)


def test_a_plan_without_privacy_needs_a_device_without_limit(
    kit: SimpleNamespace, schema: Schema
) -> None:
    plan = kit.census_plan(schema, epsilon=None)
    check_limits(plan, epsilon_limit=None, delta=1e-5, spent=math.inf)
    with pytest.raises(PlanError, match="WITHOUT PRIVACY"):
        check_limits(plan, epsilon_limit=1e9, delta=1e-5, spent=0.0)
