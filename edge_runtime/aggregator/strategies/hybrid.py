"""Averaging, then training on the pool from there."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from edge_runtime.aggregator.config import FusionSettings
from edge_runtime.aggregator.strategies.average import AverageStrategy
from edge_runtime.aggregator.strategies.base import Candidate, Material
from edge_runtime.aggregator.strategies.pool import PoolStrategy

__all__ = ["HybridStrategy"]


class HybridStrategy:
    """The pool's training, begun at the average of the devices' weights.

    In this order, as the pool then repairs what averaging blurs; the other way round was far worse
    (docs/strategies.md). Without updates it is `pool`.
    """

    name: ClassVar[str] = "hybrid"
    needs_updates: ClassVar[bool] = True

    def fuse(
        self,
        material: Material,
        settings: FusionSettings,
        *,
        should_stop: Callable[[], bool],
        on_progress: Callable[[float], None],
    ) -> Candidate:
        """See `Strategy.fuse`."""
        pool = PoolStrategy()
        if not material.updates:
            return pool.fuse(material, settings, should_stop=should_stop, on_progress=on_progress)
        averaged = AverageStrategy().fuse(
            material, settings, should_stop=should_stop, on_progress=lambda _: None
        )
        trained = pool.fuse(
            material._replace(weights=averaged.weights),
            settings,
            should_stop=should_stop,
            on_progress=on_progress,
        )
        return Candidate(trained.weights, {**averaged.figures, **trained.figures}, averaged.state)
