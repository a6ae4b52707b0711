"""The default strategy: train the generator in force further, on the whole accumulated pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from edge_runtime.aggregator.config import FusionSettings
from edge_runtime.aggregator.strategies.base import Candidate, Material
from edge_runtime.training import train

__all__ = ["PoolStrategy"]


class PoolStrategy:
    """Weighted maximum likelihood on every row the pool ever accepted, with early stopping.

    The pool is accumulated, never replaced, and devices always train on real rows: replacing it
    by its generator's own rows is what makes generators collapse.
    """

    name: ClassVar[str] = "pool"

    def fuse(
        self,
        material: Material,
        settings: FusionSettings,
        *,
        should_stop: Callable[[], bool],
        on_progress: Callable[[float], None],
    ) -> Candidate:
        """See `Strategy.fuse`."""
        weights, history = train(
            material.weights,
            material.codes,
            layout=material.layout,
            epochs=settings.epochs,
            batch=settings.batch,
            learning_rate=settings.learning_rate,
            seed=material.seed,
            weights_of_rows=material.row_weights,
            validation=material.held_out,
            patience=settings.patience,
            should_stop=should_stop,
            on_progress=lambda done, total: on_progress(done / total),
        )
        figures = {
            "fusion.epochs": float(len(history.epochs)),
            "fusion.best_epoch": float(history.best_epoch),
        }
        return Candidate(weights, figures)
