"""What the broker is told about who may do what: its configuration and the files it names."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from edge_runtime.device.files import write_durably
from edge_runtime.errors import ConfigError
from edge_runtime.fleet.authority import Authority, certificate_identifier, new_key, pem
from edge_runtime.fleet.broker import broker_config_dir
from edge_runtime.fleet.register import CertificateEntry
from edge_runtime.messages.enrolment import broker_password

__all__ = ["BrokerAccess"]

# Mosquitto's own format and default (`mosquitto_passwd -H sha512-pbkdf2`). The passwords have 256
# random bits, so that the number of rounds does not matter.
_ROUNDS = 101
_SALT_BYTES = 12
# Files with process ids, without their ending, and what the process is called.
_BROKERS = {"mosquitto": "mosquitto", "nats": "nats-server"}
# From its process id file to its signal handlers a broker takes milliseconds.
_START_S = 5.0


class BrokerAccess:
    """The directory that a fleet's broker is run from.

    Parameters
    ----------
    directory : Path
        It: everything the broker's machine needs, and no key but the broker's own.
    fleet : str
        Name of the fleet.
    """

    def __init__(self, *, directory: Path, fleet: str) -> None:
        self.directory = directory
        self._fleet = fleet

    @property
    def configuration(self) -> Path:
        """The file to start Mosquitto with."""
        return self.directory / "mosquitto.conf"

    def set_up(
        self, authority: Authority, *, names: Sequence[str], port: int, enrol_port: int, user: str
    ) -> None:
        """Write configuration, key and certificate of the broker.

        Parameters
        ----------
        authority : Authority
            Signs the certificate.
        names : sequence of str
            Host names and addresses of the broker.
        port, enrol_port : int
            For certificates and for tokens.
        user : str
            Whom Mosquitto gives root up for; run by root, the directory becomes this user's.

        Raises
        ------
        ConfigError
            The directory's path cannot be written into a Mosquitto configuration, or root does
            not know the user.
        """
        if any(c in str(self.directory) for c in '"\n\\'):
            raise ConfigError(f"Mosquitto cannot be configured to use {str(self.directory)!r}")
        if os.geteuid() == 0:
            try:
                for path in (self.directory, self.directory / "data"):
                    shutil.chown(path, user)
            except LookupError as error:
                raise ConfigError(
                    f"there is no user {user!r} here; name the broker's with --broker-user"
                ) from error
        self._certify(authority, names)
        write_durably(self.directory / "ca.pem", pem(authority.certificate))
        words = {
            "@DIR@": str(self.directory), "@PORT@": str(port), "@ENROL_PORT@": str(enrol_port),
            "@USER@": user,
        }  # fmt: skip
        write_durably(self.configuration, _filled("mosquitto-fleet.conf", words))
        write_durably(self.directory / "nats.conf", _filled("nats-fleet.conf", words))
        write_durably(self.directory / "flood.nft", _filled("flood.nft", words))
        write_durably(self.directory / "enrol.acl", _filled("enrol.acl", {"@FLEET@": self._fleet}))

    def renew(self, authority: Authority) -> None:
        """Give the broker a new key and a certificate for the same names."""
        old = x509.load_pem_x509_certificate((self.directory / "server.pem").read_bytes())
        names = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self._certify(authority, [str(name.value) for name in names])

    def write_rules(self, *, shut_out: Sequence[str], valid: Sequence[CertificateEntry]) -> bool:
        """Write who may use which topics; return whether that is new.

        Parameters
        ----------
        shut_out : sequence of str
            Names that may use none (Mosquitto).
        valid : sequence of CertificateEntry
            Certificates whose owners are let in (nats-server).
        """
        denied = "\n".join(
            f"user {name}\ntopic deny er/v1/{self._fleet}/#" for name in sorted(shut_out)
        )
        text = _filled("fleet.acl", {"@FLEET@": self._fleet, "@REVOKED@": denied})
        users = "\n".join(self._nats_user(entry) for entry in valid)
        new = self._update("fleet.acl", text)
        return self._update("nats-users.conf", f"users: [\n{users}\n]\n") or new

    def write_tokens(self, secrets: Mapping[str, bytes]) -> bool:
        """Write which tokens, by id, the broker lets in; return whether that is new."""
        path = self.directory / "enrol.passwd"
        known = {}
        if path.exists():
            lines = path.read_text(encoding="ascii").splitlines()
            # Their salt stays: nothing is new as long as the tokens are the same.
            known = {line.partition(":")[0]: line for line in lines}
        lines = [
            known.get(token) or f"{token}:{_password_hash(broker_password(secret))}"
            for token, secret in sorted(secrets.items())
        ]
        return self._update("enrol.passwd", "".join(f"{line}\n" for line in lines), mode=0o600)

    def write_revocations(
        self, authority: Authority, certificates: Iterable[CertificateEntry]
    ) -> bytes:
        """Sign and write the list of revoked certificates, and return it, PEM."""
        path = self.directory / "crl.pem"
        previous = None
        if path.exists():
            previous = x509.load_pem_x509_crl(path.read_bytes()).last_update_utc
        revoked = [
            (int(entry.serial, 16), datetime.fromtimestamp(entry.revoked_s, UTC))
            for entry in certificates
            if entry.revoked_s is not None
        ]
        listed = authority.revocation_list(revoked, after=previous)
        write_durably(path, listed)
        return listed

    def reload(self) -> bool:
        """Make a broker that runs from this directory, on this machine, read its files again.

        Returns
        -------
        bool
            False: none does.
        """
        found = [_hang_up(self.directory / f"{file}.pid", name) for file, name in _BROKERS.items()]
        return any(found)

    def _certify(self, authority: Authority, names: Sequence[str]) -> None:
        server = authority.issue_server(new_key(self.directory / "server.key").public_key(), names)
        write_durably(self.directory / "server.pem", pem(server))

    def _nats_user(self, entry: CertificateEntry) -> str:
        """Write the rules of fleet.acl for one certificate; NATS writes / as a dot."""
        root = f"er.v1.{self._fleet}"
        writes, reads = {
            "aggregator": ([f"{root}.down.>"], [f"{root}.up.>"]),
            "enrolment": ([f"{root}.enrol.*.reply"], [f"{root}.enrol.*.request"]),
        }.get(
            entry.name,
            (
                [f"{root}.up.{entry.name}.>"],
                [f"{root}.down.{entry.name}.>", f"{root}.down.all.>"],
            ),
        )
        # Through the last one nats-server delivers QoS 1; MQTT clients cannot name it.
        reads = [*reads, "$MQTT.sub.>"]
        user = certificate_identifier(entry.name, int(entry.serial, 16))
        return (
            f'  {{ user: "{user}", permissions: '
            f"{{ publish: {json.dumps(writes)}, subscribe: {json.dumps(reads)} }} }}"
        )

    def _update(self, name: str, text: str, *, mode: int = 0o644) -> bool:
        path = self.directory / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            return False
        write_durably(path, text, mode=mode)
        return True


def _hang_up(pid_file: Path, name: str) -> bool:
    """Send SIGHUP to the process in a file, if it is there and of this name."""
    try:
        number = int(pid_file.read_text())
        process = Path("/proc", str(number))
        # After a crash the number may be another process's.
        if (process / "comm").read_text().strip() != name:
            return False
        deadline = time.monotonic() + _START_S
        while not _catches_hangup(process):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        os.kill(number, signal.SIGHUP)
        # Mosquitto forgets a signal that comes while it still reads files for the one before, and
        # these may be older ones. Where it sleeps it reads none.
        while not _sleeps(process) and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(number, signal.SIGHUP)
    except (OSError, ValueError):
        return False
    return True


def _catches_hangup(process: Path) -> bool:
    """Return whether SIGHUP is handled: a broker that is starting would be ended by it."""
    for line in (process / "status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (signal.SIGHUP - 1) & 1)
    return False


def _sleeps(process: Path) -> bool:
    """Return whether a process waits for something to happen."""
    state = (process / "stat").read_text().rpartition(")")[2].split()[0]
    return state == "S"


def _filled(template: str, words: Mapping[str, str]) -> str:
    text = (broker_config_dir() / template).read_text(encoding="utf-8")
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def _password_hash(password: str) -> str:
    salt = os.urandom(_SALT_BYTES)
    key = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ROUNDS)
    texts = (base64.b64encode(value).decode() for value in (salt, key))
    return f"$7${_ROUNDS}${'$'.join(texts)}"
