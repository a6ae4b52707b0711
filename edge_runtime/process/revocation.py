"""The fleet's list of revoked certificates (RFC 5280, section 5), signed by its authority.

A list says when it was made, and each of a fleet's is dated later than the one before (the
authority sees to that), so an old one is known by its date. Whether there is a newer one that is
kept away nobody can tell.

This module brings `cryptography`: the agent on a device does not import it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from edge_runtime.errors import AuthenticityError

__all__ = ["UNREADABLE", "Revocations", "read_revocations", "serial_of"]

#: whatever reading a certificate or list of somebody unknown may raise
UNREADABLE = (
    ValueError,
    TypeError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


class Revocations(NamedTuple):
    """When a list was made, and the serial numbers of the certificates in it."""

    dated: datetime
    serials: frozenset[int]


def read_revocations(der: bytes, authorities: Sequence[x509.Certificate]) -> Revocations:
    """Read a list, DER, from whomever.

    Parameters
    ----------
    der : bytes
        The list.
    authorities : sequence of x509.Certificate
        One of them must have signed it.

    Raises
    ------
    AuthenticityError
        It is not readable, or of another fleet.
    """
    try:
        found = x509.load_der_x509_crl(der)
        # The signature before anything else: the length of an unsigned list is somebody's choice.
        if not any(_signed(found, authority) for authority in authorities):
            raise AuthenticityError("a list of revoked certificates is of another fleet")
        return Revocations(found.last_update_utc, frozenset(entry.serial_number for entry in found))
    except UNREADABLE as error:
        raise AuthenticityError("a list of revoked certificates cannot be read") from error


def serial_of(certificate: bytes) -> int:
    """Return the number of a certificate, DER, that was verified."""
    return x509.load_der_x509_certificate(certificate).serial_number


def _signed(found: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    # Of another kind it raises TypeError, as it should.
    key: Any = authority.public_key()
    return found.issuer == authority.subject and found.is_signature_valid(key)
