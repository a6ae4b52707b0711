"""The device's own key: made on the device, never seen elsewhere.

Enrolment alone needs this: an agent that runs must not carry the libraries. They are imported at
once, as root's may lie where the user that keys are made with cannot read them.
"""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from edge_runtime.device.files import write_durably
from edge_runtime.errors import ConfigError, EnrolmentError

__all__ = ["certificate_request", "check_certificate", "load_or_make_key"]


def load_or_make_key(path: Path) -> EllipticCurvePrivateKey:
    """Return the key in a file, made first when there is none: EC P-256, PEM, mode 0600.

    P-256 and not Ed25519: every TLS library and security chip has it.

    Raises
    ------
    ConfigError
        The file holds something else.
    """
    if not path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        write_durably(path, pem, mode=0o600)
    try:
        loaded = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} holds no private key in PEM form; remove it") from error
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path} holds a key of another kind than EC P-256; remove it")
    return loaded


def certificate_request(key: EllipticCurvePrivateKey, device: str) -> str:
    """Return a PKCS #10 request (PEM) for a device id, signed by its key."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, device)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def check_certificate(
    certificate: str, *, ca: str, key: EllipticCurvePrivateKey, device: str
) -> None:
    """Check that a certificate is this device's own and of its fleet.

    Raises
    ------
    EnrolmentError
        It is for another key or another device, or signed by another authority.
    """
    try:
        own, authority = (
            x509.load_pem_x509_certificate(text.encode()) for text in (certificate, ca)
        )
        own.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, x509.InvalidVersion) as error:
        raise EnrolmentError(
            "the certificate received is not signed by the authority in the provisioning file; "
            "make a new file with edge-runtime fleet token"
        ) from error
    names = own.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    if own.public_key() != key.public_key() or [name.value for name in names] != [device]:
        raise EnrolmentError(
            f"the certificate received is not for this device's key and the id {device!r}; make "
            "a new provisioning file with edge-runtime fleet token"
        )
