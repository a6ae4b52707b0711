"""Watches a fleet the way any other software could: by its retained states on the broker."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from edge_runtime.errors import MessageError
from edge_runtime.messages import (
    AggregatorStatus,
    DeviceState,
    Link,
    Topics,
    decode_state,
    decode_status,
)

__all__ = ["Observer", "Snapshot"]


@dataclass(frozen=True)
class Snapshot:
    """What the broker last said.

    Parameters
    ----------
    aggregator : AggregatorStatus or None
        None until the first one came.
    devices : dict of str to DeviceState
    problem : str
        Why there is no connection; empty while connected.
    ignored : int
        Messages that could not be read.
    """

    aggregator: AggregatorStatus | None = None
    devices: dict[str, DeviceState] = field(default_factory=dict)
    problem: str = ""
    ignored: int = 0


class Observer:
    """Subscribes to the states of one fleet.

    Parameters
    ----------
    host, port, fleet
        Where to look.
    client_id : str
        Unique at the broker.
    """

    def __init__(
        self, *, host: str, port: int, fleet: str, client_id: str = "demo-observer"
    ) -> None:
        self._topics = Topics(fleet)
        self._lock = threading.Lock()
        self._aggregator: AggregatorStatus | None = None
        self._devices: dict[str, DeviceState] = {}
        self._ignored = 0
        self._link = Link(
            host=host,
            port=port,
            client_id=client_id,
            topics=[self._topics.all_states, self._topics.status],
            on_message=self._on_message,
        )

    def __enter__(self) -> Observer:
        self._link.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._link.close()

    def snapshot(self) -> Snapshot:
        """Return a copy of what is known now."""
        with self._lock:
            return Snapshot(
                aggregator=self._aggregator,
                devices=dict(self._devices),
                problem=self._link.problem,
                ignored=self._ignored,
            )

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:  # noqa: ARG002
        try:
            address = self._topics.parse(topic)
            if address.kind == "state":
                state = decode_state(payload)
                with self._lock:
                    self._devices[address.device] = state
            elif address.kind == "status":
                status = decode_status(payload)
                with self._lock:
                    self._aggregator = status
        except MessageError:
            with self._lock:
                self._ignored += 1
