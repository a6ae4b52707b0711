"""The fleet's certificate authority: keys, certificates and the list of revoked ones.

One level: the authority signs the broker's certificate and everybody's who connects to it. Each
certificate is good for one side only (extended key usage), so that a device that was opened
cannot play the broker.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge_runtime.device.files import write_durably
from edge_runtime.errors import ConfigError, EnrolmentError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )

__all__ = [
    "Authority",
    "certificate_identifier",
    "fingerprint",
    "new_key",
    "pem",
    "public_key_of_request",
    "serial_of",
    "valid_between",
]

# A device whose clock lags by a day at its first boot can still be talked to.
_BACKDATED = timedelta(days=1)
# There is no renewal yet, and boards run for years.
_LIFETIME = timedelta(days=3650)
_AUTHORITY_LIFETIME = timedelta(days=7300)
# OpenSSL prefers the list with the later date, by the second; this leaves room for many
# revocations in a row without a date in the future, which would shut everybody out.
_LIST_BACKDATED = timedelta(hours=1)
# Of a common name, by X.520; nobody is known by a longer one here.
_NAME_CHARACTERS = 64


class Authority:
    """A certificate and the key that signs with it.

    Parameters
    ----------
    certificate : x509.Certificate
        Self-signed.
    key : EllipticCurvePrivateKey
        Its key.
    """

    def __init__(self, *, certificate: x509.Certificate, key: EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self._key = key

    @classmethod
    def create(cls, *, fleet: str, certificate_path: Path, key_path: Path) -> Authority:
        """Make a new authority and write its two files; the key's mode is 0600."""
        key = new_key(key_path)
        name = _common_name(f"edge-runtime fleet {fleet}")
        certificate = (
            _builder(name, key.public_key(), issuer=name, lifetime=_AUTHORITY_LIFETIME)
            .serial_number(x509.random_serial_number())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        write_durably(certificate_path, pem(certificate))
        return cls(certificate=certificate, key=key)

    @classmethod
    def load(cls, *, certificate_path: Path, key_path: Path) -> Authority:
        """Read an authority's two files.

        Raises
        ------
        ConfigError
            One is missing, as when the key is kept offline; or they do not belong together.
        """
        try:
            certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
            key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
        except OSError as error:
            raise ConfigError(
                f"the authority's {error.filename} cannot be read ({error.strerror}); where the "
                "key is kept offline, bring it, or name its place as authority.key in fleet.toml"
            ) from error
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"{certificate_path} or {key_path} is no PEM file: {error}"
            ) from error
        if (
            not isinstance(key, ec.EllipticCurvePrivateKey)
            or key.public_key() != certificate.public_key()
        ):
            raise ConfigError(f"{key_path} is not the key of {certificate_path}")
        return cls(certificate=certificate, key=key)

    def issue_server(self, key: EllipticCurvePublicKey, names: Sequence[str]) -> x509.Certificate:
        """Sign a certificate for a broker.

        Parameters
        ----------
        key : EllipticCurvePublicKey
            The broker's.
        names : sequence of str
            Host names and addresses that clients reach it by; the first is its common name.
        """
        builder = self._leaf(names[0], key, ExtendedKeyUsageOID.SERVER_AUTH, _LIFETIME)
        builder = builder.serial_number(x509.random_serial_number())
        return builder.add_extension(
            x509.SubjectAlternativeName([_host(name) for name in names]), critical=False
        ).sign(self._key, hashes.SHA256())

    def issue_client(
        self, key: EllipticCurvePublicKey, name: str, *, lifetime: timedelta = _LIFETIME
    ) -> x509.Certificate:
        """Sign a certificate for a device or service; `name` is what the broker calls it.

        A negative lifetime gives a certificate that has expired: for tests of who checks that.
        """
        serial = x509.random_serial_number()
        builder = self._leaf(name, key, ExtendedKeyUsageOID.CLIENT_AUTH, lifetime)
        # For brokers without lists of revoked certificates, which admit identifiers instead.
        identifier = x509.UniformResourceIdentifier(certificate_identifier(name, serial))
        return (
            builder.serial_number(serial)
            .add_extension(x509.SubjectAlternativeName([identifier]), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def revocation_list(
        self, revoked: Iterable[tuple[int, datetime]], *, after: datetime | None = None
    ) -> bytes:
        """Sign the list of revoked certificates, PEM.

        Parameters
        ----------
        revoked : iterable of (int, datetime)
            Serial number, and when.
        after : datetime, optional
            Date of the previous list; the new one is later.
        """
        dated = datetime.now(UTC).replace(microsecond=0) - _LIST_BACKDATED
        if after is not None:
            dated = max(dated, after + timedelta(seconds=1))
        builder = x509.CertificateRevocationListBuilder(
            issuer_name=self.certificate.subject,
            last_update=dated,
            # A list that is overdue makes OpenSSL refuse everybody; the broker is handed a new
            # one whenever there is one, so a short life would gain nothing.
            next_update=dated + _AUTHORITY_LIFETIME,
            revoked_certificates=[
                x509.RevokedCertificateBuilder(serial_number=serial, revocation_date=when).build()
                for serial, when in revoked
            ],
        ).add_extension(self._key_identifier(), critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _leaf(
        self,
        name: str,
        key: EllipticCurvePublicKey,
        use: x509.ObjectIdentifier,
        lifetime: timedelta,
    ) -> x509.CertificateBuilder:
        return (
            _builder(_common_name(name), key, issuer=self.certificate.subject, lifetime=lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=True)
            .add_extension(self._key_identifier(), critical=False)
        )

    def _key_identifier(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())


def certificate_identifier(name: str, serial: int) -> str:
    """Return the identifier (URN) in a client's certificate, which no other certificate has."""
    return f"urn:edge-runtime:{name}:{serial:x}"


def new_key(path: Path) -> EllipticCurvePrivateKey:
    """Make an EC P-256 key and write it to a file of mode 0600."""
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_durably(path, private, mode=0o600)
    return key


def pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate in PEM form."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def serial_of(certificate: str) -> int:
    """Return the serial number of a certificate in PEM form."""
    return x509.load_pem_x509_certificate(certificate.encode()).serial_number


def valid_between(certificate: x509.Certificate) -> tuple[int, int]:
    """Return when a certificate was made and until when it is valid, in seconds since 1970."""
    made = certificate.not_valid_before_utc + _BACKDATED
    return int(made.timestamp()), int(certificate.not_valid_after_utc.timestamp())


def fingerprint(key: EllipticCurvePublicKey) -> str:
    """Return the SHA-256 of a public key (DER), hexadecimal."""
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()


def public_key_of_request(request: str) -> EllipticCurvePublicKey:
    """Return the key that a PKCS #10 request (PEM) is about; its names are of no interest.

    Raises
    ------
    EnrolmentError
        It is no request, not signed by its own key, or its key is not EC P-256.
    """
    try:
        read = x509.load_pem_x509_csr(request.encode())
        signed = read.is_signature_valid
        key = read.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise EnrolmentError(f"the certificate request cannot be read ({error})") from error
    if not signed:
        raise EnrolmentError("the certificate request is not signed by its own key")
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise EnrolmentError("the certificate request is for a key of another kind than EC P-256")
    return key


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:_NAME_CHARACTERS])])


def _builder(
    name: x509.Name, key: EllipticCurvePublicKey, *, issuer: x509.Name, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    start = now - _BACKDATED
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key)
        .not_valid_before(min(start, now + lifetime - _BACKDATED))
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(**allowed: bool) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
        "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    chosen: dict[str, Any] = dict.fromkeys(names, False) | allowed
    return x509.KeyUsage(**chosen)


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
