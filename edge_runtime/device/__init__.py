"""The device: learns from rows that never leave it, and publishes what was paid for.

Importing this package is light; `edge_runtime.device.agent` brings in numpy and the link.
"""

from __future__ import annotations

from edge_runtime.device.config import DeviceConfig, load_config

__all__ = ["DeviceConfig", "load_config"]
