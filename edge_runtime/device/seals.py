"""The seals of a device: what it sends is provably its own, and only true answers are obeyed.

A device with a certificate of its own has a broker that it need not trust. It waits for the
aggregator's certificate, agrees on a key with its holder (`agreement`), and sends nothing before.
Without such a certificate everything travels as it is.

The aggregator also hands out the fleet's list of revoked certificates. The newest that the fleet's
authority has signed is kept, so that neither an older one nor a restart brings a revoked
certificate back. That a newer one is kept away cannot be known.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable

from edge_runtime.device.agreement import Answer, Question, agree_apart
from edge_runtime.device.store import Store
from edge_runtime.errors import DamagedStoreError, MessageError, StoreError
from edge_runtime.messages.limits import DEFAULT_LIMITS
from edge_runtime.messages.seal import decode_sealed, seal
from edge_runtime.process.tls import TlsFiles

__all__ = ["Seals"]

_LOG = logging.getLogger(__name__)

#: until the next process after one that brought no key; doubles from the first to the second, so
#: that a broker that offers one wrong certificate after another costs little
_RETRY_MIN_S, _RETRY_MAX_S = 1.0, 600.0
#: without a certificate for so long after connecting, the log says what is missing
_PATIENCE_S = 30.0
#: false answers are counted, and named once in so many seconds
_SAY_AGAIN_S = 60.0
#: between looks at the device's own files while it is connected: enrolled again, it may have been
#: let in before the broker has ended the old certificate's connection, and nothing under the old
#: key is answered any more
_OWN_LOOK_S = 10.0
#: of the list of revoked certificates in the store
_KEY = "revoked"


class Seals:
    """Seals messages and opens answers; used by the agent's thread alone.

    Parameters
    ----------
    tls : TlsFiles or None
        The device's files; without a certificate among them nothing is sealed.
    fleet, device : str
        Whose messages.
    store : Store
        Of the agent's thread; keeps the list of revoked certificates.
    now : callable () -> float
        The time that nothing may be older than, in Unix seconds.
    on_answer : callable (Answer)
        Called from another thread; the answer is for `settle`.
    """

    def __init__(
        self,
        *,
        tls: TlsFiles | None,
        fleet: str,
        device: str,
        store: Store,
        now: Callable[[], float],
        on_answer: Callable[[Answer], None],
    ) -> None:
        self._tls = tls if tls is not None and tls.certificate is not None else None
        self._fleet, self._device = fleet, device
        self._now, self._on_answer = now, on_answer
        self._key, self._certificate = b"", b""
        #: the certificate that was offered last, and the digest of this device's own files
        self._offered, self._own = b"", self._read_own()
        #: pairs of the two: what is asked, what the key is for, what was refused last
        self._asked: tuple[bytes, bytes] | None = None
        self._in_force: tuple[bytes, bytes] | None = None
        self._refused: tuple[bytes, bytes] | None = None
        #: lists of revoked certificates: offered and to be asked about, asked, refused last
        self._listed, self._asked_list, self._refused_list = b"", b"", b""
        #: the newest that was taken, and what the store has of that
        self._kept, self._stored = b"", b""
        self._not_before_s, self._retry_s = 0.0, _RETRY_MIN_S
        self._connected_s: float | None = None
        self._own_looked_s = time.monotonic()
        self._wrong, self._said_s = 0, -_SAY_AGAIN_S
        self._missing = "the aggregator's certificate has not come yet"
        self._store = store
        if self._tls is not None:
            self._kept = self._stored = store.get(_KEY) or b""

    @property
    def used(self) -> bool:
        """Whether this device seals at all."""
        return self._tls is not None

    @property
    def ready(self) -> bool:
        """Whether messages can be sent now."""
        return self._tls is None or bool(self._key)

    @property
    def problem(self) -> str:
        """Why nothing can be sent, and what to do; empty while it can."""
        return "" if self.ready else self._missing

    def connected(self) -> None:
        """Look at the device's own files again, as the link does for each connection."""
        self._own, self._own_looked_s = self._read_own(), time.monotonic()
        self._refused, self._refused_list = None, b""  # a clock may have been set since
        self._save()
        if self._connected_s is None:
            self._connected_s = time.monotonic()

    def offer(self, certificate: bytes) -> None:
        """Take what is said to be the aggregator's certificate; it counts once it was verified."""
        if self._tls is not None and len(certificate) <= DEFAULT_LIMITS.certificate_bytes:
            self._offered = certificate
            self.look()

    def offer_list(self, listed: bytes) -> None:
        """Take what is said to be the list of revoked certificates; it counts once verified."""
        if (
            self._tls is not None
            and listed not in (self._kept, self._refused_list)  # as it comes at each connection
            and len(listed) <= DEFAULT_LIMITS.revoked_bytes
        ):
            self._listed = listed
            self.look()

    def look(self) -> None:
        """Ask about a certificate or list that is not settled; cheap to call at every turn."""
        now_s = time.monotonic()
        if self._tls is None or self._asked is not None or now_s < self._not_before_s:
            return
        if now_s - self._own_looked_s >= _OWN_LOOK_S:
            self._own, self._own_looked_s = self._read_own(), now_s
        if not self._offered:
            if self._connected_s is not None and now_s - self._connected_s > _PATIENCE_S:
                self._connected_s = None
                self._missing = (
                    "no certificate of the aggregator has come, and nothing is sent until it has; "
                    "the aggregator publishes it where it has a certificate under [broker.tls]"
                )
                _LOG.warning("%s", self._missing)
            return
        wanted = (self._offered, self._own)
        if not self._listed and wanted in (self._in_force, self._refused):
            return
        self._asked, self._asked_list = wanted, self._listed
        question = Question(
            ca=str(self._tls.ca),
            certificate=str(self._tls.certificate),
            key=str(self._tls.key),
            fleet=self._fleet,
            device=self._device,
            offered=self._offered,
            in_force=b"" if self._in_force is None else self._in_force[0],
            listed=self._listed,
            kept=self._kept,
            now_unix_s=self._now(),
        )

        def work() -> None:
            self._on_answer(agree_apart(question))

        threading.Thread(target=work, name="agree", daemon=True).start()

    def settle(self, answer: Answer) -> bool:
        """Note what came of a question; return whether there is another key than before."""
        asked, self._asked = self._asked, None
        if answer.revoked:
            self._key, self._in_force = b"", None
            self._missing = (
                "the aggregator's certificate was revoked; nothing is sent until it has another"
            )
            _LOG.warning("%s", self._missing)
        if answer.listed or answer.not_listed:
            self._settle_list(answer)
        if answer.key and not answer.not_listed:
            self._retry_s = _RETRY_MIN_S
        else:
            self._not_before_s = time.monotonic() + self._retry_s
            self._retry_s = min(2 * self._retry_s, _RETRY_MAX_S)
        if not answer.key:
            if not answer.failed:
                self._refused = asked
            refusal = f"no key was agreed on with the aggregator: {answer.reason}"
            _LOG.warning("%s", refusal)
            if not answer.revoked:  # which says more
                self._missing = refusal
            return False
        self._in_force = asked
        new = (answer.key, answer.certificate) != (self._key, self._certificate)
        self._key, self._certificate = answer.key, answer.certificate
        if new:
            _LOG.info("the aggregator's certificate was verified; messages are sealed")
        return new

    def seal(self, topic: str, body: bytes) -> bytes:
        """Return a message as it is to be sent; only when `ready`."""
        if self._tls is None:
            return body
        return seal(body, topic=topic, key=self._key, certificate=self._certificate)

    def open(self, topic: str, data: bytes) -> bytes | None:
        """Return what the aggregator has sent; None of what somebody else has."""
        if self._tls is None:
            return data
        try:
            # Without a key nothing was sent that could be answered.
            return decode_sealed(data).check(topic=topic, key=self._key) if self._key else None
        except MessageError as error:
            self._wrong += 1
            if time.monotonic() - self._said_s >= _SAY_AGAIN_S:
                self._said_s = time.monotonic()
                _LOG.warning(
                    "ignored what is not from the aggregator, %d times so far, last on %s: %s",
                    self._wrong, topic, error.public,
                )  # fmt: skip
            return None

    def _settle_list(self, answer: Answer) -> None:
        if self._listed == self._asked_list:  # and not yet another one
            self._listed = b""
        if answer.listed:
            self._kept = self._asked_list
            self._save()
        else:
            self._refused_list = self._asked_list
            _LOG.warning("not taken from the broker: %s", answer.not_listed)

    def _save(self) -> None:
        """Keep the newest list over restarts; tried again at each connection where it fails."""
        if self._stored is self._kept:
            return
        try:
            self._store.put(_KEY, self._kept)
            self._stored = self._kept
        except DamagedStoreError:
            raise
        except StoreError as error:
            # Not in the way of a key: what is sent under it makes room on a full disk.
            _LOG.warning("a list of revoked certificates is not kept yet: %s", error.public)

    def _read_own(self) -> bytes:
        """Return a digest of certificate and key; of files that cannot be read, the empty one's."""
        if self._tls is None or self._tls.certificate is None or self._tls.key is None:
            return b""
        try:
            text = self._tls.certificate.read_bytes() + self._tls.key.read_bytes()
        except OSError:
            text = b""
        return hashlib.sha256(text).digest()
