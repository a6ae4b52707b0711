"""The aggregator: accepts what devices send, exactly once, and turns it into generators.

Inbox and catalogue make an acknowledgement mean "durable"; the planner asks the fleet for a census
and for rounds; fusion trains the next generator on the accumulated pool, guided and judged by the
fleet's merged noisy counts; the release is a checksummed dataset drawn from the pool.
"""

from __future__ import annotations

from edge_runtime.errors import MissingExtraError

try:
    from edge_runtime.aggregator.catalogue import Catalogue
    from edge_runtime.aggregator.config import AggregatorConfig, load_config
    from edge_runtime.aggregator.pool import Pool, PoolRows
    from edge_runtime.aggregator.release import (
        Release,
        list_releases,
        make_release,
        repeat_release,
        verify_release,
    )
    from edge_runtime.aggregator.service import Service, run
    from edge_runtime.aggregator.status import status
    from edge_runtime.aggregator.strategies import STRATEGIES, Strategy
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "a package", "aggregator") from error

__all__ = [
    "STRATEGIES",
    "AggregatorConfig",
    "Catalogue",
    "Pool",
    "PoolRows",
    "Release",
    "Service",
    "Strategy",
    "list_releases",
    "load_config",
    "make_release",
    "repeat_release",
    "run",
    "status",
    "verify_release",
]
