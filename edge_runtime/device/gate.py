"""What is let in: with a root installed, only what the fleet's keys have signed.

The agent's thread asks; verification runs in a process of its own, waited for by a thread. What is
trusted lies in the device's store and changes in one transaction, so that a power cut at any moment
leaves the old or the new, and never less than was accepted.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from edge_runtime.device.clock import utc
from edge_runtime.device.governor import STAYS_HERE
from edge_runtime.device.report import Reporter
from edge_runtime.device.store import Store
from edge_runtime.errors import (
    ConfigError,
    EdgeRuntimeError,
    ExpiredError,
    SignatureError,
    SizeError,
)
from edge_runtime.messages import DEFAULT_LIMITS
from edge_runtime.updates import Envelope, Trusted, Verdict, decode_envelope, verify_apart
from edge_runtime.updates.trust import Question

__all__ = ["Gate"]

_LOG = logging.getLogger(__name__)

_KEY = "updates"
_METADATA = "metadata"
#: until metadata is looked at once more that nothing was found out about (seconds)
_AGAIN_S = 600.0


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What the store holds: the root that was installed, the one in force, what is trusted."""

    installed: str
    root: str
    trusted: Trusted | None = None


class Gate:
    """Decides about every schema, plan and bundle that arrives.

    Parameters
    ----------
    store : Store
        Of the calling thread, which is the only one to call.
    root : Path
        ``root.json`` as it was installed. Another file there begins anew, as after an enrolment
        into another fleet.
    directory : Path
        For verification; made and removed.
    reporter : Reporter
        Where refusals are shown.
    now : callable ()
        The time in Unix seconds that nothing may be older than, see `MinimumTime`.
    on_verdict : callable (Verdict)
        Called from another thread when metadata was looked at; hand it to `settle`.
    shows_shortage : bool
        As `PrivacyConfig.shows_shortage`: whether others may know that metadata could not be
        looked at, which is for want of disk or memory.

    Raises
    ------
    ConfigError
        The root cannot be read.
    """

    def __init__(
        self,
        *,
        store: Store,
        root: Path,
        directory: Path,
        reporter: Reporter,
        now: Callable[[], float],
        on_verdict: Callable[[Verdict], None],
        shows_shortage: bool = False,
    ) -> None:
        try:
            installed = root.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"updates.root {root} cannot be read ({error}); copy the fleet's root.json there"
            ) from error
        import shutil  # noqa: PLC0415 - brings three compressors that others need not hold

        # Left by a process that was killed.
        shutil.rmtree(directory, ignore_errors=True)
        self._store, self._directory = store, directory
        self._reporter, self._now, self._on_verdict = reporter, now, on_verdict
        kept = store.get(_KEY)
        self._kept = _Kept(installed=installed, root=installed)
        if kept is not None and (found := msgspec.json.decode(kept, type=_Kept)).installed == (
            installed
        ):
            self._kept = found
        self._shows_shortage = shows_shortage
        self._busy = False
        self._next: Envelope | None = None
        # What was begun and not settled; when it was, and when it is begun again at the latest.
        self._open: Envelope | None = None
        self._asked_unix_s = 0.0
        self._again_s = math.inf
        self._held: dict[str, bytes] = {}
        self._refusals: dict[str, str] = {}
        self._show()

    def offer(self, data: bytes) -> None:
        """Take metadata in; it counts once it was verified."""
        try:
            envelope = decode_envelope(data)
        except EdgeRuntimeError as error:
            self.refuse(_METADATA, error)
            return
        trusted = self._kept.trusted
        if trusted is not None and trusted.envelope == msgspec.structs.replace(envelope, roots={}):
            # As it comes again at every reconnect. A root without new metadata changes nothing.
            self._open = None
            self._accept(_METADATA)
            return
        if self._busy:
            self._next = envelope
            return
        self._start(envelope)

    def settle(self, verdict: Verdict) -> list[tuple[str, bytes]]:
        """Note what came of metadata; return what had to wait for it and is let in now.

        Raises
        ------
        StoreError
            The disk refuses; the metadata is looked at again later.
        """
        self._busy = False
        waiting, self._next = self._next, None
        self._open = waiting or self._open
        trusted = verdict.trusted
        if trusted is None and verdict.root == self._kept.root:
            trusted = self._kept.trusted  # else signed by keys that the new root has replaced
        if (verdict.root, trusted) != (self._kept.root, self._kept.trusted):
            kept = _Kept(installed=self._kept.installed, root=verdict.root, trusted=trusted)
            self._store.put(_KEY, msgspec.json.encode(kept))
            self._kept = kept
        if waiting is not None:
            self._start(waiting)
        elif verdict.error == "ExpiredError":
            self._again_s = math.inf  # only once the clock says otherwise
        elif not verdict.failed:
            self._open = None
        try:
            verdict.raise_refusal()
            self._accept(_METADATA)
        except EdgeRuntimeError as error:
            if verdict.failed and not self._shows_shortage:
                _LOG.warning("%s %s", error.public, STAYS_HERE)
            else:
                self.refuse(_METADATA, error)
        return self._released()

    def _released(self) -> list[tuple[str, bytes]]:
        return [(name, data) for name, data in list(self._held.items()) if self.admits(name, data)]

    def admits(self, name: str, data: bytes) -> bool:
        """Whether a schema, a plan or a bundle is let in now.

        Where metadata may still come that names it, it is held until `settle`.

        Parameters
        ----------
        name : str
            ``schema``, ``plan`` or ``bundle/<digest>``.
        data : bytes
            As it arrived.
        """
        try:
            self._check(name, data)
        except EdgeRuntimeError as error:
            self.refuse(name, error)
            return False
        if self._signed(name, data):
            self._held.pop(name, None)
            self._accept(name)
            return True
        return False

    def _check(self, name: str, data: bytes) -> None:
        """Refuse or hold what is not let in."""
        if not name.startswith("bundle/") and len(data) > DEFAULT_LIMITS.json_bytes:
            raise SizeError(f"{len(data)} bytes, at most {DEFAULT_LIMITS.json_bytes} are accepted")
        if self._signed(name, data):
            return
        trusted = self._kept.trusted
        if name.startswith("bundle/"):  # one at a time: they are large
            self._held = {n: d for n, d in self._held.items() if not n.startswith("bundle/")}
        self._held[name] = data
        if self._busy or trusted is None:
            return
        if self.expired:
            raise ExpiredError(f"the signed metadata expired at {utc(trusted.expires_unix_s)}")
        target = trusted.targets.get(name)
        if target is None:
            raise SignatureError("is not signed")
        if len(data) > target.bytes:
            raise SizeError(f"{len(data)} bytes, {target.bytes} are signed")
        raise SignatureError("is not the one that is signed")

    def _signed(self, name: str, data: bytes) -> bool:
        trusted = self._kept.trusted
        target = None if trusted is None or self.expired else trusted.targets.get(name)
        return (
            target is not None
            and len(data) == target.bytes
            and hashlib.sha256(data).hexdigest() == target.sha256
        )

    def size_of(self, name: str) -> int | None:
        """Signed length in bytes, or None of what is not signed."""
        trusted = self._kept.trusted
        target = None if trusted is None else trusted.targets.get(name)
        return None if target is None else target.bytes

    @property
    def expired(self) -> bool:
        """Whether the newest metadata is too old to go by."""
        trusted = self._kept.trusted
        return trusted is not None and self._now() >= trusted.expires_unix_s

    def look(self) -> list[tuple[str, bytes]]:
        """Look at the time; cheap to call at every turn.

        Returns
        -------
        list of (str, bytes)
            What had to wait and is let in now, as the clock that was ahead has been set right.
        """
        now_unix_s = self._now()
        if (
            self._open is not None
            and not self._busy
            and (time.monotonic() >= self._again_s or now_unix_s < self._asked_unix_s)
        ):
            self._start(self._open)
        shown = self._reporter.state.updates
        if self.expired and shown == "verified":
            assert self._kept.trusted is not None
            since = utc(self._kept.trusted.expires_unix_s)
            self.refuse(_METADATA, ExpiredError(f"no newer metadata has come since {since}"))
        elif not self.expired and shown == "expired":
            self._accept(_METADATA)
            return self._released()
        return []

    def refuse(self, name: str, error: EdgeRuntimeError) -> None:
        """Show and log what was not let in."""
        text = f"{name[:19]}: {type(error).__name__}: {error.public}"
        if self._refusals.get(name) != text:
            _LOG.warning("refused: %s", text)
        self._refusals[name] = text
        self._show()

    def _accept(self, name: str) -> None:
        self._refusals.pop(name, None)
        self._show()

    def _show(self) -> None:
        known = "waiting" if self._kept.trusted is None else "verified"
        self._reporter.set(
            updates="expired" if self.expired else known,
            refused="; ".join(self._refusals.values())[:2000],
        )

    def _start(self, envelope: Envelope) -> None:
        self._busy = True
        self._open = envelope
        self._asked_unix_s = self._now()
        self._again_s = time.monotonic() + _AGAIN_S
        trusted = self._kept.trusted
        question = Question(
            root=self._kept.root,
            trusted=None if trusted is None else trusted.envelope,
            offered=envelope,
            now_unix_s=self._asked_unix_s,
        )

        def work() -> None:
            self._on_verdict(verify_apart(question, self._directory))

        threading.Thread(target=work, name="verify", daemon=True).start()
