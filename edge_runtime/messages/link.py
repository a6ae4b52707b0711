"""The connection to a broker: it never blocks its caller and always comes back.

One supervising thread makes a fresh MQTT client per connection, so that nothing half-sent in an
earlier connection can overtake what was published since. What must survive a connection is held
in two places only: the caller's outbox, which sends again until the application acknowledges,
and this link's own latest retained messages, which it publishes again after each connect,
because a broker that was killed may have forgotten them.
"""

from __future__ import annotations

import logging
import random
import re
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_runtime.errors import ConfigError, LinkError
from edge_runtime.messages.connection import Connection, PublishHandle, guarded
from edge_runtime.messages.paho import mqtt
from edge_runtime.messages.subscriptions import Subscriptions
from edge_runtime.process.tls import TlsFiles, handshake_problem, refusal_problem, refusal_reason

__all__ = ["Link"]

_LOG = logging.getLogger(__name__)
# NATS refuses client ids with dots; the rest is what every broker accepts.
_CLIENT_ID = re.compile(r"\A[A-Za-z0-9_-]{1,128}\Z")
_REFUSED = 0x80
_TICK_S = 1.0


class Link:
    """A connection to an MQTT 3.1.1 broker; messages at QoS 1, but for those that are repeated.

    Parameters
    ----------
    host, port : str, int
        Of the broker.
    client_id : str
        Letters, digits, '_' and '-'; unique at the broker, or two clients evict each other.
    topics : sequence of str
        Filters to subscribe to after each connect; see also `subscribe`.
    will : (str, bytes), optional
        Topic and payload that the broker publishes, retained, when the connection is lost;
        `close` publishes it as well.
    on_message : callable (topic, payload, retained), optional
        Called on the network thread: hand over and return. Its errors are logged, no more.
    on_connect : callable (), optional
        Called on the network thread when subscriptions are in force.
    username, password : str, optional
        Credentials.
    tls : ssl.SSLContext or TlsFiles, optional
        Encrypts the connection. Files are read anew for each connection, so that a certificate
        replaced on disk is taken up by the next one.
    keepalive_s : int
        A silent broker is given up after about one and a half times this.
    clean_session : bool
        False lets the broker queue messages while this client is away.
    connect_timeout_s : float
        For the TCP connection, and again for the broker's answer.
    retry_min_s, retry_max_s : float
        The delay before a new attempt doubles from the first to the second, each time shortened
        at random by up to a half, so that a fleet does not return in one instant.
    ask_again_s : float
        Silence on a subscribed topic after which its retained message is asked for again; see
        `subscriptions`.
    packet_bytes : int
        A packet of the broker that is larger ends the connection before it is read; may be set
        anew at any time. The most that MQTT knows, by default.

    Raises
    ------
    ConfigError
        A client id that some broker would refuse.

    Notes
    -----
    Retained messages reach subscribers with `retained` true, and after each connect again, so
    that handlers must recognise what they know.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        client_id: str,
        topics: Sequence[str] = (),
        will: tuple[str, bytes] | None = None,
        on_message: Callable[[str, bytes, bool], None] | None = None,
        on_connect: Callable[[], None] | None = None,
        username: str | None = None,
        password: str | None = None,
        tls: ssl.SSLContext | TlsFiles | None = None,
        keepalive_s: int = 30,
        clean_session: bool = True,
        connect_timeout_s: float = 10.0,
        retry_min_s: float = 0.5,
        retry_max_s: float = 30.0,
        ask_again_s: float = 3.0,
        packet_bytes: int = 256 << 20,
    ) -> None:
        if _CLIENT_ID.match(client_id) is None:
            raise ConfigError(
                f"MQTT client id {client_id!r}: use 1 to 128 letters, digits, '_' and '-'"
            )
        self.host, self.port, self.client_id = host, port, client_id
        self._will = will
        self._on_message, self._on_connect = on_message, on_connect
        self._username, self._password, self._tls = username, password, tls
        self._keepalive_s, self._clean_session = keepalive_s, clean_session
        self._connect_timeout_s = connect_timeout_s
        self._retry_min_s, self._retry_max_s = retry_min_s, retry_max_s
        self.packet_bytes = packet_bytes

        #: set while the broker has accepted this client and its subscriptions
        self.connected = threading.Event()
        self._closing = threading.Event()
        # Guards what follows. Held only while messages are queued, never during input or output.
        self._lock = threading.Lock()
        self._subscriptions = Subscriptions(topics, ask_again_s=ask_again_s)
        self._requests: dict[int, list[str]] = {}  # SUBSCRIBE packets not answered yet
        self._current: Connection | None = None
        self._live: Connection | None = None  # the current one, once the broker has accepted it
        self._pending: deque[PublishHandle] = deque()
        self._retained: dict[str, tuple[bytes, PublishHandle]] = {}
        self._problem = f"the broker at {self._place} has not answered yet"
        self._refusal = ""  # what the broker has against the certificate, once it has said so
        self._thread = threading.Thread(target=self._run, name=f"link {client_id}", daemon=True)

    def start(self) -> Link:
        """Begin connecting in the background, and return the link itself."""
        self._thread.start()
        return self

    @property
    def problem(self) -> str:
        """Why there is no connection and what to do; empty while connected."""
        return "" if self.connected.is_set() else self._problem

    def wait_connected(self, timeout_s: float) -> None:
        """Wait until connected.

        Raises
        ------
        LinkError
            Not within `timeout_s`; the message names host, port, reason and way out. The link
            goes on trying.
        """
        if not self.connected.wait(timeout_s):
            raise LinkError(self._problem)

    def answer(self, topic: str, payload: bytes) -> None:
        """Send a message at QoS 0, if there is a connection: whoever misses it will ask again.

        Within a connection nothing is lost at QoS 0 either, and a clean session knows no other;
        the broker's confirmations would take as long as all the rest about an answer.
        """
        with self._lock:
            if self._live is not None:
                self._live.publish(topic, payload, qos=0)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> PublishHandle:
        """Queue a message for sending and return at once.

        A retained message is remembered and published again after each connect, until another
        one on the same topic replaces it; an empty payload removes it from the broker. Any other
        message is sent now or not at all: without a connection the handle has `failed`.

        Parameters
        ----------
        topic, payload : str, bytes
            The message.
        retain : bool
            Whether the broker keeps it for later subscribers.
        """
        handle = PublishHandle()
        with self._lock:
            if retain:
                if topic in self._retained:
                    self._retained[topic][1].abandon()
                self._retained[topic] = (payload, handle)
            self._send(topic, payload, handle, retain=retain)
        return handle

    def subscribe(self, topic: str) -> None:
        """Listen to one more topic filter, now and after each connect.

        Subscribing again to the same filter makes the broker send what it retains again.
        """
        with self._lock:
            self._subscriptions.add(topic, now_s=time.monotonic())
            self._request([topic])

    def unsubscribe(self, topic: str) -> None:
        """Listen to a topic filter no more."""
        with self._lock:
            self._subscriptions.remove(topic)
            if self._live is not None:
                self._live.unsubscribe(topic)

    def close(self, *, farewell: bytes | None = None, timeout_s: float = 5.0) -> None:
        """Publish the will, disconnect cleanly and end all threads.

        Parameters
        ----------
        farewell : bytes, optional
            Payload to publish in place of the will's, such as a state that says `stopped`.
        timeout_s : float
            Longest wait for the broker's confirmation; without a connection there is none, as
            the broker has then published the will itself. And again for the threads: one that
            is in the middle of an attempt to connect ends with it, a little later.

        Notes
        -----
        Must not be called from `on_message` or `on_connect`. A second call does nothing.
        """
        if self._closing.is_set():
            return
        if self._will is not None and self.connected.is_set():
            topic, payload = self._will
            self.publish(topic, payload if farewell is None else farewell, retain=True).wait(
                timeout_s
            )
        self._closing.set()
        with self._lock:
            client = self._current
        if client is not None:
            client.disconnect()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def __enter__(self) -> Link:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _place(self) -> str:
        return f"{self.host}:{self.port}"

    def _run(self) -> None:
        delay_s = self._retry_min_s
        while not self._closing.is_set():
            began = time.monotonic()
            self._connect_once()
            if time.monotonic() - began > delay_s + self._connect_timeout_s:
                # It had worked for a while; quick repeats, as when two clients share an id or
                # a denied publish ends each connection, keep the growing delay.
                delay_s = self._retry_min_s
            self._closing.wait(delay_s * random.SystemRandom().uniform(0.5, 1.0))
            delay_s = min(2 * delay_s, self._retry_max_s)

    def _connect_once(self) -> None:
        """Connect, and return when that failed or the connection has ended."""
        try:
            client = self._new_client()
        except ConfigError as error:  # of the TLS files, which may be whole at the next attempt
            self._report(str(error))
            return
        try:
            client.connect(self.host, self.port, self._keepalive_s)
        except ssl.SSLError as error:
            self._report(handshake_problem(error, self._place))
            return
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            self._report(
                f"no broker answers at {self._place} ({reason}); start one there, or correct "
                "host and port under [broker]"
            )
            return
        with self._lock:
            self._current = client
        client.loop_start()
        if self._closing.is_set():  # which `close` could not tell a client it did not know
            client.disconnect()
        deadline = time.monotonic() + self._connect_timeout_s
        while not client.ended.wait(min(_TICK_S, self._connect_timeout_s)):
            if self._live is client:
                with self._lock:
                    self._request(self._subscriptions.due(now_s=time.monotonic()))
            elif time.monotonic() >= deadline:
                client.answered = True  # by silence, which is said once
                self._report(
                    f"{self._place} accepts connections but does not answer as an MQTT broker; "
                    "check host and port under [broker]"
                )
                client.disconnect()
        if self._tls is not None and not client.answered and not self._closing.is_set():
            # Under TLS 1.3 a refused certificate shows only after the handshake, and the reason
            # at some attempts only: a known one is kept.
            self._refusal = refusal_reason(client.network_error) or self._refusal
            self._report(refusal_problem(self._refusal, self._place))
        self._lose(client)
        client.loop_stop()

    def _new_client(self) -> Connection:
        client = Connection(
            CallbackAPIVersion.VERSION2,
            client_id=self.client_id,
            clean_session=self._clean_session,
            protocol=mqtt.MQTTv311,
            reconnect_on_failure=False,
            packet_limit=lambda: self.packet_bytes,
        )
        client.connect_timeout = self._connect_timeout_s
        # The caller's own window bounds what is in flight; a second one here would only hide it.
        client.max_inflight_messages_set(0)
        if self._username is not None:
            client.username_pw_set(self._username, self._password)
        if self._tls is not None:
            tls = self._tls
            client.tls_set_context(tls.context() if isinstance(tls, TlsFiles) else tls)
        if self._will is not None:
            client.will_set(*self._will, qos=1, retain=True)
        client.on_connect = self._connack
        client.on_subscribe = self._suback
        client.on_message = self._message
        return client

    def _connack(
        self,
        client: mqtt.Client,
        _userdata: object,
        _flags: mqtt.ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        assert isinstance(client, Connection)
        client.answered = True
        if reason.is_failure:
            self._report(
                f"the broker at {self._place} refuses client {self.client_id!r}: {reason}; check "
                "user name, password and the broker's access rules"
            )
            client.disconnect()
            return
        with self._lock:
            self._live = client
            self._requests = {}
            self._subscriptions.begin(now_s=time.monotonic())
            subscribing = self._request(self._subscriptions.topics)
            # A removal that the broker has confirmed is done for good.
            self._retained = {
                topic: (payload, handle)
                for topic, (payload, handle) in self._retained.items()
                if payload or not handle.confirmed
            }
            for topic, (payload, handle) in self._retained.items():
                self._send(topic, payload, handle, retain=True)
        if not subscribing:
            self._ready()

    def _suback(
        self,
        _client: mqtt.Client,
        _userdata: object,
        mid: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        with self._lock:
            topics = self._requests.pop(mid, [])
        for topic, reason in zip(topics, reasons, strict=False):
            if reason.value >= _REFUSED:
                _LOG.error("the broker at %s refuses subscriptions to %s", self._place, topic)
        if not self.connected.is_set():
            self._ready()

    def _ready(self) -> None:
        _LOG.info("connected to the broker at %s", self._place)
        self._refusal = ""
        self.connected.set()
        if self._on_connect is not None:
            guarded(self._on_connect)

    def _message(self, _client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        def handle() -> None:
            self._subscriptions.hear(message.topic)
            if self._on_message is not None:
                self._on_message(message.topic, bytes(message.payload), message.retain)

        guarded(handle)

    def _request(self, topics: list[str]) -> bool:
        """Subscribe on the live connection; the lock is held."""
        if self._live is None or not topics:
            return False
        _, mid = self._live.subscribe([(topic, 1) for topic in topics])
        if mid is not None:
            self._requests[mid] = topics
        return True

    def _send(self, topic: str, payload: bytes, handle: PublishHandle, *, retain: bool) -> None:
        """Queue for the live connection; the lock is held."""
        client = self._live
        if client is None or client.ended.is_set():
            if not retain:  # a retained message waits for the next connection
                handle.abandon()
            return
        handle.follow(client.publish(topic, payload, qos=1, retain=retain))
        if not retain:
            # Brokers confirm in order: a look at all of them would cost more, the more there are.
            while self._pending and self._pending[0].confirmed:
                self._pending.popleft()
            self._pending.append(handle)

    def _lose(self, client: Connection) -> None:
        with self._lock:
            was_live = self._live is client
            self._current = self._live = None
            for handle in self._pending:
                handle.abandon()
            self._pending.clear()
        if was_live:
            self.connected.clear()
            if not self._closing.is_set():
                oversized = "announces a packet" in client.network_error
                self._report(
                    f"the connection to the broker at {self._place} was "
                    + (f"ended ({client.network_error})" if oversized else "lost")
                    + "; it is tried again until it returns"
                )

    def _report(self, problem: str) -> None:
        # Once per problem: a broker that is away for a week must not fill a device's log.
        level = logging.DEBUG if problem == self._problem else logging.WARNING
        self._problem = problem
        _LOG.log(level, "%s", problem)
