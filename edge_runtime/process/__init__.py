"""What a service says to the system that runs it: that it is ready, alive, and what it logs.

Standard library only: the device agent imports this before anything else.
"""

from __future__ import annotations

from edge_runtime.process.logs import complain, log_to_stderr
from edge_runtime.process.notify import Notifier
from edge_runtime.process.pulse import Pulse

__all__ = ["Notifier", "Pulse", "complain", "log_to_stderr"]
