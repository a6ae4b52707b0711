"""Turns a fleet of small ARM devices into one private source of synthetic data.

Every device learns a generator from rows that never leave it, publishes differentially private
synthetic rows and update summaries over MQTT, and an aggregator fuses them into one generator
that does not collapse.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_runtime.api import Generator
    from edge_runtime.evaluation import Report, evaluate
    from edge_runtime.schema import Schema, Table

__all__ = ["Generator", "Report", "Schema", "Table", "__version__", "evaluate"]

__version__ = "0.1.0"

_HOME = {
    "Generator": "edge_runtime.api",
    "Report": "edge_runtime.evaluation",
    "Schema": "edge_runtime.schema",
    "Table": "edge_runtime.schema",
    "evaluate": "edge_runtime.evaluation",
}


def __getattr__(name: str) -> object:
    # Loaded when first used: a device agent must not pay for the evaluation's imports.
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
