"""The directory that says who a device is: key, certificate, authority, minimum time.

It is made aside and put in place by a rename when it is complete, so that what stands in
``<state_dir>/identity`` always belongs together, through a power cut at any moment and when a
device is enrolled again.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from edge_runtime.device.files import write_durably
from edge_runtime.messages import TlsFiles
from edge_runtime.process.directories import sync_directory

__all__ = ["IdentityDir"]


class IdentityDir:
    """The identity of a device and the one that is being made.

    Parameters
    ----------
    state_dir : Path
        The device's state directory; it must exist.

    Attributes
    ----------
    path : Path
        The identity in force, if it exists: ``ca.pem``, ``certificate.pem``, ``key.pem`` (mode
        0600), ``token`` (the id of the token it was got with), ``root.json`` (of the fleet's update
        keys, where it has any), and ``minimum-time`` (seconds
        since 1970: the authority's clock at enrolment, before which this device's cannot be).
    """

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / "identity"
        self._new = state_dir / "identity.new"
        self._old = state_dir / "identity.old"
        self._state_dir = state_dir

    @property
    def tls(self) -> TlsFiles:
        """The files of the identity in force, for a link."""
        return TlsFiles(
            ca=self.path / "ca.pem",
            certificate=self.path / "certificate.pem",
            key=self.path / "key.pem",
        )

    @property
    def new_key(self) -> Path:
        """Where the key of the identity in the making is or will be."""
        return self._new / "key.pem"

    @property
    def new_ca(self) -> Path:
        """The authority of the identity in the making."""
        return self._new / "ca.pem"

    @property
    def root(self) -> Path:
        """The root of the update keys in the identity in force."""
        return self.path / "root.json"

    def belongs_to(self, token: str) -> bool:
        """Return whether the identity in force was got with this token."""
        return _read(self.path / "token") == token.encode()

    def prepare(self, *, token: str, ca: str, root: str = "") -> None:
        """Begin an identity, or go on with the one begun with the same token."""
        if _read(self._new / "token") != token.encode():
            shutil.rmtree(self._new, ignore_errors=True)
            self._new.mkdir(mode=0o700)
            write_durably(self.new_ca, ca)
            if root:
                write_durably(self._new / "root.json", root)
            write_durably(self._new / "token", token)
            sync_directory(self._state_dir)

    @property
    def has_new_certificate(self) -> bool:
        """Whether the identity in the making is complete."""
        return (self._new / "certificate.pem").exists()

    def complete(self, *, certificate: str, minimum_time_unix_s: int) -> None:
        """Add what the authority answered."""
        write_durably(self._new / "minimum-time", f"{minimum_time_unix_s}\n")
        write_durably(self._new / "certificate.pem", certificate)

    def put_in_force(self) -> None:
        """Put the complete new identity in the place of the old one, if there is one."""
        shutil.rmtree(self._old, ignore_errors=True)
        if self.path.exists():
            self.path.rename(self._old)
        self._new.rename(self.path)
        sync_directory(self._state_dir)
        shutil.rmtree(self._old, ignore_errors=True)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
