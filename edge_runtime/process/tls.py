"""Encryption of the link to the broker, and who is who on it, from three files.

Only the standard library's `ssl`: a running device needs nothing else for it.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
import time
from pathlib import Path

import msgspec

from edge_runtime.errors import ConfigError

__all__ = ["TlsFiles", "handshake_problem", "refusal_problem", "refusal_reason"]

# OpenSSL's verdicts on the other side's certificate that come from a clock and nothing else.
_TIME_VERDICTS = {
    9: "is not valid yet",
    10: "has expired",
}
# What the alerts of the broker's OpenSSL say about our certificate.
_ALERTS = {
    "revoked": "this certificate was revoked; enrol the device again with a new token",
    "expired": "this certificate has expired (or the broker's clock is ahead); enrol again",
    "unknown_ca": "this certificate was not issued by the broker's fleet; enrol in this fleet",
    "unsupported_certificate": "this certificate is not one for a client; enrol again",
    "required": "it asks for a certificate; set certificate and key under [broker.tls]",
    "handshake_failure": "it asks for a certificate; set certificate and key under [broker.tls]",
}


class TlsFiles(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[broker.tls]: the files that a connection is encrypted and authenticated with.

    Parameters
    ----------
    ca : Path
        Certificates (PEM) that the broker's must be signed by; the system's own are not asked.
    certificate, key : Path, optional
        This client's certificate and private key (PEM); the key file must belong to its user
        alone (mode 0600). Both or neither.
    """

    ca: Path
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together; one of them is missing")

    def client_id(self, name: str) -> str:
        """Return an MQTT client id for a client of this name, stable and not for others to guess.

        Some brokers take the client id from the certificate and ignore this one. At others, who
        knew it could throw the client off; so it follows from the private key.

        Raises
        ------
        ConfigError
            The key cannot be read.
        """
        if self.key is None:
            return name
        _readable("key", self.key)
        mac = hmac.digest(self.key.read_bytes(), b"edge-runtime client id", hashlib.sha256)
        return f"{name}-{mac.hex()[:32]}"

    def context(self) -> ssl.SSLContext:
        """Read the files into a context: TLS 1.2 or newer, certificate and host name checked.

        Raises
        ------
        ConfigError
            A file is missing, unreadable, no PEM, readable by others, or key and certificate do
            not belong together; the message names the file.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        _readable("ca", self.ca)
        try:
            context.load_verify_locations(cafile=str(self.ca))
        except ssl.SSLError as error:
            raise ConfigError(
                f"broker.tls.ca {self.ca} holds no certificate in PEM form ({error.reason})"
            ) from error
        if self.certificate is not None and self.key is not None:
            _readable("certificate", self.certificate)
            _readable("key", self.key)
            mode = self.key.stat().st_mode & 0o777
            if mode & 0o077:
                raise ConfigError(
                    f"broker.tls.key {self.key} has mode {mode:04o}: other users can get at it; "
                    f"chmod 600 {self.key}, and enrol again if they may have read it"
                )
            try:
                context.load_cert_chain(str(self.certificate), str(self.key), _no_password)
            except ssl.SSLError as error:
                raise ConfigError(
                    f"broker.tls.certificate {self.certificate} and broker.tls.key {self.key} "
                    f"cannot be used together ({error.reason}); enrol again"
                ) from error
        return context


def handshake_problem(error: ssl.SSLError, place: str) -> str:
    """Say why a TLS handshake failed and what to do, for people.

    Parameters
    ----------
    error : ssl.SSLError
        As raised.
    place : str
        Host and port of the broker.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        verdict = _TIME_VERDICTS.get(error.verify_code)
        if verdict is not None:
            clock = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
            return (
                f"the certificate of the broker at {place} {verdict} by this machine's clock, "
                f"which says {clock}; set the clock or wait until the network has set it, and "
                "if it is right, renew the broker's certificate"
            )
        return (
            f"the broker at {place} is not trusted: {error.verify_message}; host under [broker] "
            "must be a name in its certificate, and broker.tls.ca the authority that signed it"
        )
    return refusal_problem(refusal_reason(str(error)), place)


def refusal_reason(words: str) -> str:
    """Say what a broker has against this client's certificate, and what to do.

    Parameters
    ----------
    words : str
        What OpenSSL said when the connection ended, if anything.

    Returns
    -------
    str
        Empty when the words are no such alert: often the connection is gone before it is read.
    """
    lower = words.lower().replace(" ", "_")
    return next((way_out for sign, way_out in _ALERTS.items() if sign in lower), "")


def refusal_problem(reason: str, place: str) -> str:
    """Say that a broker ended a TLS connection before it accepted this client.

    Parameters
    ----------
    reason : str
        From `refusal_reason`.
    place : str
        Host and port of the broker.
    """
    reason = reason or (
        "it ended the connection during the handshake, most often because of a certificate that "
        "was revoked, has expired or is of another fleet, or because the port is not one for TLS"
    )
    return f"the broker at {place} refuses this client: {reason}"


def _readable(name: str, path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise ConfigError(
            f"broker.tls.{name} {path} cannot be read ({error.strerror}); enrol this device "
            "first, or correct the path"
        ) from error


def _no_password() -> str:
    # Without this OpenSSL would ask a terminal for one, and a service would hang.
    return ""
