"""What others see of this device: its retained state, asked back from the broker."""

from __future__ import annotations

import secrets
import threading

from edge_runtime.device.config import DeviceConfig
from edge_runtime.device.doctor.broker import reach
from edge_runtime.errors import ConfigError, LinkError
from edge_runtime.messages import Link, Topics

__all__ = ["retained_state"]

#: for the connection, and again for the message
_TIMEOUT_S = 5.0
_BY_CERTIFICATE = (
    "not asked: a broker that knows clients by their certificate ends the running agent's "
    "connection when this device connects once more\n"
)
_NOTHING = "not known: nothing is retained, or this device may not read it\n"


def retained_state(config: DeviceConfig) -> str:
    """Return the state that the broker retains, as it stands there, or why it is not known."""
    broker = config.broker
    if broker.tls is not None and broker.tls.certificate is not None:
        return _BY_CERTIFICATE
    problem, _ = reach(broker.host, broker.port)
    if problem:
        return f"not known: {problem}\n"
    topic = Topics(config.fleet).state(config.id)
    found: list[bytes] = []
    there = threading.Event()

    def keep(_topic: str, payload: bytes, _retained: bool) -> None:
        found.append(payload)
        there.set()

    try:
        with Link(
            host=broker.host,
            port=broker.port,
            # Its own, so that the running agent keeps its connection.
            client_id=f"diag-{secrets.token_hex(8)}",
            topics=(topic,),
            on_message=keep,
            username=broker.username or None,
            password=broker.password(),
            tls=broker.tls,
            connect_timeout_s=_TIMEOUT_S,
        ) as link:
            link.wait_connected(_TIMEOUT_S)
            there.wait(_TIMEOUT_S)
    except (ConfigError, LinkError) as error:
        return f"not known: {error}\n"
    return found[0].decode(errors="replace") + "\n" if found else _NOTHING
