"""Merged moments: what noise leaves of means and covariances, and the rows drawn from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge_runtime.aggregator.anchor import Anchor, DeviceCounts, Table
from edge_runtime.aggregator.moments import DeviceMoments, merge_means, merge_moments
from edge_runtime.aggregator.prior import prior_rows
from edge_runtime.aggregator.scores import normal_scores, ordered_columns, variance_of
from edge_runtime.device.moments import sum_moments
from edge_runtime.messages import MomentsRequest
from edge_runtime.schema import Column, Schema

F64 = npt.NDArray[np.float64]

#: enough bins that scores are nearly the normal numbers behind them
K = 40
SHARE = np.full(K, 1.0 / K)
SCORES = normal_scores(SHARE, nullable=False)
#: condition 0 has columns that rise together, in condition 1 one falls as the other rises
CENTRES = np.array([[0.5, -0.5, 0.0], [-0.5, 0.5, 0.0]])
COVARIANCES = np.array(
    [
        [[0.7, 0.5, 0.0], [0.5, 0.7, 0.0], [0.0, 0.0, 1.0]],
        [[0.7, -0.5, 0.0], [-0.5, 0.7, 0.0], [0.0, 0.0, 1.0]],
    ]
)
VARIANCES = {d: variance_of(SHARE, SCORES) for d in (1, 2, 3)}


def rows_of(condition: int, rows: int, *, seed: int) -> npt.NDArray[np.int32]:
    rng = np.random.default_rng(seed)
    drawn = rng.multivariate_normal(CENTRES[condition], COVARIANCES[condition], rows)
    codes = np.searchsorted((SCORES[1:] + SCORES[:-1]) / 2, drawn)
    return np.column_stack([np.full(rows, condition), codes]).astype(np.int32)


def request(order: int, *, centres: F64 | None = None, groups: int = 2) -> MomentsRequest:
    return MomentsRequest(
        share=1.0, order=order, given=0, groups=groups, columns=(1, 2, 3),  # type: ignore[arg-type]
        scores=(tuple(SCORES.tolist()),) * 3, clip_norm=3.0,
        centres=() if centres is None else tuple(tuple(c.tolist()) for c in centres),
    )  # fmt: skip


def release(
    device: str,
    number: int,
    asked: MomentsRequest,
    codes: npt.NDArray[np.int32],
    *,
    sigma: float = 0.0,
    seed: int = 0,
) -> DeviceMoments:
    """Return what a device would release, its noise `sigma` in scores."""
    rng = np.random.default_rng([seed, number, int(device[1:])])
    exact = sum_moments(codes, asked)
    sums = exact["moments"] * asked.unit
    rows = exact["rows"] / asked.row_units
    row_sigma = sigma / asked.unit / asked.row_units
    return DeviceMoments(
        device, number, asked,
        sums + rng.normal(0, sigma, sums.shape), rows + rng.normal(0, row_sigma, rows.shape),
        sigma, row_sigma,
    )  # fmt: skip


def fleet(sigma: float = 0.0, *, together: bool = False, seed: int = 0) -> list[DeviceMoments]:
    """Ten devices of 300 rows, each with one condition only; means, then products."""
    codes = {f"d{i}": rows_of(i % 2, 300, seed=i) for i in range(10)}
    first = [
        release(name, 1, request(1), own, sigma=sigma, seed=seed) for name, own in codes.items()
    ]
    means = merge_means(first, counts(first))
    assert means is not None
    asked = request(2, centres=means.centres, groups=1 if together else 2)
    return first + [
        release(name, 2, asked, own, sigma=sigma, seed=seed) for name, own in codes.items()
    ]


def counts(releases: list[DeviceMoments]) -> list[DeviceCounts]:
    return [r.counts for r in releases if r.counts is not None]


def test_exact_sums_give_means_and_covariances_back() -> None:
    releases = fleet()
    moments = merge_moments(releases, counts(releases), VARIANCES, nullable=[3])
    assert moments is not None
    assert (moments.given, moments.columns, moments.nullable) == (0, (1, 2, 3), frozenset({3}))
    np.testing.assert_allclose(moments.centres, CENTRES, atol=0.08)
    np.testing.assert_allclose(moments.covariances, COVARIANCES, atol=0.15)
    means = merge_means(releases, counts(releases))
    assert means is not None
    np.testing.assert_allclose(means.rows, [1500, 1500])
    np.testing.assert_allclose(means.devices, [5, 5])
    np.testing.assert_allclose(means.between(), [0.25, 0.25, 0.0], atol=0.06)


def test_before_products_columns_vary_alone() -> None:
    releases = [r for r in fleet() if r.request.order == 1]
    moments = merge_moments(releases, counts(releases), VARIANCES)
    assert moments is not None
    for covariance in moments.covariances:
        assert not (covariance - np.diag(np.diag(covariance))).any()
        # What lies between conditions is not within them.
        np.testing.assert_allclose(np.diag(covariance), [0.73, 0.73, 0.98], atol=0.08)
    assert merge_moments([], [], VARIANCES) is None


def test_sums_of_all_rows_together_give_one_covariance() -> None:
    releases = fleet(together=True)
    moments = merge_moments(releases, counts(releases), VARIANCES)
    assert moments is not None
    np.testing.assert_array_equal(moments.covariances[0], moments.covariances[1])
    # The opposite signs cancel.
    np.testing.assert_allclose(moments.covariances[0], COVARIANCES.mean(axis=0), atol=0.12)


def test_conditions_that_a_device_does_not_have_add_no_noise() -> None:
    """With one condition a device, half of what comes is noise about nothing."""
    sigma = 30.0
    errors, naive, heard = [], [], []
    for seed in range(8):
        releases = [r for r in fleet(sigma, seed=seed) if r.request.order == 1]
        means = merge_means(releases, counts(releases))
        assert means is not None
        heard.append(means.devices)
        assert (means.devices >= 5).all()
        np.testing.assert_allclose(means.variance, means.devices * sigma**2 / means.rows**2)
        errors.append(np.mean((means.centres - CENTRES) ** 2))
        summed = sum(r.sums for r in releases) / 1500.0
        naive.append(np.mean((summed - CENTRES) ** 2))
    # Five devices have a condition; now and then noise passes for a sixth.
    assert np.mean(heard) < 5.5
    assert np.mean(errors) < 0.85 * np.mean(naive)


@pytest.mark.parametrize("sigma", [20.0, 100.0, 1000.0])
def test_noise_never_makes_a_covariance_that_is_none(sigma: float) -> None:
    releases = fleet(sigma)
    moments = merge_moments(releases, counts(releases), VARIANCES)
    if moments is None:
        # So much noise that no condition is seen at all.
        assert sigma == 1000.0
        return
    for covariance in moments.covariances:
        assert np.linalg.eigvalsh(covariance).min() >= 0.02 - 1e-9
        np.testing.assert_allclose(covariance, covariance.T)
    assert np.isfinite(moments.centres).all()


def test_more_noise_draws_conditions_towards_each_other() -> None:
    apart = []
    for sigma in (0.0, 20.0, 60.0):
        found = []
        for seed in range(5):
            releases = fleet(sigma, seed=seed)
            moments = merge_moments(releases, counts(releases), VARIANCES)
            assert moments is not None
            found.append(moments.covariances[0, 0, 1] - moments.covariances[1, 0, 1])
        apart.append(float(np.mean(found)))
    assert apart[0] == pytest.approx(1.0, abs=0.15)
    assert apart[0] > apart[1] > 0.3
    assert apart[1] > apart[2]


def test_a_repeated_release_is_averaged_and_other_scores_do_not_count() -> None:
    releases = [r for r in fleet() if r.request.order == 1]
    again = [r._replace(round=2, sums=r.sums + 300.0, sigma=5.0) for r in releases]
    first = [r._replace(sigma=5.0) for r in releases]
    means = merge_means([*first, *again], counts(releases))
    once = merge_means(first, counts(releases))
    assert means is not None
    assert once is not None
    assert means.variance[0] == pytest.approx(once.variance[0] / 2)
    assert means.centres[0, 2] - once.centres[0, 2] == pytest.approx(0.5, abs=0.05)
    other = request(1)
    other = MomentsRequest(
        **{f: getattr(other, f) for f in other.__struct_fields__ if f != "scores"},
        scores=((0.0,) * K,) * 3,
    )
    strange = [r._replace(round=0, request=other) for r in releases]
    alone = merge_means([*strange, *releases], counts(releases))
    plain = merge_means(releases, counts(releases))
    assert alone is not None
    assert plain is not None
    np.testing.assert_array_equal(alone.centres, plain.centres)


def anchor_of(rows: float = 3000.0) -> Anchor:
    singles = {
        (d,): Table((d,), np.full(K, rows / K), 0.0) for d in (1, 2)
    }  # fmt: skip
    lost = np.append(np.full(K, 0.8 * rows / K), 0.2 * rows)
    return Anchor(
        {
            (0,): Table((0,), np.array([0.5, 0.5]) * rows, 0.0),
            **singles,
            (3,): Table((3,), lost, 0.0),
        },
        10,
    )


def test_rows_vary_together_as_the_moments_say() -> None:
    releases = fleet()
    moments = merge_moments(releases, counts(releases), VARIANCES, nullable=[3])
    assert moments is not None
    moments = moments._replace(scores=(*moments.scores[:2], (*moments.scores[2], 0.0)))
    cardinalities = (2, K, K, K + 1)
    codes = prior_rows(anchor_of(), cardinalities, (0,), 40_000, moments=moments)
    again = prior_rows(anchor_of(), cardinalities, (0,), 40_000, moments=moments)
    np.testing.assert_array_equal(codes, again)
    assert codes.min() >= 0
    assert (codes.max(axis=0) < cardinalities).all()
    for condition, sign in ((0, 1.0), (1, -1.0)):
        own = codes[codes[:, 0] == condition]
        scores = SCORES[own[:, 1:3]]
        np.testing.assert_allclose(scores.mean(axis=0), CENTRES[condition, :2], atol=0.08)
        assert np.corrcoef(scores.T)[0, 1] == pytest.approx(sign * 5 / 7, abs=0.08)
        # Missing values are as frequent as counted, and lie with no others.
        lost = own[:, 3] == K
        assert lost.mean() == pytest.approx(0.2, abs=0.02)
        assert abs(np.corrcoef(lost, scores[:, 0])[0, 1]) < 0.03
    # Without the condition that they are given, moments say nothing.
    other = prior_rows(anchor_of(), cardinalities, (), 2000, moments=moments)
    assert abs(np.corrcoef(other[:, 1], other[:, 2])[0, 1]) < 0.1


# --- scores --------------------------------------------------------------------------------------


def test_scores_are_those_of_a_normal_column() -> None:
    rng = np.random.default_rng(0)
    share = np.array([0.1, 0.5, 0.15, 0.25])
    normal = np.sort(rng.normal(size=400_000))
    pieces = np.split(normal, np.rint(np.cumsum(share)[:-1] * len(normal)).astype(int))
    np.testing.assert_allclose(
        normal_scores(share, nullable=False), [piece.mean() for piece in pieces], atol=0.01
    )
    assert share @ normal_scores(share, nullable=False) == pytest.approx(0.0, abs=1e-9)
    lost = normal_scores(np.append(share * 0.5, 0.5), nullable=True)
    np.testing.assert_allclose(lost[:4], normal_scores(share, nullable=False))
    assert lost[4] == 0.0
    fine = normal_scores(np.full(1000, 1e-3), nullable=False)
    assert variance_of(np.full(1000, 1e-3), fine) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("share", [[0.0, 1.0, 0.0], [1.0], [0.0, 0.0, 1.0, 0.0, 0.0]])
def test_codes_without_rows_keep_the_order(share: list[float]) -> None:
    scores = normal_scores(np.array(share), nullable=False)
    assert np.isfinite(scores).all()
    assert (np.diff(scores) > 0).all()


def test_conditions_and_names_have_no_scores() -> None:
    kinds: list[dict[str, Any]] = [
        {"kind": "number", "low": 0.0, "high": 1.0, "condition": True},
        {"kind": "category", "values": ("a", "b")},
        {"kind": "integer", "low": 0.0, "high": 9.0},
        {"kind": "boolean"},
        {"kind": "number", "low": 0.0, "high": 1.0, "nullable": True},
    ]
    columns = tuple(Column(name=f"c{i}", **kind) for i, kind in enumerate(kinds))
    assert ordered_columns(Schema(name="t", columns=columns)) == (2, 3, 4)
