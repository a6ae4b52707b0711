"""The seals of an aggregator: only what a device of the fleet has sent itself is looked at.

A message brings its device's certificate, so nothing has to be known beforehand: the certificate
is verified once, the key that follows from it is kept, and each further message costs a hash. What
the fleet has revoked counts from the next look at its list on, which devices are handed as well.

What is not authentic is dropped without a word to anybody: an answer that refuses it could name the
digest of a true message, and its device would take that for refused. It is not catalogued, not set
aside, and counts for no limit but its device's rate: who floods the aggregator is held back by
that before anything is looked at.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from edge_runtime.errors import AuthenticityError, ConfigError, MessageError
from edge_runtime.messages import DeviceState, Link, Topics, decode_state, encode_state
from edge_runtime.messages.seal import decode_sealed, is_sealed, seal
from edge_runtime.reception.settings import AggregatorTls
from edge_runtime.reception.unpacking import Incoming
from edge_runtime.reception.watched import WatchedFiles

if TYPE_CHECKING:
    from edge_runtime.process.agreement import Agreement
    from edge_runtime.reception.revoked import RevokedFile

__all__ = ["Opened", "Seals"]

_LOG = logging.getLogger(__name__)

#: keys that are kept, 24 MB at most; a device beyond them costs an agreement a message
_KEYS = 1 << 16
#: what is not authentic is named once in so many seconds
_SAY_AGAIN_S = 60.0


class Opened(NamedTuple):
    """A message without its seal, and the key to seal the answer with."""

    message: Incoming
    key: bytes


class _Known(NamedTuple):
    device: str
    key: bytes
    expires_unix_s: float
    serial: int


class Seals:
    """Opens what arrives and seals the answers; may be used by several threads.

    Parameters
    ----------
    tls : AggregatorTls or None
        The aggregator's files; without a certificate among them everything travels as it is.
    topics : Topics
        Of the fleet.
    clock : callable () -> float
        Unix seconds.

    Attributes
    ----------
    unauthentic : int
        Messages that were dropped since the start.

    Raises
    ------
    ConfigError
        The files cannot be used.
    """

    def __init__(
        self, *, tls: AggregatorTls | None, topics: Topics, clock: Callable[[], float] = time.time
    ) -> None:
        self._topics, self._clock = topics, clock
        self.unauthentic = 0
        self._said_s = -_SAY_AGAIN_S
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._own: Agreement | None = None
        self._tls, self._files = tls, WatchedFiles([])
        self._revoked: RevokedFile | None = None
        self._link: Link | None = None
        if tls is not None and tls.certificate is not None:
            # Here, as most aggregators on one machine with their broker do without.
            from edge_runtime.process.agreement import Agreement  # noqa: PLC0415

            assert tls.key is not None
            self._files = WatchedFiles([tls.ca, tls.certificate, tls.key])
            self._own = Agreement(tls=tls, fleet=topics.fleet)
            if tls.revoked is not None:
                from edge_runtime.reception.revoked import RevokedFile  # noqa: PLC0415

                self._revoked = RevokedFile(tls.revoked, self._own)

    def publish(self, link: Link) -> None:
        """Hand the devices the aggregator's certificate, retained, and what was revoked.

        What is another later is published on the same link.
        """
        self._link = link
        self._publish_certificate()
        self._publish_revoked()

    def open(self, messages: Iterable[Incoming]) -> list[Opened]:
        """Return those messages that their devices have sent, without their seals.

        Also without any to be called again and again: it looks whether files have changed.
        """
        if self._own is None:
            return [Opened(message, b"") for message in messages]
        if self._renewed():
            self._publish_certificate()
        if self._revoked is not None and self._revoked.look():
            self._publish_revoked()
        opened = []
        for message in messages:
            kind, device = message.kind, message.device
            topic = self._topics.batch(device) if kind == "batch" else self._topics.summary(device)
            try:
                body, key = self._check(self._own, topic, device, message.payload)
            except MessageError as error:
                self._drop(topic, error)
            else:
                opened.append(Opened(message._replace(payload=body), key))
        return opened

    def answer(self, device: str, ack: bytes, *, key: bytes) -> tuple[str, bytes]:
        """Return topic and payload of an encoded acknowledgement, under the key of its message."""
        topic = self._topics.ack(device)
        return topic, seal(ack, topic=topic, key=key) if key else ack

    def state(self, device: str, payload: bytes) -> DeviceState | None:
        """Return a device's state, or None of what is not authentic.

        Raises
        ------
        MessageError
            It is no state.
        """
        if self._own is None:
            return decode_state(payload)
        topic = self._topics.state(device)
        try:
            if is_sealed(payload):
                payload, _ = self._check(self._own, topic, device, payload)
            else:
                payload = _will(device, payload)
        except MessageError as error:
            self._drop(topic, error)
            return None
        return decode_state(payload)

    def _check(
        self, own: Agreement, topic: str, device: str, payload: bytes
    ) -> tuple[bytes, bytes]:
        """Return the body and the key."""
        sealed = decode_sealed(payload)
        digest, now_unix_s = hashlib.sha256(sealed.certificate).digest(), self._clock()
        with self._lock:
            known = self._known.get(digest)
            if known is not None:
                self._known.move_to_end(digest)
        if (
            known is None
            or now_unix_s > known.expires_unix_s
            or own.is_revoked(known.serial)  # of which `agree` says so
        ):
            agreed = own.agree(
                sealed.certificate, name=device, device=device, now_unix_s=now_unix_s
            )
            known = _Known(device, *agreed)
        if known.device != device:
            raise AuthenticityError(f"a certificate of another name than {device!r}")
        body = sealed.check(topic=topic, key=known.key)
        with self._lock:
            # Kept only now: certificates are no secret, and others' would push out those in use.
            if own is self._own:  # or else it is of no use any more
                self._known[digest] = known
            if len(self._known) > _KEYS:
                self._known.popitem(last=False)
        return body, known.key

    def _publish_certificate(self) -> None:
        if self._own is not None and self._link is not None:
            self._link.publish(self._topics.certificate, self._own.certificate, retain=True)

    def _publish_revoked(self) -> None:
        if self._revoked is not None and self._link is not None:
            self._link.publish(self._topics.revoked, self._revoked.der, retain=True)

    def _renewed(self) -> bool:
        """Take up a key and certificate that have taken the place of those in use."""
        assert self._tls is not None
        if not self._files.changed():
            return False
        from edge_runtime.process.agreement import Agreement  # noqa: PLC0415

        try:
            own = Agreement(tls=self._tls, fleet=self._topics.fleet)
            if self._own is None or own.certificate == self._own.certificate:
                return False
            if self._revoked is not None:
                self._revoked.serve(own)
        except (ConfigError, AuthenticityError) as error:
            # As while they are being copied: the last of them is another change. Or they are
            # another fleet's, whose authority has not signed the list in force.
            _LOG.warning("the certificate from before stays in use: %s", error)
            return False
        with self._lock:
            # Keys with the one before: their devices agree on new ones.
            self._own, self._known = own, OrderedDict()
        _LOG.info("there is a new certificate; devices agree on new keys")
        return True

    def _drop(self, topic: str, error: MessageError) -> None:
        with self._lock:
            self.unauthentic += 1
            count, now_s = self.unauthentic, time.monotonic()
            if now_s - self._said_s < _SAY_AGAIN_S:
                return
            self._said_s = now_s
        _LOG.warning(
            "dropped what is not authentic, %d messages so far, the last on %s: %s",
            count, topic, error,
        )  # fmt: skip


def _will(device: str, payload: bytes) -> bytes:
    """Return what counts of a state without a seal: a device's will is made before it has a key.

    That a device is away is for the broker to say anyhow, and nothing else in it counts.
    """
    if decode_state(payload).status != "offline":
        raise AuthenticityError("the message has no seal")
    return encode_state(DeviceState(device=device, status="offline"))
