"""One device, from real rows to everything it releases, as `edge_runtime.device` does it.

Counts first, then private training, then synthetic rows, each with its entry in a ledger. The parts
are the device's own; only the broker, the disk and the waiting are left out, so that an audit can
afford thousands of devices.
"""

from __future__ import annotations

import hashlib
import sqlite3
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.device.budget import counts_cost, counts_sigma
from edge_runtime.device.clamp import Condition, NoisyCounts, clamp_columns, noisy_rows
from edge_runtime.generator import Layout, Weights, sample_codes
from edge_runtime.generator.kernel_engine import KernelEngine
from edge_runtime.generator.quantize import quantize
from edge_runtime.kernel import PrivacyNoise, count_codes
from edge_runtime.privacy import ORDERS, Ledger, release_counts, to_epsilon
from edge_runtime.training import (
    GradientStep,
    TrainSettings,
    calibrate_settings,
    make_step,
    release_cost,
    sampling_rate,
    train_private,
)

__all__ = ["DELTA", "Draw", "Recorder", "Released", "Setting", "digest", "run_device"]

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

#: the devices' default
DELTA = 1e-5


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a device is asked to train and release.

    Attributes
    ----------
    layout : Layout
        The first column is the condition column.
    epsilon : float or None
        What all releases together may cost; None = WITHOUT PRIVACY.
    train : TrainSettings
        Its noise multiplier is ignored.
    counts_share : float
        Share of the budget for the counts.
    rows : int
        Synthetic rows per batch; 0 = none, for attacks that look elsewhere.
    rows_public : float or None
        A number of rows released before; None = the noisy counts say it, as on a device.
    """

    layout: Layout
    epsilon: float | None
    train: TrainSettings
    counts_share: float = 0.2
    rows: int = 400
    rows_public: float | None = None


class Recorder(PrivacyNoise):
    """The real noise, remembering the noisy gradient sums: what the accountant lets anyone see."""

    def __init__(self, seed: bytes) -> None:
        super().__init__(seed)
        self.sums: list[F32] = []

    def add_training_noise(
        self,
        grad: F32,
        mask: npt.NDArray[np.uint8] | None = None,
        *,
        clip_norm: float,
        noise_multiplier: float,
    ) -> None:
        """See `PrivacyNoise.add_training_noise`."""
        super().add_training_noise(
            grad, mask, clip_norm=clip_norm, noise_multiplier=noise_multiplier
        )
        self.sums.append(grad.copy())


class Draw(NamedTuple):
    """Synthetic rows from the released weights, with conditions left free and clamped."""

    free: I32
    clamped: I32


@dataclass(frozen=True, kw_only=True)
class Released:
    """Everything one device let out, and what it claims.

    Attributes
    ----------
    counts : dict of int64 arrays
        One noisy histogram per column.
    sigma : float
        Of their noise.
    weights : Weights
        After private training.
    rows : Draw
    epsilon_counts, epsilon_training, epsilon : float
        Claimed for the counts, for the training alone, and for everything together.
    sampling : float
        Probability of a row to take part in a step.
    noise : float
        Noise multiplier of the training.
    sums : list of float32 [parameters with masked ones]
        Noisy gradient sums of all steps; empty without privacy.
    """

    counts: dict[str, I64]
    sigma: float
    weights: Weights
    rows: Draw
    epsilon_counts: float
    epsilon_training: float
    epsilon: float
    sampling: float
    noise: float
    sums: list[F32] = field(default_factory=list)


def run_device(
    setting: Setting,
    codes: I32,
    *,
    start: Weights,
    seed: bytes,
    step: GradientStep | None = None,
    noise: Recorder | None = None,
) -> Released:
    """Let a device with these rows release what it is asked for.

    Parameters
    ----------
    setting : Setting
    codes : int32 [rows, D]
        Real rows.
    start : Weights
        The bundle's, public.
    seed : bytes
        Of the privacy noise, which makes an audit repeatable, and of the public sampling key.
    step, noise
        Other than the real ones only where a test breaks the mechanism.
    """
    layout = setting.layout
    noise = Recorder(digest(seed, b"noise")) if noise is None else noise
    noise.sums.clear()
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        ledger = Ledger(connection, epsilon_limit=setting.epsilon, delta=DELTA)
        counts, exact_sigma = _count(setting, codes, ledger, noise)
        sigma = float(exact_sigma)
        epsilon_counts = ledger.epsilon_spent()
        rows_public = setting.rows_public
        if rows_public is None:
            rows_public = noisy_rows([(list(counts.values()), sigma)])
        train = _calibrated(setting, sampling_rate(setting.train, rows_public))
        entry = ledger.spend(
            key="audit/training",
            what="training",
            rdp=release_cost(train, rows_public, layout.parameters),
            details={},
        )
        weights = train_private(
            start,
            codes,
            layout=layout,
            settings=train,
            rows_public=rows_public,
            entry=entry,
            noise=noise,
            step=make_step(layout, engine="numpy") if step is None else step,
        )
        epsilon = ledger.epsilon_spent()
    finally:
        connection.close()
    assert weights is not None  # nothing asks it to stop
    return Released(
        counts=counts,
        sigma=sigma,
        weights=weights,
        rows=_draw(setting, weights, NoisyCounts(counts["one_way.0"].astype(float), sigma), seed),
        epsilon_counts=epsilon_counts,
        epsilon_training=np.inf if entry.rdp is None else to_epsilon(entry.rdp, DELTA),
        epsilon=epsilon,
        sampling=sampling_rate(train, rows_public),
        noise=train.noise_multiplier,
        sums=list(noise.sums),
    )


def _count(
    setting: Setting, codes: I32, ledger: Ledger, noise: PrivacyNoise
) -> tuple[dict[str, I64], Fraction]:
    columns = setting.layout.columns
    sigma = _counts_sigma(setting)
    entry = ledger.spend(
        key="audit/anchor",
        what="anchor",
        rdp=counts_cost(sigma=sigma, sensitivity_squared=columns) if sigma else None,
        details={},
    )
    exact = {
        f"one_way.{column}": count_codes(np.ascontiguousarray(codes[:, column]), cardinality)
        for column, cardinality in enumerate(setting.layout.cardinalities)
    }
    return release_counts(
        entry, exact, sensitivity_squared=columns, sigma=sigma, noise=noise
    ), sigma


@lru_cache
def _counts_sigma(setting: Setting) -> Fraction:
    return counts_sigma(
        sensitivity_squared=setting.layout.columns,
        spent=np.zeros_like(ORDERS),
        epsilon_after=setting.epsilon,
        delta=DELTA,
        share=setting.counts_share,
    )


@lru_cache
def _calibrated(setting: Setting, sampling: float) -> TrainSettings:
    """Noise for what the counts left: all row counts of one sampling rate need the same."""
    if setting.epsilon is None:
        return msgspec.structs.replace(setting.train, noise_multiplier=0.0)
    return calibrate_settings(
        setting.train,
        rows_public=setting.train.expected_batch / sampling,
        parameters=setting.layout.parameters,
        spent=counts_cost(sigma=_counts_sigma(setting), sensitivity_squared=setting.layout.columns),
        epsilon=setting.epsilon,
        delta=DELTA,
    )


def _draw(setting: Setting, weights: Weights, labels: NoisyCounts, seed: bytes) -> Draw:
    """Draw two batches under one public key: as the network likes, and as the counts say."""
    if setting.rows == 0:
        return Draw(*2 * [np.empty((0, setting.layout.columns), np.int32)])
    key = digest(seed, b"rows")
    clamp = clamp_columns(
        rows=setting.rows,
        conditions=[Condition(labels)],
        mode="own",
        rng=np.random.default_rng(np.frombuffer(key, dtype=np.uint32)),
    )
    tensors = quantize(weights, setting.layout).tensors
    engine = KernelEngine(tensors, layout=setting.layout)
    try:
        free = sample_codes(engine, setting.rows, key=key)
        # Where its counts support no label a device sends no rows. The free ones stand in then:
        # whoever sees them knows at least as much as whoever sees none.
        clamped = (
            free if clamp is None else sample_codes(engine, setting.rows, key=key, clamp=clamp)
        )
        return Draw(free=free, clamped=clamped)
    finally:
        engine.close()


def digest(*parts: bytes) -> bytes:
    """Derive 32 bytes for one purpose from others."""
    return hashlib.sha256(b"/".join(parts)).digest()
