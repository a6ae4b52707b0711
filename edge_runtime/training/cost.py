"""What a private training run costs, and the noise that fits a budget."""

from __future__ import annotations

import math

import msgspec

from edge_runtime.errors import TrainingError
from edge_runtime.kernel import TRAINING_MAX_LOG_DISTANCE, effective_noise_multiplier
from edge_runtime.privacy import ORDERS, rdp_subsampled_gaussian, smallest_noise
from edge_runtime.privacy.accountant import F64
from edge_runtime.training.settings import TrainSettings
from edge_runtime.training.step import CLIPPED_CHUNK

__all__ = ["batch_cap", "calibrate_settings", "release_cost", "sampling_rate"]

#: The sampler rounds the probability to a multiple of 2^-64.
_SAMPLING_ROUNDING = 2.0**-50


def batch_cap(expected_batch: int) -> int:
    """Rows in one step whose float32 summation error is charged.

    A Poisson sample of mean b exceeds 2 b + 64 rows with probability below e^-80 for every b up to
    20,000, and below e^-49 should the released row count be a quarter too low (Chernoff's bound,
    k - b - k log(k / b) in the exponent).
    """
    return 2 * expected_batch + 64


def sampling_rate(settings: TrainSettings, rows_public: float) -> float:
    """Probability that a row takes part in a step, from the released number of rows.

    Raises
    ------
    TrainingError
        If `rows_public` is not a positive number.
    """
    if not (math.isfinite(rows_public) and rows_public > 0.0):
        raise TrainingError(f"the public number of rows is {rows_public}, it must be positive")
    return min(1.0, settings.expected_batch / rows_public)


def release_cost(settings: TrainSettings, rows_public: float, parameters: int) -> F64 | None:
    """Renyi cost of one training run, float64 [orders]; None for a run without privacy.

    Three corrections to the subsampled Gaussian bound: rounding to the noise grid and of the
    float32 sums enlarges the sensitivity, which acts as a smaller noise multiplier; and the wide
    sampler is within a max-log distance m of the discrete Gaussian per parameter, which adds at
    most (2 a - 1)/(a - 1) * m * parameters at order a in every step, sampled or not.

    Parameters
    ----------
    settings : TrainSettings
    rows_public : float
        The released number of rows.
    parameters : int
        `Layout.parameters`.
    """
    q = min(1.0, sampling_rate(settings, rows_public) * (1.0 + _SAMPLING_ROUNDING))
    if settings.noise_multiplier == 0.0:
        return None
    rows = batch_cap(settings.expected_batch)
    multiplier = effective_noise_multiplier(
        settings.noise_multiplier,
        parameters,
        rows=rows,
        # Each entry passes through at most these float32 additions: one chunk's and the chunks'.
        summed_in_float32=CLIPPED_CHUNK + math.ceil(rows / CLIPPED_CHUNK),
    )
    sampler = (2.0 * ORDERS - 1.0) / (ORDERS - 1.0) * TRAINING_MAX_LOG_DISTANCE * parameters
    return rdp_subsampled_gaussian(q, multiplier, settings.steps) + settings.steps * sampler


def calibrate_settings(
    settings: TrainSettings,
    *,
    rows_public: float,
    parameters: int,
    spent: F64 | None,
    epsilon: float,
    delta: float,
) -> TrainSettings:
    """Replace the noise multiplier by the smallest with which the run ends at `epsilon` in total.

    Parameters
    ----------
    settings : TrainSettings
        Its own noise multiplier is ignored.
    rows_public, parameters
        As for `release_cost`.
    spent : float64 [orders] or None
        What the ledger holds before the run.
    epsilon, delta : float
        The cumulative target.

    Raises
    ------
    BudgetError
        If nothing is left below `epsilon`.
    """

    def cost(sigma: float) -> F64:
        with_sigma = msgspec.structs.replace(settings, noise_multiplier=sigma)
        rdp = release_cost(with_sigma, rows_public, parameters)
        assert rdp is not None
        return rdp

    multiplier = smallest_noise(
        cost,
        what=f"training for {settings.steps} steps",
        spent=spent,
        epsilon=epsilon,
        delta=delta,
    )
    return msgspec.structs.replace(settings, noise_multiplier=multiplier)
