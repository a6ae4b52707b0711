"""One MQTT connection from its beginning to its end, and what becomes of a published message."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from paho.mqtt.enums import LogLevel, MQTTErrorCode

from edge_runtime.errors import EdgeRuntimeError
from edge_runtime.messages.buffering import BufferedClient
from edge_runtime.messages.paho import mqtt

__all__ = ["Connection", "PublishHandle", "guarded"]

_LOG = logging.getLogger(__name__)

# Between looks at a confirmation; a loopback broker confirms within about a millisecond.
_POLL_S = 0.005


class PublishHandle:
    """Follows one published message up to the broker.

    A confirmed message has reached the broker's memory, no more: only an application
    acknowledgement says that it is stored.
    """

    def __init__(self) -> None:
        self._info: mqtt.MQTTMessageInfo | None = None
        self._abandoned = False

    @property
    def confirmed(self) -> bool:
        """Whether the broker has confirmed the message."""
        info = self._info
        if info is None or info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            return False
        return info.is_published()

    @property
    def failed(self) -> bool:
        """Whether it will never be confirmed: not connected, connection lost, or replaced."""
        return self._abandoned and not self.confirmed

    def wait(self, timeout_s: float) -> bool:
        """Wait for confirmation or failure, and return `confirmed`."""
        deadline = time.monotonic() + timeout_s
        while not (self.confirmed or self._abandoned) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return self.confirmed

    def follow(self, info: mqtt.MQTTMessageInfo) -> None:
        """Follow the message as it was handed to a connection (for `Link`)."""
        if not self.confirmed:
            self._info = info

    def abandon(self) -> None:
        """Give the message up (for `Link`)."""
        self._abandoned = True


class Connection(BufferedClient):
    """A client for one connection, which tells when its network loop has ended, however.

    Parameters
    ----------
    packet_limit : callable ()
        Most bytes of a packet from the broker now; a larger one ends the connection unread.
    """

    def __init__(self, *args: object, packet_limit: Callable[[], int], **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self._packet_limit = packet_limit
        #: set when the network loop has ended, even by an error on damaged packets
        self.ended = threading.Event()
        #: whether the broker has answered, be it with a refusal
        self.answered = False
        #: the last thing that went wrong on the network, in paho's words; empty: nothing
        self.network_error = ""
        self.on_log = self._note_error

    def _note_error(self, _client: mqtt.Client, _userdata: object, level: int, text: str) -> None:
        # paho hands out the reason of a lost connection, such as a TLS alert, nowhere else.
        if level == LogLevel.MQTT_LOG_ERR:
            self.network_error = text

    def _sock_recv(self, bufsize: int) -> bytes:
        # MQTT 3.1.1 lets a broker announce up to 256 MB, which paho would collect in memory. It
        # asks here for all that is missing of a packet.
        if bufsize > (limit := self._packet_limit()):
            raise ConnectionError(
                f"the broker announces a packet of {bufsize} bytes; at most {limit} are accepted"
            )
        return super()._sock_recv(bufsize)

    def loop_forever(
        self, timeout: float = 1.0, retry_first_connection: bool = False
    ) -> MQTTErrorCode:
        """Run the network loop; called by paho's own thread."""
        try:
            return super().loop_forever(timeout, retry_first_connection)
        finally:
            self.ended.set()


def guarded(call: Callable[[], None]) -> None:
    """Run a message handler; its error is logged, without the values it may quote."""
    try:
        call()
    except EdgeRuntimeError as error:
        _LOG.error("a message handler failed: %s", error.public)
    except Exception as error:  # noqa: BLE001 - a handler's fault must not end the link
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = trace and f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        _LOG.error("a message handler failed: %s at %s", type(error).__name__, place)
