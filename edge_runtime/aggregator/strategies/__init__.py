"""Strategies: ways to turn the pool and the anchor into the next generator's weights."""

from __future__ import annotations

from edge_runtime.aggregator.strategies.base import Candidate, Material, Strategy
from edge_runtime.aggregator.strategies.pool import PoolStrategy
from edge_runtime.errors import ConfigError

__all__ = ["STRATEGIES", "Candidate", "Material", "PoolStrategy", "Strategy", "find_strategy"]

#: by the name in [fusion] strategy
STRATEGIES: dict[str, type[Strategy]] = {PoolStrategy.name: PoolStrategy}


def find_strategy(name: str) -> Strategy:
    """Return a strategy by its name.

    Raises
    ------
    ConfigError
        If there is none of that name.
    """
    if name not in STRATEGIES:
        raise ConfigError(
            f"fusion.strategy {name!r} is unknown; there are {', '.join(sorted(STRATEGIES))}"
        )
    return STRATEGIES[name]()
