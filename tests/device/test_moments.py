"""Moments of a device's rows: what one row may add, what leaves, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.device.moments import check_moments, row_vectors, sum_moments
from edge_runtime.errors import PlanError
from edge_runtime.generator import Bundle
from edge_runtime.messages import AnchorRequest, MomentsRequest, products
from edge_runtime.privacy import rdp_gaussian
from tests.device.shop import Shop
from tests.device.test_measure import measure_plan, real_codes


def request_for(bundle: Bundle, **changes: Any) -> MomentsRequest:
    """Scores and centres that differ in every place, for all columns but the first."""
    rng = np.random.default_rng(1)
    cardinalities = bundle.codec.cardinalities
    columns = tuple(range(1, len(cardinalities)))
    parts: dict[str, Any] = {
        "share": 1.0,
        "order": 2,
        "given": 0,
        "groups": cardinalities[0],
        "columns": columns,
        "scores": tuple(
            tuple(np.sort(rng.normal(size=cardinalities[d])).tolist()) for d in columns
        ),
        "centres": tuple(
            tuple(rng.normal(scale=0.3, size=len(columns)).tolist())
            for _ in range(cardinalities[0])
        ),
        "clip_norm": 1.2,
        **changes,
    }
    if parts["order"] == 1:
        parts["centres"] = ()
    return MomentsRequest(**parts)


def reference(codes: np.ndarray, request: MomentsRequest) -> tuple[np.ndarray, np.ndarray]:
    """Return the same sums row by row in plain Python, in scores, and the rows of each group."""
    sums = np.zeros((request.groups, request.width))
    rows = np.zeros(request.groups)
    for row in codes.tolist():
        vector = [s[row[d]] for d, s in zip(request.columns, request.scores, strict=True)]
        if request.order == 2:
            centre = request.centres[row[request.given]]
            vector = [v - c for v, c in zip(vector, centre, strict=True)]
        norm = math.sqrt(sum(v * v for v in vector))
        if norm > request.clip_norm:
            vector = [v * request.clip_norm / norm for v in vector]
        if request.order == 2:
            vector = [
                a * b * (1.0 if i == j else math.sqrt(2))
                for i, a in enumerate(vector)
                for j, b in enumerate(vector)
                if j >= i
            ]
        group = row[request.given] if request.groups > 1 else 0
        sums[group] += vector
        rows[group] += 1
    return sums, rows


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("together", [False, True])
def test_sums_are_those_of_a_plain_loop(
    bundle: Bundle, device: Any, order: int, together: bool
) -> None:
    if order == 1 and together:
        pytest.skip("means are always summed apart")
    changes = {"groups": 1} if together else {}
    request = request_for(bundle, order=order, **changes)
    codes = real_codes(device, bundle)
    sums, rows = reference(codes, request)
    found = sum_moments(codes, request)
    np.testing.assert_allclose(
        found["moments"] * request.unit, sums, atol=0.5 * request.unit * len(codes)
    )
    assert np.abs(found["moments"] * request.unit - sums).max() < 0.05
    np.testing.assert_array_equal(found["rows"] / request.row_units, rows)
    none = sum_moments(codes[:0], request)
    assert not none["moments"].any()
    assert not none["rows"].any()


@given(seed=st.integers(0, 10_000), order=st.sampled_from([1, 2]), clip=st.floats(1e-6, 1e6))
def test_one_row_never_adds_more_than_the_sensitivity(seed: int, order: int, clip: float) -> None:
    rng = np.random.default_rng(seed)
    columns = int(rng.integers(1, 20))
    scale = 10.0 ** rng.integers(-6, 5)
    request = MomentsRequest(
        share=1.0, order=order, given=0, groups=3, columns=tuple(range(1, columns + 1)),  # type: ignore[arg-type]
        scores=tuple(tuple((scale * rng.normal(size=5)).tolist()) for _ in range(columns)),
        centres=tuple(tuple(rng.normal(size=columns).tolist()) for _ in range(3)) if order == 2
        else (), clip_norm=clip,
    )  # fmt: skip
    codes = np.column_stack(
        [rng.integers(0, 3, 50), *(rng.integers(0, 5, 50) for _ in range(columns))]
    ).astype(np.int32)
    vectors = row_vectors(codes, request)
    assert vectors.shape == (50, request.width)
    squares = (vectors.astype(object) ** 2).sum(axis=1)
    assert max(squares) + request.row_units**2 <= request.sensitivity_squared
    # What a row adds is its own, whoever else is there.
    np.testing.assert_array_equal(vectors[7:8], row_vectors(codes[7:8], request))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("clip", [1e-6, 1e6])
@pytest.mark.parametrize("scale", [5e-324, 1e-170, 1e-6, 1e6])
def test_no_request_makes_squares_vanish_or_overflow(scale: float, clip: float, order: int) -> None:
    """A row whose squares underflow would look short, and be added at its full length."""
    request = MomentsRequest(
        share=1.0, order=order, given=0, groups=2, columns=(1, 2),  # type: ignore[arg-type]
        scores=((-scale, scale), (0.0, scale)),
        centres=((scale, -scale), (0.0, 0.0)) if order == 2 else (), clip_norm=clip,
    )  # fmt: skip
    codes = np.array([[0, 0, 0], [0, 1, 1], [1, 1, 1], [0, 0, 1]], np.int32)
    squares = (row_vectors(codes, request).astype(object) ** 2).sum(axis=1)
    assert max(squares) + request.row_units**2 <= request.sensitivity_squared


def test_requests_that_do_not_fit_are_declined(bundle: Bundle) -> None:
    cardinalities = bundle.codec.cardinalities
    request = request_for(bundle)
    check_moments(request, cardinalities)
    with pytest.raises(PlanError, match=f"column {len(cardinalities) - 1}, there are 2"):
        check_moments(request, cardinalities[:2])
    with pytest.raises(PlanError, match="scores for column 1"):
        check_moments(request, (cardinalities[0], 99, *cardinalities[2:]))
    with pytest.raises(PlanError, match=f"column 0 has {cardinalities[0] + 1} codes"):
        check_moments(request, (cardinalities[0] + 1, *cardinalities[1:]))
    sums = request.groups * products(len(request.columns))
    with pytest.raises(PlanError, match=f"are {sums} sums"):
        check_moments(request, cardinalities, most_cells=sums - 1)


def test_sums_leave_with_noise_that_was_paid_for(
    open_shop: Callable[..., Shop], bundle: Bundle, device: Any
) -> None:
    shop = open_shop()
    request = request_for(bundle, share=0.75)
    plan = measure_plan(
        shop, bundle, anchor=AnchorRequest(share=0.25, tables=((0,),)), moments=request
    )
    assert shop.settled(plan).status == "done"
    kinds = [entry.what for entry in shop.entries()]
    assert kinds == ["anchor", "moments"]
    entry = shop.entries()[1]
    header, tensors = shop.summaries()["moments"]
    assert tensors["moments"].shape == (request.groups, request.width)
    sigma = header.extra["sigma"]
    assert isinstance(sigma, float)
    assert entry.covers(rdp_gaussian(sigma / math.sqrt(request.sensitivity_squared)))
    # Nothing is left of the plan's room, and nothing was taken beyond it.
    assert plan.epsilon_after is not None
    assert 0.97 * plan.epsilon_after < shop.ledger.epsilon_spent() <= plan.epsilon_after
    # Four steps at least in a standard deviation are sent; what came is the truth and that noise.
    step = 1 << int(header.extra["shift"])
    assert 4 <= sigma / step < 8
    codes = real_codes(device, bundle)
    truth = sum_moments(codes, request)
    off = np.concatenate([(tensors[n] * step - truth[n]).ravel() for n in ("moments", "rows")])
    # Fourteen values: outside once in 10^5.
    assert 0.3 < np.sqrt(np.mean(off**2)) / sigma < 2.1
    # A second attempt finds the work done and spends nothing.
    spent = shop.ledger.epsilon_spent()
    shop.give(plan)
    assert shop.ledger.epsilon_spent() == spent


def test_without_privacy_sums_are_exact(
    open_shop: Callable[..., Shop], bundle: Bundle, device: Any
) -> None:
    shop = open_shop(epsilon='"none"')
    request = request_for(bundle, order=1)
    plan = measure_plan(shop, bundle, moments=request, epsilon=None)
    assert shop.settled(plan).status == "done"
    header, tensors = shop.summaries()["moments"]
    assert (header.extra["sigma"], header.extra["shift"]) == (0.0, 0)
    assert header.privacy.mechanism == "none"
    truth = sum_moments(real_codes(device, bundle), request)
    for name, tensor in truth.items():
        np.testing.assert_array_equal(tensors[name], tensor)
