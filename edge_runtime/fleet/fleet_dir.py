"""The directory of a fleet: authority, register, and what broker and aggregator are given.

::

    fleet.toml                 name, hosts and ports, where the authority's key is
    fleet.sqlite               the register: tokens and certificates
    ca.pem                     the authority's certificate; public
    private/ca.key             its key (0600); may live elsewhere, see authority.key in fleet.toml
    private/root.key           names the update keys (0600); beside ca.key, where that is elsewhere
    private/enrolment.key      from which the secrets of tokens follow (0600)
    device-settings.toml       sections that every provisioning file gets; edit it
    aggregator.toml            for the aggregator; edit it
    aggregator/, enrolment/    certificate and key of these two services
    aggregator/crl.pem         the list of revoked certificates, as in broker/
    aggregator/updates/        keys that sign what is published, and their roots
    broker/                    all that the broker's machine needs
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec

from edge_runtime.device.files import write_durably
from edge_runtime.device.toml import toml_text, toml_value
from edge_runtime.errors import ConfigError, FleetError
from edge_runtime.fleet.authority import Authority, new_key, pem, valid_between
from edge_runtime.fleet.broker import own_user
from edge_runtime.fleet.broker_access import BrokerAccess
from edge_runtime.fleet.first_settings import AGGREGATOR, DEVICE_SETTINGS
from edge_runtime.fleet.register import Register
from edge_runtime.messages import TlsFiles
from edge_runtime.messages.fields import Id
from edge_runtime.process.directories import make_directory
from edge_runtime.process.toml_file import read_toml
from edge_runtime.updates.keys import load_roots, make_roots, rotate_roots

__all__ = ["SERVICES", "FleetDir", "init_fleet"]

#: names that services of the fleet have at the broker; no device may have them
SERVICES = ("aggregator", "enrolment")

# What certificates hold and every resolver takes; an IPv6 address has colons.
_HOST = re.compile(r"\A[A-Za-z0-9:][A-Za-z0-9._:-]{0,252}\Z")
_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
# A certificate for these too lets services on the broker's own machine use the loopback.
_LOCAL = ("localhost", "127.0.0.1", "::1")


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of fleet.toml."""


class _Fleet(_Section, frozen=True, kw_only=True):
    name: Id


class _Broker(_Section, frozen=True, kw_only=True):
    host: Annotated[str, msgspec.Meta(min_length=1)]
    port: _Port
    enrol_port: _Port


class _Authority(_Section, frozen=True, kw_only=True):
    key: str


class _Updates(_Section, frozen=True, kw_only=True):
    root_key: str


class _File(_Section, frozen=True, kw_only=True):
    fleet: _Fleet
    broker: _Broker
    authority: _Authority
    updates: _Updates | None = None  # a fleet of an earlier release signs nothing


class FleetDir:
    """A fleet's directory, as `init_fleet` made it.

    Parameters
    ----------
    path : Path
        The directory.

    Attributes
    ----------
    name, host, port, enrol_port
        The fleet, and where its broker listens for certificates and for tokens.
    authority_key : Path
        Where the authority's key is; it may be away.
    root_key : Path or None
        The same of the update keys' root; None without them.

    Raises
    ------
    ConfigError
        It is none, or its fleet.toml has a mistake.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        file = self.path / "fleet.toml"
        try:
            read = msgspec.convert(read_toml(file), _File)
        except OSError as error:
            raise ConfigError(
                f"{path} is not the directory of a fleet: {file} cannot be read "
                f"({error.strerror}); make one with edge-runtime fleet init"
            ) from error
        except msgspec.ValidationError as error:
            raise ConfigError.invalid(file, error, hint="docs/fleet.md") from error
        self.name = read.fleet.name
        self.host, self.port = read.broker.host, read.broker.port
        self.enrol_port = read.broker.enrol_port
        self.authority_key = self.path / read.authority.key
        self.root_key = None if read.updates is None else self.path / read.updates.root_key

    @property
    def ca(self) -> str:
        """The authority's certificate, PEM."""
        return (self.path / "ca.pem").read_text(encoding="ascii")

    @property
    def access(self) -> BrokerAccess:
        """The broker's files."""
        return BrokerAccess(directory=self.path / "broker", fleet=self.name)

    def authority(self) -> Authority:
        """Load the authority with its key; see `Authority.load` for errors."""
        return Authority.load(certificate_path=self.path / "ca.pem", key_path=self.authority_key)

    @property
    def online(self) -> Path:
        """The directory of the update keys that are in daily use, and of all roots."""
        return self.path / "aggregator" / "updates"

    @property
    def revoked(self) -> Path:
        """The aggregator's copy of the list of revoked certificates."""
        return self.path / "aggregator" / "crl.pem"

    def newest_root(self) -> str:
        """Return root.json for new devices, empty in a fleet that signs nothing."""
        if self.root_key is None:
            return ""
        roots = load_roots(self.online)
        return roots[max(roots)]

    def rotate_updates(self, *, root_too: bool) -> None:
        """Put new update keys in force, and a new root key if asked.

        Raises
        ------
        ConfigError
            The root's key is not there.
        FleetError
            The fleet has none.
        """
        if self.root_key is None:
            raise FleetError(
                f"{self.path} was made by a release that signs nothing; see docs/updates.md"
            )
        with self._lock():
            rotate_roots(
                root_key=self.root_key, online=self.online, write=_write, root_too=root_too
            )

    def register(self) -> Register:
        """Open the register."""
        return Register(self.path / "fleet.sqlite")

    def service_tls(self, service: str) -> TlsFiles:
        """Return the files of one of `SERVICES`."""
        folder = self.path / service
        return TlsFiles(
            ca=folder / "ca.pem", certificate=folder / "certificate.pem", key=folder / "key.pem"
        )

    def token_secret(self, token: str, device: str) -> bytes:
        """Return the secret of a token, 32 bytes; `device` is empty when any may use it."""
        path = self.path / "private" / "enrolment.key"
        try:
            key = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{path} cannot be read ({error.strerror})") from error
        return hmac.digest(key, f"edge-runtime token\0{token}\0{device}".encode(), hashlib.sha256)

    def write_access(self, register: Register) -> bool:
        """Bring the broker's rules and tokens up to date; return whether that changed any."""
        with self._lock():
            now = time.time()
            valid = [entry for entry in register.certificates() if entry.state == "valid"]
            rules = self.access.write_rules(shut_out=register.shut_out(), valid=valid)
            tokens = self.access.write_tokens(
                {
                    token.id: self.token_secret(token.id, token.device)
                    for token in register.tokens()
                    if token.revoked_s is None and token.expires_s > now
                }
            )
        return rules or tokens

    def write_revocations(self, register: Register, authority: Authority) -> None:
        """Bring the list of revoked certificates up to date with the register.

        The broker has it, and the aggregator, which has to know whatever the broker lets in.
        """
        with self._lock():
            listed = self.access.write_revocations(authority, register.certificates())
            write_durably(self.revoked, listed)

    def rotate(self, service: str) -> None:
        """Give the broker or one of `SERVICES` a new key and certificate.

        The old certificate of a service is revoked; its running process takes up the new files at
        its next connection. The broker's has nobody who would look for a revocation.
        """
        authority = self.authority()
        if service == "broker":
            self.access.renew(authority)
            return
        with self.register() as register:
            serial = _equip(self.path / service, authority, register, service)
            register.revoke(service, but=serial)
            self.write_revocations(register, authority)
            self.write_access(register)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        # From reading the register to writing files: or the older of two states could be the
        # last one written, when a verb and the enrolment service are at work together.
        # 0600: whoever can open it can hold it, and nothing would be revoked meanwhile.
        with os.fdopen(os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def init_fleet(
    path: Path,
    *,
    name: str,
    host: str,
    port: int,
    enrol_port: int,
    also: Sequence[str] = (),
    authority_key: Path | None = None,
    broker_user: str | None = None,
) -> FleetDir:
    """Make a fleet: authority, certificates of broker and services, configurations.

    Parameters
    ----------
    path : Path
        The directory; made when missing.
    name : str
        Of the fleet.
    host, port, enrol_port : str, int, int
        Of the broker, as devices reach it.
    also : sequence of str
        Further names and addresses for the broker's certificate.
    authority_key : Path, optional
        Where the authority's key goes, ``private/ca.key`` by default; the key of the update keys'
        root goes beside it, as ``root.key``.
    broker_user : str, optional
        Whom Mosquitto gives root up for; this process's user by default.

    Raises
    ------
    FleetError
        There is a fleet already, or another's key in `authority_key`; nothing is overwritten.
    ConfigError
        A host or the ports cannot be used.
    """
    path = path.absolute()
    if (path / "fleet.toml").exists():
        raise FleetError(f"{path} holds a fleet already; choose another directory")
    if port == enrol_port:
        raise ConfigError(f"both listeners would have port {port}; choose two")
    for wrong in (text for text in (host, *also) if _HOST.match(text) is None):
        raise ConfigError(
            f"{wrong!r} is no host name or address for a certificate; write names in their ASCII "
            "form, such as xn--brker-jua.example"
        )
    if authority_key is not None and authority_key.exists():
        raise FleetError(
            f"{authority_key} holds a key already, perhaps another fleet's; name another place, or "
            "remove it if an earlier init was cut off"
        )
    if authority_key is not None and authority_key.with_name("root.key").exists():
        raise FleetError(
            f"{authority_key.with_name('root.key')} exists already; name another directory for "
            "the authority's key"
        )
    # Whatever the umask: the broker's own user must get to its part and to nothing that is secret.
    modes = {"broker": 0o755, "broker/data": 0o700}
    if not path.exists():  # one that was there may hold more than the fleet: its mode stays
        make_directory(path)
        path.chmod(0o755)
    for folder in ("private", "broker", "broker/data", *SERVICES):
        (path / folder).mkdir(parents=True, exist_ok=True)
        (path / folder).chmod(modes.get(folder, 0o700))
    key_path = path / "private" / "ca.key" if authority_key is None else authority_key.absolute()
    write_durably(path / "private" / "enrolment.key", secrets.token_bytes(32), mode=0o600)
    authority = Authority.create(fleet=name, certificate_path=path / "ca.pem", key_path=key_path)
    online = path / "aggregator" / "updates"
    shutil.rmtree(online, ignore_errors=True)  # of an attempt that was cut off
    online.mkdir(mode=0o700)
    root_key = key_path.with_name("root.key")
    make_roots(root_key=root_key, online=online, write=_write)
    # A register of an attempt that was cut off names certificates of another authority.
    (path / "fleet.sqlite").unlink(missing_ok=True)
    with Register(path / "fleet.sqlite") as register:
        for service in SERVICES:
            _equip(path / service, authority, register, service)
        access = BrokerAccess(directory=path / "broker", fleet=name)
        access.set_up(
            authority,
            names=list(dict.fromkeys([host, *also, *_LOCAL])),
            port=port,
            enrol_port=enrol_port,
            user=broker_user or own_user(),
        )
        write_durably(path / "aggregator" / "crl.pem", access.write_revocations(authority, []))
        access.write_rules(shut_out=[], valid=register.certificates())
        access.write_tokens({})
    text = {"name": toml_value(name), "host": toml_value(host), "port": port}
    write_durably(path / "aggregator.toml", AGGREGATOR.format(**text))
    write_durably(path / "device-settings.toml", DEVICE_SETTINGS)

    def place(key: Path) -> str:
        return os.path.relpath(key, path) if authority_key is None else str(key)

    sections: dict[str, dict[str, object]] = {
        "fleet": {"name": name},
        "broker": {"host": host, "port": port, "enrol_port": enrol_port},
        "authority": {"key": place(key_path)},
        "updates": {"root_key": place(root_key)},
    }
    # Last: where it is, the rest is complete.
    write_durably(path / "fleet.toml", toml_text(sections))
    return FleetDir(path)


def _write(path: Path, data: bytes, mode: int) -> None:
    write_durably(path, data, mode=mode)


def _equip(folder: Path, authority: Authority, register: Register, service: str) -> int:
    certificate = authority.issue_client(new_key(folder / "key.pem").public_key(), service)
    issued_s, expires_s = valid_between(certificate)
    register.add_certificate(
        serial=certificate.serial_number, name=service, service=True,
        issued_s=issued_s, expires_s=expires_s,
    )  # fmt: skip
    write_durably(folder / "certificate.pem", pem(certificate))
    write_durably(folder / "ca.pem", pem(authority.certificate))
    return certificate.serial_number
