"""Differentially private training (DP-SGD, Abadi et al. 2016) of the generator on real rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import LedgerError, TrainingError
from edge_runtime.generator.layout import Layout, Weights
from edge_runtime.privacy import Entry
from edge_runtime.privacy.accountant import F64
from edge_runtime.training.adam import Adam, cosine
from edge_runtime.training.checkpoint import Checkpoint
from edge_runtime.training.cost import release_cost, sampling_rate
from edge_runtime.training.flat import FlatWeights, parameter_mask
from edge_runtime.training.settings import TrainSettings
from edge_runtime.training.step import GradientStep

if TYPE_CHECKING:
    from edge_runtime.kernel import PrivacyNoise

__all__ = ["train_private"]


def train_private(
    weights: Weights,
    codes: NDArray[np.integer],
    *,
    layout: Layout,
    settings: TrainSettings,
    rows_public: float,
    entry: Entry,
    noise: PrivacyNoise,
    step: GradientStep,
    checkpoint: Checkpoint | None = None,
    on_checkpoint: Callable[[Checkpoint], None] | None = None,
    every: int = 50,
    should_stop: Callable[[], bool] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Weights | None:
    """Train on Poisson samples of real rows, with clipped gradients and noise.

    Parameters
    ----------
    weights : Weights
        Where to start; ignored when a checkpoint is given.
    codes : integers [rows, D]
        The real rows; of the narrowest type that holds them, as they stay for the whole run.
    layout : Layout
    settings : TrainSettings
    rows_public : float
        The released noisy number of rows: sampling probability and normalisation follow from it,
        never from the exact number.
    entry : Entry
        The ledger's entry that paid for this run; it must cover `release_cost`.
    noise : PrivacyNoise
    step : GradientStep
    checkpoint : Checkpoint, optional
        Resume from here. Steps after it are drawn afresh; those of the interrupted process never
        left the device, so the run is paid for once.
    on_checkpoint : callable, optional
        Called with the state every `every` steps and before stopping early.
    every : int
    should_stop : callable, optional
        Asked before every step.
    on_progress : callable, optional
        Called with (steps done, steps); nothing that depends on the rows is handed out.

    Returns
    -------
    Weights or None
        None if `should_stop` ended the run early.

    Raises
    ------
    LedgerError
        If the entry was released before or does not cover the run.
    TrainingError
        If the checkpoint belongs to another run or training diverged.
    """
    _check_paid(entry, release_cost(settings, rows_public, layout.parameters))
    run = _Run(layout, weights, settings, _run_digest(layout, settings, rows_public))
    if checkpoint is not None:
        run.resume(checkpoint)
    q = sampling_rate(settings, rows_public)
    mask = parameter_mask(layout)
    sampled = np.empty(codes.shape[0], dtype=np.uint8)
    gradient = FlatWeights(layout)
    scale = np.float32(1.0 / (q * rows_public))
    while run.done < settings.steps:
        if should_stop is not None and should_stop():
            if on_checkpoint is not None:
                on_checkpoint(run.checkpoint())
            return None
        noise.bernoulli(sampled, p=q)
        # An empty sample goes on as well: leaving its noise out would tell that it was empty.
        rows = codes[sampled.view(np.bool_)].astype(np.int32, copy=False)
        step(run.flat.weights, rows, settings.clip_norm, gradient)
        if settings.noise_multiplier > 0.0:
            noise.add_training_noise(
                gradient.vector,
                mask,
                clip_norm=settings.clip_norm,
                noise_multiplier=settings.noise_multiplier,
            )
        gradient.vector *= scale
        run.update(gradient)
        if on_progress is not None:
            on_progress(run.done, settings.steps)
        if run.done % every == 0 and run.done < settings.steps and on_checkpoint is not None:
            on_checkpoint(run.checkpoint())
    return run.result()


class _Run:
    """Weights, optimiser and average of one run."""

    def __init__(
        self, layout: Layout, weights: Weights, settings: TrainSettings, digest: str
    ) -> None:
        self.flat = FlatWeights(layout, weights)
        self._settings = settings
        self._digest = digest
        self._optimiser = Adam(self.flat.vector.size)
        self._average = self.flat.vector.copy()

    @property
    def done(self) -> int:
        """Steps made."""
        return self._optimiser.step

    def update(self, gradient: FlatWeights) -> None:
        """Make one step along a gradient, which is overwritten."""
        settings = self._settings
        rate = cosine(settings.learning_rate, self.done / settings.steps)
        self._optimiser.update(self.flat.vector, gradient.vector, rate)
        if settings.averaging > 0.0:
            self._average += np.float32(1.0 - settings.averaging) * (
                self.flat.vector - self._average
            )

    def checkpoint(self) -> Checkpoint:
        """Copy the state, after a look at whether it is worth keeping."""
        self._check_finite()
        return Checkpoint(
            run=self._digest,
            step=self.done,
            vector=self.flat.vector.copy(),
            first_moment=self._optimiser.first_moment.copy(),
            second_moment=self._optimiser.second_moment.copy(),
            average=self._average.copy(),
        )

    def resume(self, checkpoint: Checkpoint) -> None:
        """Take over a state of the same run."""
        if checkpoint.run != self._digest or checkpoint.vector.shape != self.flat.vector.shape:
            raise TrainingError("the checkpoint belongs to another training run; start afresh")
        self.flat.vector[:] = checkpoint.vector
        self._optimiser.first_moment[:] = checkpoint.first_moment
        self._optimiser.second_moment[:] = checkpoint.second_moment
        self._optimiser.step = checkpoint.step
        self._average[:] = checkpoint.average

    def result(self) -> Weights:
        """Return the weights to use: the average of the iterates, or the last one."""
        self._check_finite()
        if self._settings.averaging > 0.0:
            self.flat.vector[:] = self._average
        return self.flat.copy()

    def _check_finite(self) -> None:
        if not np.isfinite(self.flat.vector).all():
            raise TrainingError(
                f"weights are no longer finite after {self.done} steps; lower the learning rate"
            )


def _check_paid(entry: Entry, cost: F64 | None) -> None:
    if entry.released:
        raise LedgerError(f"{entry.key!r} was released before; train under an entry of its own")
    if not (entry.rdp is None if cost is None else entry.covers(cost)):
        raise LedgerError(f"{entry.key!r} does not cover this training run; spend its cost first")


def _run_digest(layout: Layout, settings: TrainSettings, rows_public: float) -> str:
    parts = [layout.to_dict(), msgspec.to_builtins(settings), float(rows_public)]
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()
