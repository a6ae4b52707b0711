"""Certificates for devices: on request over the broker, or by hand.

The service that does so holds the authority's key and does nothing else. The aggregator, which
reads what devices send and is therefore the likelier victim, needs no key but its own.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from pathlib import Path

from edge_runtime.errors import ConfigError, EdgeRuntimeError, EnrolmentError
from edge_runtime.fleet.authority import (
    Authority,
    fingerprint,
    pem,
    public_key_of_request,
    serial_of,
    valid_between,
)
from edge_runtime.fleet.fleet_dir import SERVICES, FleetDir
from edge_runtime.fleet.register import Register, TokenEntry
from edge_runtime.messages import Link, check_id
from edge_runtime.messages.enrolment import (
    ALL_REQUESTS,
    EnrolmentReply,
    EnrolmentRequest,
    decode_request,
    encode_sealed,
    is_sealed,
    reply_topic,
    token_of_topic,
)

__all__ = ["Issuer", "serve"]

_LOG = logging.getLogger(__name__)
_TICK_S = 0.5
# Devices ask again every few seconds; what does not fit is not lost.
_QUEUE = 1024


class Issuer:
    """Decides about requests and signs.

    Parameters
    ----------
    fleet : FleetDir
        The fleet.
    authority : Authority
        With its key.
    register : Register
        Of the fleet; every certificate is in it before anybody has it.
    """

    def __init__(self, *, fleet: FleetDir, authority: Authority, register: Register) -> None:
        self._fleet, self._authority, self._register = fleet, authority, register

    def answer(self, topic: str, payload: bytes) -> bytes:
        """Return the answer to a request.

        Raises
        ------
        MessageError
            It is no request of this protocol.
        EnrolmentError
            It was not made with a token of this fleet, and deserves no answer.
        """
        request = decode_request(payload)
        token = self._register.token(request.token)
        if token is None:
            raise EnrolmentError(f"there is no token {request.token}")
        secret = self._fleet.token_secret(token.id, token.device)
        if not is_sealed(request, secret) or token_of_topic(topic) != token.id:
            raise EnrolmentError(f"a request with token {token.id} was made without its secret")
        reason, certificate = "", ""
        try:
            certificate = self._certificate(request)
        except EnrolmentError as error:
            reason = str(error)
            _LOG.warning("refused device %s: %s", request.device, reason)
        reply = EnrolmentReply(
            token=token.id,
            nonce=request.nonce,
            status="refused" if reason else "issued",
            certificate=certificate,
            time_unix_s=int(time.time()),
            reason=reason,
        )
        return encode_sealed(reply, secret)

    def issue(self, device: str, request: str) -> str:
        """Sign a certificate for a device by hand, for a PKCS #10 request (PEM).

        Raises
        ------
        EnrolmentError
            The request is unusable, or the name is one of the fleet's services.
        RangeError
            The name is none for a device.
        """
        check_id(device, what="device")
        _check_name(device)
        key = public_key_of_request(request)
        with self._register.transaction():
            certificate = self._sign(device, key)
        self._fleet.write_access(self._register)
        return certificate

    def _certificate(self, request: EnrolmentRequest) -> str:
        _check_name(request.device)
        if request.fleet != self._fleet.name:
            raise EnrolmentError(f"this is fleet {self._fleet.name!r}, not {request.fleet!r}")
        key = public_key_of_request(request.request)
        with self._register.transaction():
            # Read again: it may have been used since, by another process.
            token = self._register.token(request.token)
            assert token is not None
            if token.certificate and token.public_key == fingerprint(key):
                if self._register.is_revoked(serial_of(token.certificate)):
                    raise EnrolmentError("the certificate was revoked; make a new token")
                _LOG.info("device %s asked again and is answered again", request.device)
                certificate = token.certificate
            else:
                self._check_token(token, request.device)
                certificate = self._sign(request.device, key)
                self._register.use_token(
                    token.id, public_key=fingerprint(key), certificate=certificate
                )
                _LOG.info("issued a certificate to device %s, token %s", request.device, token.id)
        # A name that was revoked has a certificate again; the broker need not hear of any other.
        # Also when asked again: the first time may have ended right here, on a full disk.
        if self._fleet.write_access(self._register):
            self._fleet.access.reload()
        return certificate

    def _check_token(self, token: TokenEntry, device: str) -> None:
        if token.certificate:
            raise EnrolmentError("the token was used before, with another key; make a new one")
        if token.revoked_s is not None:
            raise EnrolmentError("the token was revoked; make a new one")
        if token.expires_s <= time.time():
            raise EnrolmentError("the token has expired; make a new one")
        if token.device not in ("", device):
            raise EnrolmentError(f"the token is for device {token.device!r}; make one for this id")
        if not token.device and self._register.certificates(device):
            # Who finds a token for any device must not become one that exists.
            raise EnrolmentError("a device of this id exists; make a token for it by name")

    def _sign(self, device: str, key: object) -> str:
        certificate = self._authority.issue_client(key, device)  # type: ignore[arg-type]
        issued_s, expires_s = valid_between(certificate)
        self._register.add_certificate(
            serial=certificate.serial_number, name=device, service=False,
            issued_s=issued_s, expires_s=expires_s,
        )  # fmt: skip
        return pem(certificate).decode()


def serve(
    path: Path,
    *,
    stop: threading.Event,
    host: str | None = None,
    ready: threading.Event | None = None,
) -> None:
    """Answer requests for certificates until `stop` is set.

    Parameters
    ----------
    path : Path
        The fleet's directory.
    stop : threading.Event
        Ends it.
    host : str, optional
        Where this machine reaches the broker, when not under the fleet's own name for it.
    ready : threading.Event, optional
        Set once requests are heard.

    Raises
    ------
    ConfigError
        The directory is incomplete, or the authority's key is not there.
    """
    fleet = FleetDir(path)
    tls = fleet.service_tls("enrolment")
    tls.context()  # a missing file is a mistake to report now, not to log
    received: queue.Queue[tuple[str, bytes]] = queue.Queue(_QUEUE)

    def on_message(topic: str, payload: bytes, _retained: bool) -> None:
        if not received.full():
            received.put((topic, payload))

    with fleet.register() as register:
        authority = fleet.authority()
        issuer = Issuer(fleet=fleet, authority=authority, register=register)
        # A service or verb that was killed may have entered what the broker was not told of.
        fleet.write_revocations(register, authority)
        fleet.write_access(register)
        if not fleet.access.reload():
            _LOG.warning(
                "no broker runs from %s on this machine: where it does, copy this directory there "
                "and reload it (SIGHUP) after each token, and when a revoked board is let in again",
                fleet.access.directory,
            )
        link = Link(
            host=host or fleet.host, port=fleet.port, client_id=tls.client_id("enrolment"), tls=tls,
            topics=[f"er/v1/{fleet.name}/{ALL_REQUESTS}"], on_message=on_message,
            on_connect=ready.set if ready is not None else None,
        )  # fmt: skip
        with link:
            while not stop.is_set():
                try:
                    topic, payload = received.get(timeout=_TICK_S)
                    answer = issuer.answer(topic, payload)
                    link.publish(reply_topic(fleet.name, token_of_topic(topic)), answer)
                except queue.Empty:
                    continue
                except ConfigError:
                    raise
                except EdgeRuntimeError as error:
                    _LOG.warning("a request was ignored: %s", error.public)
                except OSError as error:
                    # A full disk passes, and the board asks again.
                    _LOG.error("a request was not answered: %s", error)


def _check_name(device: str) -> None:
    if device in SERVICES:
        raise EnrolmentError(f"{device!r} is a service of the fleet; choose another device id")
