"""Renyi differential privacy of the mechanisms, on a fixed grid of orders, with NumPy alone.

A spent budget is a float64 vector with one entry per order: vectors of successive releases add
up (Mironov 2017, Proposition 1), and only the sum is turned into an epsilon. Every function here
returns an upper bound; rounding errors of the float64 arithmetic are covered by `_ROUNDING`.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["ORDERS", "rdp_gaussian", "rdp_subsampled_gaussian", "to_epsilon"]

F64 = NDArray[np.float64]

#: The Renyi orders of every spent vector. They are part of the ledger's format. Fractional ones
#: are dense where epsilons of 2 to 20 at delta = 1e-5 have their optimum, the large ones serve
#: epsilons below one.
ORDERS: F64 = np.array(
    [1.25, 1.5, 1.75, 2.25, 2.5, 2.75, 3.25, 3.5, 3.75, 4.5, 5.5, 6.5]
    + [float(order) for order in range(2, 65)]
    + [80.0, 96.0, 128.0, 192.0, 256.0, 512.0]
)
ORDERS.sort()
ORDERS.setflags(write=False)

#: Relative rounding of a sum of at most 512 float64 terms, whose logarithms are below 1e6, is
#: far below this; results are enlarged by it so that they stay upper bounds.
_ROUNDING = 1e-9

#: Terms of the series for fractional orders; the rest is bounded in closed form.
_TERMS = 256


def rdp_gaussian(noise_multiplier: float) -> F64:
    """Renyi divergence of the Gaussian mechanism, alpha / (2 sigma^2) (Mironov 2017, Cor. 3).

    The discrete Gaussian on integers satisfies the same bound (Canonne, Kamath, Steinke 2020,
    Theorem 14), with `noise_multiplier` = sigma over the L2 sensitivity.

    Parameters
    ----------
    noise_multiplier : float
        Standard deviation of the noise in units of the L2 sensitivity, above 0.

    Returns
    -------
    float64 [orders]

    Raises
    ------
    ValueError
        If `noise_multiplier` is not a positive number.
    """
    _check_noise(noise_multiplier)
    with np.errstate(over="ignore"):
        rdp: F64 = ORDERS / (2.0 * noise_multiplier) / noise_multiplier * (1.0 + _ROUNDING)
    return rdp


def rdp_subsampled_gaussian(q: float, noise_multiplier: float, steps: int = 1) -> F64:
    """Renyi divergence of `steps` Gaussian mechanisms, each on a fresh Poisson sample.

    Integer orders by the binomial sum of Mironov, Talwar and Zhang 2019 (arXiv 1908.10530,
    section 3.3), fractional orders by their series with every term taken positive. Rows are
    neighbours by adding or removing one row.

    Parameters
    ----------
    q : float
        Probability that a row is in the sample, 0 to 1.
    noise_multiplier : float
        Standard deviation of the noise in units of the clipping norm, above 0.
    steps : int
        Number of compositions, 0 or more.

    Returns
    -------
    float64 [orders]

    Raises
    ------
    ValueError
        If an argument lies outside its range.
    """
    _check_noise(noise_multiplier)
    if not 0.0 <= q <= 1.0:
        raise ValueError(f"sampling probability {q} is not between 0 and 1")
    if steps < 0:
        raise ValueError(f"steps {steps} is negative")
    if q == 0.0 or steps == 0:
        return np.zeros_like(ORDERS)
    if q == 1.0:
        return steps * rdp_gaussian(noise_multiplier)
    # The Gaussian without subsampling bounds the subsampled one (post-processing and convexity),
    # and the fractional series is loose at large q: the smaller of two valid bounds is valid.
    whole = rdp_gaussian(noise_multiplier)
    # Overflow makes a cost infinite, which is then what it is.
    with np.errstate(over="ignore"):
        rdp = np.array(
            [
                _log_moment_integer(int(order), q, noise_multiplier) / (order - 1.0)
                if float(order).is_integer()
                else _log_moment_fractional(float(order), q, noise_multiplier) / (order - 1.0)
                for order in ORDERS
            ]
        )
    result: F64 = steps * np.minimum(rdp * (1.0 + _ROUNDING), whole)
    return result


def to_epsilon(rdp: F64, delta: float) -> float:
    """Smallest epsilon such that the spent vector implies (epsilon, delta)-privacy.

    Canonne, Kamath, Steinke 2020 (arXiv 2004.00010), Proposition 12, minimised over the orders.

    Parameters
    ----------
    rdp : float64 [orders]
        Sum of the spent vectors; infinite for a release without privacy.
    delta : float
        Between 0 and 1, both excluded.

    Returns
    -------
    float
        0 when nothing was spent, infinity for releases without privacy.

    Raises
    ------
    ValueError
        If `rdp` has another shape, is negative or not a number, or `delta` is out of range.
    """
    if not 0.0 < delta < 1.0:
        raise ValueError(f"delta {delta} is not between 0 and 1")
    if rdp.shape != ORDERS.shape or not bool(np.all(rdp >= 0.0)):
        raise ValueError("a spent vector has one number >= 0 for each order")
    if not rdp.any():
        return 0.0
    epsilons = rdp + np.log1p(-1.0 / ORDERS) - np.log(delta * ORDERS) / (ORDERS - 1.0)
    return max(0.0, float(epsilons.min()))


def _check_noise(noise_multiplier: float) -> None:
    if not (math.isfinite(noise_multiplier) and noise_multiplier > 0.0):
        raise ValueError(f"noise multiplier {noise_multiplier} is not a positive number")


@functools.cache
def _log_binomials(order: int) -> F64:
    top = math.lgamma(order + 1)
    logs = [top - math.lgamma(k + 1) - math.lgamma(order - k + 1) for k in range(order + 1)]
    return np.array(logs)


def _log_moment_integer(order: int, q: float, sigma: float) -> float:
    """Log E[(likelihood ratio)^order] = log(1 + sum_k>=2 Binomial(k) (e^(k(k-1)/2s^2) - 1)).

    The binomial weights sum to one, so taking that one out leaves positive terms only and keeps
    all digits where the divergence is tiny.
    """
    k = np.arange(2, order + 1, dtype=np.float64)
    exponent = k * (k - 1.0) / 2.0 / sigma / sigma
    terms = (
        _log_binomials(order)[2:]
        + k * math.log(q)
        + (order - k) * math.log1p(-q)
        + exponent
        + np.log(-np.expm1(-exponent))
    )
    peak = float(terms.max())
    if not math.isfinite(peak):
        return math.inf
    return float(np.logaddexp(0.0, peak + math.log(float(np.exp(terms - peak).sum()))))


@functools.cache
def _log_fractional_binomials(order: float) -> tuple[F64, float]:
    """Log |C(order, i)| for i < _TERMS, and log of the sum of all later ones.

    Beyond i = order + 1 the signs alternate, and since sum_i (-1)^i C(a, i) = 0 with partial
    sums (-1)^(n-1) C(a-1, n-1), the later ones add up to exactly |C(a-1, n-1)|.
    """

    def log_abs(a: float, i: int) -> float:
        return math.lgamma(a + 1.0) - math.lgamma(i + 1.0) - math.lgamma(a - i + 1.0)

    logs = np.array([log_abs(order, i) for i in range(_TERMS)])
    return logs, log_abs(order - 1.0, _TERMS - 1)


def _log_moment_fractional(order: float, q: float, sigma: float) -> float:
    """Upper bound of log E[(likelihood ratio)^order] for a fractional order.

    The series of the paper, with z = sigma^2 log(1/q - 1) + 1/2 and erfc(t) = e^(-t^2) erfcx(t),
    simplifies to (1-q)^a e^(-z^2 / 2 sigma^2) / 2 times
    sum_i C(a, i) [erfcx((i - z) / sqrt(2) sigma) + erfcx((z - a + i) / sqrt(2) sigma)].
    erfcx falls, so its value at the cut bounds it in the rest of the series.
    """
    coefficients, log_rest = _log_fractional_binomials(order)
    z = sigma * sigma * math.log(1.0 / q - 1.0) + 0.5
    width = math.sqrt(2.0) * sigma
    i = np.arange(_TERMS + 1, dtype=np.float64)
    left = _log_erfcx((i - z) / width)
    right = _log_erfcx((z - order + i) / width)
    logs = np.append(coefficients, log_rest)
    terms = np.concatenate([logs + left, logs + right])
    peak = float(terms.max())
    if not math.isfinite(peak):
        return math.inf
    total = peak + math.log(float(np.exp(terms - peak).sum()))
    return max(0.0, order * math.log1p(-q) - z * z / (2.0 * sigma * sigma) - math.log(2.0) + total)


def _log_erfcx(t: F64) -> F64:
    """log(e^(t^2) erfc(t)); above 20 by the asymptotic series, which alternates: an upper bound."""
    small = np.minimum(t, 20.0)
    # Below -27 erfc is 2 to the last bit.
    direct = np.array([math.log(math.erfc(x)) for x in small.tolist()]) + small * small
    large = np.maximum(t, 20.0)
    inverse = 1.0 / (large * large)
    series = np.log1p(-0.5 * inverse * (1.0 - 1.5 * inverse)) - np.log(large * math.sqrt(math.pi))
    result: F64 = np.where(t < 20.0, direct, series)
    return result
