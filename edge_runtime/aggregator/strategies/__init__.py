"""Strategies: ways to turn pool, anchor and updates into the next generator's weights."""

from __future__ import annotations

from edge_runtime.aggregator.strategies.average import AverageStrategy
from edge_runtime.aggregator.strategies.base import (
    Candidate,
    ClientUpdate,
    Material,
    State,
    Strategy,
)
from edge_runtime.aggregator.strategies.hybrid import HybridStrategy
from edge_runtime.aggregator.strategies.pool import PoolStrategy
from edge_runtime.errors import ConfigError

__all__ = [
    "STRATEGIES",
    "AverageStrategy",
    "Candidate",
    "ClientUpdate",
    "HybridStrategy",
    "Material",
    "PoolStrategy",
    "State",
    "Strategy",
    "find_strategy",
]

#: by the name in [fusion] strategy
STRATEGIES: dict[str, type[Strategy]] = {
    strategy.name: strategy for strategy in (PoolStrategy, AverageStrategy, HybridStrategy)
}


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
