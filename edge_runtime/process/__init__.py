"""What a process of ours has to do with the system around it: readiness, life signs, logs.

`tls`, not imported from here, has the files that its connections are encrypted with. All of it is
light: the device agent imports this before anything else, and before numpy.
"""

from __future__ import annotations

from edge_runtime.process.logs import complain, log_to_stderr, printable
from edge_runtime.process.notify import Notifier
from edge_runtime.process.pulse import Pulse

__all__ = ["Notifier", "Pulse", "complain", "log_to_stderr", "printable"]
