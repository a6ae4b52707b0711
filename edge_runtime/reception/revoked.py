"""The aggregator's copy of the list of revoked certificates, looked at while it runs.

Whatever happens to the file, the newest list that was read stays in force.
"""

from __future__ import annotations

import logging
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from edge_runtime.errors import AuthenticityError, ConfigError
from edge_runtime.messages.limits import DEFAULT_LIMITS
from edge_runtime.process.agreement import Agreement
from edge_runtime.process.revocation import UNREADABLE
from edge_runtime.reception.watched import WatchedFiles

__all__ = ["RevokedFile"]

_LOG = logging.getLogger(__name__)

#: a list as PEM is longer than as DER by a third and line ends
_MOST_BYTES = 3 * DEFAULT_LIMITS.revoked_bytes // 2
_WAY_OUT = (
    "copy aggregator/crl.pem of the fleet's directory there, which every edge-runtime fleet "
    "revoke and rotate makes anew beside the broker's"
)


class RevokedFile:
    """Puts the list in a file in force, at first and whenever the file has another.

    Parameters
    ----------
    path : Path
        The list, PEM.
    own : Agreement
        Heeds it.

    Attributes
    ----------
    der : bytes
        The list in force.

    Raises
    ------
    ConfigError
        There is no list of this fleet in the file, or this aggregator's certificate is in it.
    """

    def __init__(self, path: Path, own: Agreement) -> None:
        self._path, self._own = path, own
        self.der, self._problem = b"", ""
        self._file = WatchedFiles([path])
        self._read()
        if self._problem:
            raise ConfigError(f"broker.tls.revoked {path} {self._problem}; {_WAY_OUT}")
        if own.is_revoked(own.serial):
            raise ConfigError(
                f"this aggregator's own certificate is in the list of revoked ones {path}; copy "
                "the other files of aggregator/ in the fleet's directory as well"
            )

    def look(self) -> bool:
        """Return whether another list is in force than before; cheap to call at every turn."""
        if not self._file.changed():
            return False
        before = self.der
        self._read()
        if self._problem:
            _LOG.error(
                "broker.tls.revoked %s %s, and the list from before stays in force; %s",
                self._path, self._problem, _WAY_OUT,
            )  # fmt: skip
        if self.der == before:
            return False
        _LOG.info("there is a new list of revoked certificates")
        if self._own.is_revoked(self._own.serial):
            _LOG.error(
                "this aggregator's own certificate was revoked, devices will send nothing: copy "
                "the other files of aggregator/ in the fleet's directory as well"
            )
        return True

    def serve(self, own: Agreement) -> None:
        """From now on be of use to this aggregator's next certificate.

        Raises
        ------
        AuthenticityError
            It is of another fleet than the list in force; nothing has changed.
        """
        own.heed(self.der)
        self._own = own

    def _read(self) -> None:
        self._problem = ""
        try:
            with self._path.open("rb") as file:
                pem = file.read(_MOST_BYTES + 1)
            der = x509.load_pem_x509_crl(pem).public_bytes(Encoding.DER)
            if len(der) > DEFAULT_LIMITS.revoked_bytes:
                self._problem = (
                    f"has more than the {DEFAULT_LIMITS.revoked_bytes} bytes that devices take"
                )
            elif der != self.der:
                self._own.heed(der)
                self.der = der
        except OSError as error:
            self._problem = f"cannot be read ({error.strerror})"
        except AuthenticityError as error:
            self._problem = f"was not taken: {error}"
        except UNREADABLE:
            self._problem = "holds no list of revoked certificates in PEM form"
