"""The key that the aggregator and a device share, from the certificates that both have anyway.

Diffie-Hellman with both sides' lasting keys (NIST SP 800-56A, 6.3: no ephemeral keys, two static
ones) on P-256, then HKDF-SHA256 (RFC 5869). Who holds neither private key cannot know it, the
broker included. Nothing is forward secret, and nothing needs to be: the key authenticates, it hides
nothing.

This module brings `cryptography`, 12 MB: the agent on a device does not import it.
"""

from __future__ import annotations

from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge_runtime.errors import AuthenticityError, ConfigError
from edge_runtime.process.revocation import UNREADABLE, Revocations, read_revocations
from edge_runtime.process.tls import TlsFiles

__all__ = ["Agreed", "Agreement"]

_INFO = b"edge-runtime message key 1"
_KEY_BYTES = 32


class Agreed(NamedTuple):
    """What comes of a certificate.

    Attributes
    ----------
    key : bytes
        32 bytes.
    expires_unix_s : float
        Until when the certificate is valid, in Unix seconds.
    serial : int
        Its number, by which it may be revoked.
    """

    key: bytes
    expires_unix_s: float
    serial: int


class Agreement:
    """One side: its key, its certificate, and whom it trusts.

    Parameters
    ----------
    tls : TlsFiles
        With certificate and key.
    fleet : str
        Keys of one fleet are none of another's.

    Attributes
    ----------
    certificate : bytes
        Its own, DER.
    serial : int
        The number of that.

    Raises
    ------
    ConfigError
        A file is missing or holds something else; certificate and key do not belong together; the
        key is not EC P-256.
    """

    def __init__(self, *, tls: TlsFiles, fleet: str) -> None:
        if tls.certificate is None or tls.key is None:
            raise ConfigError("broker.tls names no certificate and key of this side")
        try:
            self._authorities = x509.load_pem_x509_certificates(tls.ca.read_bytes())
            own = x509.load_pem_x509_certificate(tls.certificate.read_bytes())
            key = load_pem_private_key(tls.key.read_bytes(), password=None)
        except OSError as error:
            raise ConfigError(f"{error.filename} cannot be read ({error.strerror})") from error
        except UNREADABLE as error:
            raise ConfigError(
                f"{tls.ca}, {tls.certificate} or {tls.key} is no PEM file of this kind: {error}"
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not _is_p256(key.curve):
            raise ConfigError(f"{tls.key} holds a key of another kind than EC P-256; enrol again")
        if key.public_key() != own.public_key():
            raise ConfigError(f"{tls.key} is not the key of {tls.certificate}; enrol again")
        self._key, self._fleet = key, fleet
        self.certificate, self.serial = own.public_bytes(Encoding.DER), own.serial_number
        self._revocations: Revocations | None = None

    def heed(self, der: bytes) -> None:
        """Put a list of revoked certificates (DER) in force, from whomever.

        Raises
        ------
        AuthenticityError
            It is not readable, not signed by the fleet's authority, or not newer than the one in
            force, which stays.
        """
        found, before = read_revocations(der, self._authorities), self._revocations
        if before is not None and found.dated <= before.dated:
            raise AuthenticityError(
                f"a list of revoked certificates of {found.dated:%Y-%m-%d %H:%M:%S} UTC is not "
                f"newer than the one in force, of {before.dated:%Y-%m-%d %H:%M:%S}"
            )
        self._revocations = found

    def is_revoked(self, serial: int) -> bool:
        """Return whether the certificate of this number is in the list in force, if any is."""
        return self._revocations is not None and serial in self._revocations.serials

    def agree(self, other: bytes, *, name: str, device: str, now_unix_s: float) -> Agreed:
        """Return the key that is shared with the holder of a certificate.

        Parameters
        ----------
        other : bytes
            The other side's certificate, DER, from whomever.
        name : str
            Whose it must be.
        device : str
            The device of the two.
        now_unix_s : float
            The time.

        Raises
        ------
        AuthenticityError
            It is not readable, not signed by the fleet's authority, another's, not one for
            clients, not valid now, revoked, or its key is not EC P-256.
        """
        try:
            certificate = x509.load_der_x509_certificate(other)
            names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
            begins = certificate.not_valid_before_utc.timestamp()
            ends = certificate.not_valid_after_utc.timestamp()
            usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
            public = certificate.public_key()
        except UNREADABLE as error:
            raise AuthenticityError("a certificate cannot be read") from error
        # The signature last: it costs the most.
        if [found.value for found in names] != [name]:
            raise AuthenticityError(f"a certificate of another name than {name!r}")
        if ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
            raise AuthenticityError(f"a certificate of {name!r} is not one for clients")
        if not begins <= now_unix_s <= ends:
            raise AuthenticityError(f"a certificate of {name!r} has expired or is not valid yet")
        if self.is_revoked(certificate.serial_number):
            raise AuthenticityError(f"a certificate of {name!r} was revoked")
        if not isinstance(public, ec.EllipticCurvePublicKey) or not _is_p256(public.curve):
            raise AuthenticityError(f"the key of {name!r} is of another kind than EC P-256")
        if not any(_issued(certificate, authority) for authority in self._authorities):
            raise AuthenticityError(f"a certificate of {name!r} is of another fleet")
        secret = self._key.exchange(ec.ECDH(), public)
        info = b"\0".join((_INFO, self._fleet.encode(), device.encode()))
        key = HKDF(algorithm=hashes.SHA256(), length=_KEY_BYTES, salt=None, info=info)
        return Agreed(key.derive(secret), ends, certificate.serial_number)


def _issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except UNREADABLE:
        return False
    return True


def _is_p256(curve: ec.EllipticCurve) -> bool:
    return isinstance(curve, ec.SECP256R1)
