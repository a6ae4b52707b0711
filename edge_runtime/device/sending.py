"""What the agent's thread does with the link: sends what is due, and obeys what is answered."""

from __future__ import annotations

import logging
import time

from edge_runtime.device.outbox import Outbox, SendWindow
from edge_runtime.device.report import Reporter, show_outbox
from edge_runtime.device.seals import Seals
from edge_runtime.device.store import Store
from edge_runtime.messages import Link, Topics, decode_ack, encode_state

__all__ = ["Sender"]

_LOG = logging.getLogger(__name__)


class Sender:
    """Sends the outbox and the state, sealed where this device seals.

    Parameters
    ----------
    device : str
        Its id.
    topics : Topics
    link : Link
    store : Store
        Of the agent's thread.
    outbox : Outbox
    reporter : Reporter
        Has the state.
    seals : Seals
        Without a key nothing is sent.
    ack_timeout_s : float
        After this time without an acknowledgement a message is published again.
    """

    def __init__(
        self,
        *,
        device: str,
        topics: Topics,
        link: Link,
        store: Store,
        outbox: Outbox,
        reporter: Reporter,
        seals: Seals,
        ack_timeout_s: float,
    ) -> None:
        self._device, self._topics, self._link = device, topics, link
        self._store, self._outbox, self._reporter = store, outbox, reporter
        self._seals = seals
        self._window = SendWindow(timeout_s=ack_timeout_s)

    def send_due(self) -> None:
        """Send the outbox's messages whose turn it is, and the state if it is due."""
        if not self._seals.ready:
            return
        self._send_outbox()
        state = self._reporter.due(now_s=time.monotonic())
        if state is not None:
            topic = self._topics.state(self._device)
            self._link.publish(topic, self._seals.seal(topic, encode_state(state)), retain=True)

    def again(self) -> None:
        """Send everything once more, as on a new connection or under a new key."""
        self._window.disconnected()
        self._reporter.again()

    def farewell(self) -> bytes | None:
        """Return the last state, for the link to publish; None without a key."""
        if not self._seals.ready:
            return None
        return self._seals.seal(
            self._topics.state(self._device), encode_state(self._reporter.state)
        )

    def wait_s(self) -> float | None:
        """Seconds until something is due; None while nothing is."""
        now_s = time.monotonic()
        found = [self._window.next_due_s(now_s=now_s)]
        if self._seals.ready:
            found.append(self._reporter.wait_s(now_s=now_s))
        return min((wait for wait in found if wait is not None), default=None)

    def obey(self, topic: str, payload: bytes) -> bool:
        """Take an acknowledgement; return whether the outbox is shorter by it."""
        body = self._seals.open(topic, payload)
        if body is None:
            return False
        ack = decode_ack(body)
        settled = self._outbox.settle(sha256=ack.sha256, status=ack.status, reason=ack.reason)
        if settled is None:
            return False
        if ack.status in ("refused", "quarantined"):
            _LOG.warning(
                "%s %s was %s by the aggregator: %s",
                settled.kind,
                settled.id,
                ack.status,
                ack.reason,
            )
        self.show_outbox()
        return True

    def show_outbox(self) -> None:
        """Bring what waits and what was sent into the state."""
        show_outbox(self._reporter, self._outbox, self._store)

    def _send_outbox(self) -> None:
        if not self._link.connected.is_set():
            return
        sent = 0
        for message in self._window.due(self._outbox.pending(), now_s=time.monotonic()):
            body = self._outbox.payload(message.sequence)
            if body is None:
                continue
            topic = (
                self._topics.batch(self._device)
                if message.kind == "batch"
                else self._topics.summary(self._device)
            )
            payload = self._seals.seal(topic, body)
            self._link.publish(topic, payload)
            sent += len(payload)
        if sent:
            self._store.counter("outbox.bytes_up", add=sent)
            self.show_outbox()
