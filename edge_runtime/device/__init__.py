"""The device: learns from rows that never leave it, and publishes what was paid for.

Importing this package is light; `edge_runtime.device.agent` brings in numpy and the link.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_runtime.device.config import DeviceConfig, load_config

__all__ = ["DeviceConfig", "load_config"]


def __getattr__(name: str) -> object:
    # Loaded when first used: `clock` runs before anything else at boot and must not pay for it.
    if name in __all__:
        return getattr(importlib.import_module("edge_runtime.device.config"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
