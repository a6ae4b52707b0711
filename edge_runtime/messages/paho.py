"""paho's MQTT client, without the HTTP and e-mail that it imports: 2 MB on every device.

paho asks `urllib.request` for a proxy, and does so only where PySocks is installed. Where it is
not, an empty module stands there while paho is imported.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

__all__ = ["mqtt"]

_UNUSED = "urllib.request"

if _UNUSED in sys.modules or importlib.util.find_spec("socks") is not None:
    import paho.mqtt.client as mqtt
else:
    sys.modules[_UNUSED] = ModuleType(_UNUSED)
    try:
        import paho.mqtt.client as mqtt
    finally:
        # Whoever else imports it gets the real one.
        del sys.modules[_UNUSED]
