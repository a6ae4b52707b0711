"""The default strategy: train the generator in force further, on the whole accumulated pool."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ClassVar

from edge_runtime.aggregator.config import FusionSettings
from edge_runtime.aggregator.strategies.base import Candidate, Material
from edge_runtime.training import GradientStep, make_step, train

__all__ = ["PoolStrategy", "affordable_steps"]


#: steps that are timed, and what an update and scoring add to a bare step (measured: 1.2 to 1.4)
_TIMED_STEPS, _OVERHEAD = 5, 1.5


class PoolStrategy:
    """Weighted maximum likelihood on every row the pool ever accepted, with early stopping.

    The pool is accumulated, never replaced, and devices always train on real rows: replacing it
    by its generator's own rows is what makes generators collapse.
    """

    name: ClassVar[str] = "pool"
    needs_updates: ClassVar[bool] = False

    def fuse(
        self,
        material: Material,
        settings: FusionSettings,
        *,
        should_stop: Callable[[], bool],
        on_progress: Callable[[float], None],
    ) -> Candidate:
        """See `Strategy.fuse`."""
        step = make_step(material.layout)
        steps = affordable_steps(material, settings, step)
        weights, history = train(
            material.weights,
            material.codes,
            layout=material.layout,
            steps=steps,
            batch=settings.batch,
            learning_rate=settings.learning_rate,
            seed=material.seed,
            weights_of_rows=material.row_weights,
            validation=material.held_out,
            patience=settings.patience,
            step=step,
            should_stop=should_stop,
            on_progress=lambda done, total: on_progress(done / total),
        )
        figures = {
            "fusion.steps": float(history.epochs[-1].steps if history.epochs else 0),
            "fusion.epochs": float(len(history.epochs)),
            "fusion.best_epoch": float(history.best_epoch),
        }
        return Candidate(weights, figures)


def affordable_steps(material: Material, settings: FusionSettings, step: GradientStep) -> int:
    """Return how many steps fit the time: at most `epochs` passes, at least one step.

    The learning rate falls to zero over the steps that are announced; training that is cut off
    by the clock instead would stop while it is still high. So a few steps are timed first.
    """
    rows = material.codes[: settings.batch]
    per_epoch = -(-len(material.codes) // settings.batch)
    times = []
    for _ in range(_TIMED_STEPS):
        began = time.monotonic()
        step.plain(material.weights, rows, None)
        times.append(time.monotonic() - began)
    each_s = _OVERHEAD * max(sorted(times)[len(times) // 2], 1e-6)
    return max(1, min(settings.epochs * per_epoch, int(settings.max_seconds / each_s)))
