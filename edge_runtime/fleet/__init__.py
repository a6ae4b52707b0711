"""Who belongs to a fleet (authority, tokens, broker), and a whole fleet on one machine (the demo).

A device never imports this package; the demo's part brings pandas, scikit-learn and rich (extra
``demo``).
"""

from __future__ import annotations

from edge_runtime.fleet.broker import Broker, start_broker
from edge_runtime.fleet.processes import MemoryWatch, Processes

__all__ = ["Broker", "MemoryWatch", "Processes", "start_broker"]
