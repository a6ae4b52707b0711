"""A new board with a token that becomes a device of a secure fleet, and what must hold then."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from edge_runtime.device.enrol import enrol
from edge_runtime.device.identity import IdentityDir
from edge_runtime.errors import EnrolmentError, FleetError
from edge_runtime.messages import Link, TlsFiles
from tests.faults.fleet import Fleet
from tests.faults.node import Node
from tests.faults.secure import PROGRAM, Secured

__all__ = ["Board", "check_identity", "enrol_command", "provision", "refused"]

_ENROL_S = 150
_SETTINGS = '[source]\npath = "/nowhere/rows.csv"\n[privacy]\nepsilon = 1.0\n'
_FILES = {
    "boot.toml",
    "etc/device.toml",
    "state/enrolment.lock",
    *(
        f"state/identity/{name}"
        for name in ("ca.pem", "certificate.pem", "key.pem", "minimum-time", "root.json", "token")
    ),
}


def provision(text: str, secured: Secured, *, port: int, enrol_port: int) -> str:
    """Return a provisioning file for somebody who reaches the broker at other ports."""
    return text.replace(f"\nport = {secured.fleet.port}\n", f"\nport = {port}\n").replace(
        f"\nenrol_port = {secured.fleet.enrol_port}\n", f"\nenrol_port = {enrol_port}\n"
    )


def enrol_command(source: Path, state: Path, config: Path) -> list[str]:
    """Return what a board runs at its first boot."""
    return [
        *(*PROGRAM, "device", "enrol", "--from", str(source)),
        *("--state", str(state), "--config", str(config), "--timeout", str(_ENROL_S)),
    ]


def check_identity(secured: Secured, device: str, identity: Path) -> None:
    """Check that an identity is whole, the only one in force, and nobody else's to read.

    Raises
    ------
    FleetError
    """
    certificate = x509.load_pem_x509_certificate((identity / "certificate.pem").read_bytes())
    key = load_pem_private_key((identity / "key.pem").read_bytes(), password=None)
    mode = (identity / "key.pem").stat().st_mode & 0o777
    valid = secured.valid(device)
    if key.public_key() != certificate.public_key() or mode != 0o600:
        raise FleetError(f"{identity}: key and certificate differ, or the key has mode {mode:o}")
    if valid != [f"{certificate.serial_number:x}"]:
        raise FleetError(f"{device} has {certificate.serial_number:x}, in force are {valid}")


def refused(port: int, tls: TlsFiles, *, patience_s: float = 60.0) -> bool:
    """Connect with somebody's certificate; whether the broker lets it in or refuses it.

    Raises
    ------
    FleetError
        Neither in time.
    """
    ends = time.monotonic() + patience_s
    with Link(host="127.0.0.1", port=port, client_id="x", tls=tls, retry_max_s=0.5) as link:
        while not link.connected.is_set() and "refuses this client" not in link.problem:
            if time.monotonic() > ends:
                raise FleetError(f"neither let in nor refused at port {port}: {link.problem}")
            time.sleep(0.01)
        return not link.connected.is_set()


class Board:
    """A board of its own, which is known to nobody before.

    Parameters
    ----------
    fleet : Fleet
        A secure one.
    number : int
        Of the boards of this fleet.
    """

    def __init__(self, fleet: Fleet, number: int) -> None:
        assert fleet.secured is not None
        self._secured, self.device = fleet.secured, f"board-{number}"
        folder = fleet.folder / self.device
        root = folder / "disk" / "state"
        self._source, self._state = root / "boot.toml", root / "state"
        self._config = root / "etc" / "device.toml"
        self.node = Node(
            name=self.device,
            command=enrol_command(self._source, self._state, self._config),
            folder=folder,
            shim=fleet.shim,
            wire=fleet.network.wire(self.device, port=self._secured.fleet.enrol_port),
            disk_bytes=0,
        )
        settings = folder / "settings.toml"
        settings.write_text(_SETTINGS)
        self._text = provision(
            self._secured.token(self.device, settings=settings),
            self._secured,
            port=self._secured.port,
            enrol_port=self.node.wire.port,
        )
        self._source.write_text(self._text)

    def stages(self) -> list[Callable[[], bool]]:
        """Return how far it may have come, one after the other."""
        return [
            (self._state / "identity.new").exists,
            (self._state / "identity.new" / "key.pem").exists,
            lambda: self.node.wire.connections > 0,
            lambda: bool(self._secured.valid(self.device)),
            (self._state / "identity").exists,
            self._config.exists,
        ]

    def finish(self) -> None:
        """Let the command end, or repeat it where it was killed; once more, and check the rest.

        Raises
        ------
        FleetError
        """
        for begun in (self.node.process, None):
            process = begun or self.node.also(self.node.command)
            if process.wait(_ENROL_S) != 0:
                words = self.node.log.read_text(errors="replace")[-2000:]
                raise FleetError(f"{self.device} does not enrol ({process.returncode}): {words}")
        if "was enrolled already" not in self.node.last_words():
            raise FleetError(f"{self.device} enrols twice: {self.node.last_words()}")
        self.node.check_words()
        check_identity(self._secured, self.device, self._state / "identity")
        root = self.node.state
        found = {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}
        if found != _FILES:
            raise FleetError(f"{self.device} has other files than it should: {found ^ _FILES}")
        secret = tomllib.loads(self._text)["token"]["secret"]
        if secret in self._source.read_text():
            raise FleetError(f"the token of {self.device} was not wiped")
        self._check_thief()
        if refused(self._secured.port, IdentityDir(self._state).tls):
            raise FleetError(f"{self.device} is enrolled and not let in")
        self.node.close()

    def _check_thief(self) -> None:
        thief = self.node.folder / "thief"
        thief.mkdir()
        (thief / "boot.toml").write_text(self._text)
        try:
            enrol(
                source=thief / "boot.toml",
                state_dir=thief / "state",
                config=thief / "device.toml",
                timeout_s=_ENROL_S,
            )
        except EnrolmentError as error:
            if "was used before" not in str(error):
                raise
        else:
            raise FleetError(f"the token of {self.device} was used twice")
