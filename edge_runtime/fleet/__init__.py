"""A whole fleet on one machine: the demo's data, real processes, a live view, the peers.

A device never imports this package; it brings pandas, scikit-learn and rich (extra ``demo``).
"""

from __future__ import annotations

from edge_runtime.fleet.broker import Broker, start_broker
from edge_runtime.fleet.processes import MemoryWatch, Processes

__all__ = ["Broker", "MemoryWatch", "Processes", "start_broker"]
