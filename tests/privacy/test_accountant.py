"""The accountant against dp-accounting, against exact integrals, and against itself."""

from __future__ import annotations

import logging

import mpmath
import numpy as np
import pytest
from dp_accounting.rdp import rdp_privacy_accountant as peer
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.privacy import ORDERS, rdp_gaussian, rdp_subsampled_gaussian, to_epsilon

DELTA = 1e-5
GRID = [
    (0.01, 1.0),
    (0.1, 0.8),
    (0.3, 2.0),
    (0.001, 0.6),
    (0.05, 5.0),
    (0.25, 30.0),
    (0.9, 20.0),
    (1e-5, 0.5),
    (0.02, 0.3),
]


@pytest.fixture(autouse=True)
def _quiet_peer():
    """dp-accounting logs every order at which its series does not converge."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


def peer_rdp(q: float, sigma: float) -> np.ndarray:
    return peer._compute_rdp_poisson_subsampled_gaussian(q, sigma, list(ORDERS))


@pytest.mark.parametrize(("q", "sigma"), GRID)
def test_subsampled_is_never_below_the_peer_and_hardly_above(q, sigma):
    ours = rdp_subsampled_gaussian(q, sigma)
    theirs = peer_rdp(q, sigma)
    # Theirs gives up (infinity) where the series for the lowest orders converges slowly; the exact
    # integrals below look after those. Where it is looser than no subsampling at all, the
    # unsampled bound is the one to hold.
    known = np.isfinite(theirs)
    assert known.sum() >= ORDERS.size - 3
    bound = np.minimum(theirs, ORDERS / (2.0 * sigma**2))
    assert np.all(ours[known] >= bound[known] * (1.0 - 1e-12) - 1e-13)
    assert np.all(ours[known] <= bound[known] * (1.0 + 1e-5) + 1e-12)


@pytest.mark.parametrize(("q", "sigma"), GRID)
@pytest.mark.parametrize("steps", [1, 100, 5000])
def test_epsilon_is_never_below_the_peer(q, sigma, steps):
    rdp = rdp_subsampled_gaussian(q, sigma, steps)
    known = peer_rdp(q, sigma)
    known = np.where(np.isfinite(known), steps * np.minimum(known, ORDERS / (2.0 * sigma**2)), rdp)
    ours = to_epsilon(rdp, DELTA)
    theirs, _ = peer.compute_epsilon(list(ORDERS), known, DELTA)
    assert ours >= theirs * (1.0 - 1e-12)
    assert ours == pytest.approx(theirs, rel=1e-4, abs=0.05 if theirs == 0 else 0)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.7, 300.0])
def test_gaussian_matches_the_peer(sigma):
    accountant = peer.RdpAccountant(list(ORDERS))
    accountant.compose(peer.dp_event.GaussianDpEvent(sigma), 3)
    theirs = accountant.get_epsilon(DELTA)
    ours = to_epsilon(3 * rdp_gaussian(sigma), DELTA)
    assert theirs * (1.0 - 1e-12) <= ours <= theirs * (1.0 + 1e-6) + 0.02


def test_whole_accountant_against_the_peers_orders():
    """The peer may choose its own orders; ours must be close to what it finds with them."""
    for q, sigma, steps in [(0.01, 1.0, 1000), (0.01, 1.0, 10_000), (0.05, 1.3, 600)]:
        accountant = peer.RdpAccountant()
        event = peer.dp_event.PoissonSampledDpEvent(q, peer.dp_event.GaussianDpEvent(sigma))
        accountant.compose(event, steps)
        ours = to_epsilon(rdp_subsampled_gaussian(q, sigma, steps), DELTA)
        assert ours == pytest.approx(accountant.get_epsilon(DELTA), rel=5e-3)


def test_published_figures():
    assert to_epsilon(rdp_subsampled_gaussian(0.01, 1.0, 1000), DELTA) == pytest.approx(2.108, 1e-3)
    assert to_epsilon(rdp_subsampled_gaussian(0.01, 1.0, 10_000), DELTA) == pytest.approx(
        6.719, 1e-3
    )


@pytest.mark.parametrize(
    ("q", "sigma"),
    [(0.01, 1.0), (0.1, 0.8), (0.001, 0.5), (0.3, 2.0), (0.05, 10.0)],
)
def test_never_below_the_exact_divergence(q, sigma):
    """E[((1-q) + q e^((2x-1)/2s^2))^a] under N(0, s^2), by quadrature with 25 digits."""
    ours = dict(zip(ORDERS.tolist(), rdp_subsampled_gaussian(q, sigma).tolist(), strict=True))
    with mpmath.workdps(25):
        s, p = mpmath.mpf(sigma), mpmath.mpf(q)
        for order in (1.25, 1.5, 2.0, 3.75, 6.5, 17.0):
            a = mpmath.mpf(order)
            peaks = [-20 * s, -6 * s, 0, a / 2, a, a + 6 * s, a + 20 * s]
            moment = mpmath.quad(
                lambda x, a=a: (
                    mpmath.npdf(x, 0, s) * (1 - p + p * mpmath.exp((2 * x - 1) / (2 * s * s))) ** a
                ),
                sorted(set(peaks)),
            )
            exact = float(mpmath.log(moment) / (a - 1))
            assert ours[order] >= exact * (1.0 - 1e-12)
            if order == int(order):
                assert ours[order] == pytest.approx(exact, rel=1e-7)


def test_also_bounds_the_reverse_divergence():
    """D(N || mixture) must not exceed what is counted for D(mixture || N)."""
    q, sigma = 0.1, 0.8
    ours = dict(zip(ORDERS.tolist(), rdp_subsampled_gaussian(q, sigma).tolist(), strict=True))
    with mpmath.workdps(30):
        for order in (1.5, 2.0, 5.5, 16.0):
            moment = mpmath.quad(
                lambda x, a=order: (
                    mpmath.npdf(x, 0, sigma)
                    * (1 - q + q * mpmath.exp((2 * x - 1) / (2 * sigma**2))) ** (1 - a)
                ),
                [-30, -10, -3, 0, 3, 10, 30],
            )
            assert ours[order] >= float(mpmath.log(moment) / (order - 1))


@settings(max_examples=30, deadline=None)
@given(
    q=st.floats(1e-6, 1.0),
    sigma=st.floats(0.2, 200.0),
    less=st.floats(0.3, 1.0),
    steps=st.integers(1, 5000),
)
def test_monotone(q, sigma, less, steps):
    rdp = rdp_subsampled_gaussian(q, sigma, steps)
    assert np.all(rdp >= 0)
    slack = 1.0 + 1e-7
    # The fractional series is an upper bound that is not itself monotone in q.
    whole = np.floor(ORDERS) == ORDERS
    assert np.all(rdp_subsampled_gaussian(q * less, sigma, steps)[whole] <= rdp[whole] * slack)
    assert np.all(rdp_subsampled_gaussian(q, sigma * less, steps)[whole] >= rdp[whole] / slack)
    assert np.all(rdp_subsampled_gaussian(q, sigma, steps + 1) >= rdp)
    assert np.all(rdp <= steps * rdp_gaussian(sigma) * slack)
    assert to_epsilon(rdp, 1e-7) >= to_epsilon(rdp, 1e-4)


def test_ends_of_the_ranges():
    assert not rdp_subsampled_gaussian(0.0, 1.0, 10).any()
    assert not rdp_subsampled_gaussian(0.5, 1.0, 0).any()
    assert np.array_equal(rdp_subsampled_gaussian(1.0, 2.0, 3), 3 * rdp_gaussian(2.0))
    tiny = rdp_subsampled_gaussian(0.5, 1e-160)
    assert np.isinf(tiny).all()
    assert np.isinf(to_epsilon(tiny, DELTA))
    assert to_epsilon(np.zeros_like(ORDERS), DELTA) == 0.0
    assert np.isinf(to_epsilon(np.full_like(ORDERS, np.inf), DELTA))


@pytest.mark.parametrize("sigma", [0.0, -1.0, np.inf, np.nan])
def test_refuses_noise_out_of_range(sigma):
    with pytest.raises(ValueError, match="noise multiplier"):
        rdp_gaussian(sigma)
    with pytest.raises(ValueError, match="noise multiplier"):
        rdp_subsampled_gaussian(0.5, sigma)


def test_refuses_other_arguments_out_of_range():
    for q in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="probability"):
            rdp_subsampled_gaussian(q, 1.0)
    with pytest.raises(ValueError, match="steps"):
        rdp_subsampled_gaussian(0.1, 1.0, -1)
    for delta in (0.0, 1.0, np.nan):
        with pytest.raises(ValueError, match="delta"):
            to_epsilon(np.zeros_like(ORDERS), delta)
    for bad in (np.zeros(3), np.full_like(ORDERS, np.nan), np.full_like(ORDERS, -1e-9)):
        with pytest.raises(ValueError, match="spent vector"):
            to_epsilon(bad, DELTA)


def test_orders_are_fixed():
    """They are written into ledgers: another grid needs another format version."""
    assert ORDERS.shape == (81,)
    assert np.all(np.diff(ORDERS) > 0)
    assert not ORDERS.flags.writeable
