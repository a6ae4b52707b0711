"""The score curve: stated errors hold, a worse bundle is found, an equal one is not."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.aggregator.guard import (
    best_point,
    compare_bundles,
    score_curve,
    worsened,
)
from edge_runtime.aggregator.summaries import DeviceScore

CLIP, SIGMA = 40.0, 1500.0  # noise in units of 1/1024 row
ALWAYS = {"margin": 0.01, "false_alarms": 1e-3}


def _fleet(
    rng: np.random.Generator, *, devices: int = 20, rows: int = 150, sigma: float = SIGMA
) -> list[tuple[str, np.ndarray]]:
    """Held-out rows' NLL under a reference; devices differ in level and spread."""
    return [
        (f"d{i}", np.clip(rng.normal(rng.normal(14, 2), 3.0, rows), 0.5, CLIP))
        for i in range(devices)
    ]


def _score(
    fleet: list[tuple[str, np.ndarray]],
    bundle: str,
    round_number: int,
    rng: np.random.Generator,
    *,
    factor: float = 1.0,
    jitter: float = 0.5,
    sigma: float = SIGMA,
) -> list[DeviceScore]:
    """Release clipped sums and counts with noise, as devices do."""
    scores = []
    for device, nll in fleet:
        seen = np.clip(factor * nll + rng.normal(0, jitter, len(nll)), 0, CLIP)
        total = np.rint(1024 * seen / CLIP).sum() + np.rint(rng.normal(0, sigma))
        count = 1024 * len(nll) + np.rint(rng.normal(0, sigma))
        scores.append(
            DeviceScore(
                device=device,
                round=round_number,
                bundle_digest=bundle,
                nats=total / 1024 * CLIP,
                rows=count / 1024,
                sigma_rows=sigma / 1024,
                clip_nats=CLIP,
            )
        )
    return scores


def test_the_curve_is_a_sum_over_sums() -> None:
    rng = np.random.default_rng(0)
    fleet = _fleet(rng)
    scores = _score(fleet, "b" * 64, 2, rng) + _score(fleet, "a" * 64, 1, rng)
    points = score_curve(scores)
    assert [p.bundle[0] for p in points] == ["a", "b"]
    truth = np.concatenate([nll for _, nll in fleet]).mean()
    for point in points:
        assert (point.devices, point.round) == (20, 1 if point.bundle[0] == "a" else 2)
        assert abs(point.nll - truth) < 4 * point.noise_error
        assert 0 < point.noise_error < point.error
        assert abs(point.rows - 3000) < 50
    assert best_point(points) in points
    assert best_point([]) is None
    assert score_curve(scores, since_round=2)[0].bundle == "b" * 64


def test_stated_errors_hold() -> None:
    """Over many fleets the mean lies within two standard errors in about 95 % of them."""
    inside = []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        (point,) = score_curve(_score(_fleet(rng), "a", 1, rng))
        inside.append(abs(point.nll - 14.0) < 2 * point.error)
    assert 0.88 < np.mean(inside) <= 1.0


@pytest.mark.parametrize("devices", [1, 3, 20])
def test_bundles_that_are_alike_raise_no_alarm(devices: int) -> None:
    for seed in range(100):
        rng = np.random.default_rng(seed)
        fleet = _fleet(rng, devices=devices)
        scores = _score(fleet, "a", 1, rng) + _score(fleet, "b", 2, rng)
        scores += _score(fleet, "c", 3, rng, factor=1.005)
        assert worsened(scores, bundle="c", among=["a", "b"], **ALWAYS) is None


def test_a_collapsing_bundle_is_found_and_the_best_named() -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        fleet = _fleet(rng)
        scores = _score(fleet, "a", 1, rng, factor=1.05) + _score(fleet, "b", 2, rng)
        # Other devices score it, some of them new.
        fresh = [(f"new{device}", nll) for device, nll in _fleet(rng, devices=3)]
        scores += _score([*fleet[4:], *fresh], "c", 3, rng, factor=1.08)
        found = worsened(scores, bundle="c", among=["a", "b", "c", "never scored"], **ALWAYS)
        assert found is not None
        point, worse = found
        assert point.bundle == "b"
        assert worse.paired == 16
        assert abs(worse.difference - 0.08 * 14) < 5 * worse.error


def test_pairing_takes_the_devices_own_level_out() -> None:
    rng = np.random.default_rng(1)
    fleet = _fleet(rng)
    scores = _score(fleet, "a", 1, rng) + _score(fleet, "b", 2, rng)
    paired = compare_bundles(scores, bundle="b", against="a")
    assert paired is not None
    other = _fleet(rng)
    renamed = [(f"e{i}", nll) for i, (_, nll) in enumerate(other)]
    apart = compare_bundles(
        _score(fleet, "a", 1, rng) + _score(renamed, "b", 2, rng), bundle="b", against="a"
    )
    assert apart is not None
    assert (paired.paired, apart.paired) == (20, 0)
    assert paired.error < apart.error / 2
    assert compare_bundles(scores, bundle="b", against="none") is None


def test_without_noise_the_spread_over_devices_is_the_error() -> None:
    rng = np.random.default_rng(2)
    fleet = _fleet(rng)
    exact = {"sigma": 0.0, "jitter": 0.0}
    scores = _score(fleet, "a", 1, rng, **exact) + _score(fleet, "b", 2, rng, **exact)
    same = compare_bundles(scores, bundle="b", against="a")
    assert same is not None
    assert (same.difference, same.error) == (0.0, 0.0)
    assert (same.p_value(), same.p_value(-0.1)) == (1.0, 0.0)
