"""A fleet as `edge-runtime fleet init` makes it: mutual TLS, own topics, seals, signed updates.

The authority, the broker's and the aggregator's directories and the enrolment service are real;
devices have identities as a board has them that enrolled.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from edge_runtime.device.identity import IdentityDir
from edge_runtime.device.keys import certificate_request, load_or_make_key
from edge_runtime.errors import FleetError
from edge_runtime.fleet.issuing import Issuer
from edge_runtime.fleet.tokens import make_provision
from edge_runtime.messages import TlsFiles, new_id
from tests.faults.proxy import Keys
from tests.identity.site import Site

__all__ = ["PROGRAM", "Secured", "tls_sections"]

#: what runs `edge-runtime`
PROGRAM = ("-c", "import sys; from edge_runtime.cli import main; sys.exit(main())")
#: what the aggregator's machine is given, in the order in which it is copied
_COPIED = ("ca.pem", "certificate.pem", "key.pem", "crl.pem")


class Secured(Site):
    """The parts of a secure fleet that its operator has: directory, broker, enrolment service.

    Parameters
    ----------
    directory : Path
        New.
    machine : Path
        New; the copy of ``aggregator/`` that the aggregator works with, as on another machine.
    """

    def __init__(self, directory: Path, *, machine: Path) -> None:
        super().__init__(directory)
        shutil.copytree(self.fleet.path / "aggregator", machine)
        self.machine = machine
        # What a device has in its configuration stays when it enrols again.
        self.no_settings = directory / "no-settings.toml"
        self.no_settings.touch()
        self.service_log = directory / "serve.log"
        self._service: subprocess.Popen[bytes] | None = None
        self.start_service()

    @property
    def port(self) -> int:
        """The broker's, for certificates."""
        return self.fleet.port

    @property
    def data(self) -> Path:
        """Where the broker keeps what it keeps."""
        return self.fleet.access.directory / "data"

    def restart(self) -> None:
        """Start the broker again."""
        self.stop()
        self.start()

    def start_service(self) -> None:
        """Have boards with a token answered."""
        with self.service_log.open("ab") as log:
            self._service = subprocess.Popen(
                [sys.executable, *PROGRAM, "fleet", "serve", str(self.directory)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill_service(self) -> None:
        """End it at once."""
        if self._service is not None:
            self._service.kill()
            self._service.wait()
            self._service = None

    def check_service(self) -> None:
        """Make sure that it has not ended by itself.

        Raises
        ------
        FleetError
        """
        if self._service is not None and self._service.poll() is not None:
            raise FleetError(f"the enrolment service ended: {self.service_log.read_text()[-2000:]}")

    def check_words(self) -> None:
        """Make sure that the service has met nothing that it did not expect.

        Raises
        ------
        FleetError
        """
        text = self.service_log.read_text()
        if "Traceback" in text:
            raise FleetError(f"the enrolment service fails without a clear state: {text[-2000:]}")

    def keys(self, name: str, state: Path) -> Keys:
        """Return what a secure wire to a device or the aggregator needs."""
        tls = self.machine_tls() if name == "aggregator" else IdentityDir(state).tls
        return Keys(self.fleet.access.directory, tls)

    def machine_tls(self) -> TlsFiles:
        """Return the aggregator's files, as on its machine."""
        return TlsFiles(
            ca=self.machine / "ca.pem",
            certificate=self.machine / "certificate.pem",
            key=self.machine / "key.pem",
        )

    def equip(self, device: str, state: Path) -> None:
        """Give a device an identity."""
        identity = IdentityDir(state)
        identity.prepare(token=new_id(), ca=self.fleet.ca, root=self.fleet.newest_root())
        request = certificate_request(load_or_make_key(identity.new_key), device)
        with self.fleet.register() as register:
            issuer = Issuer(fleet=self.fleet, authority=self.authority, register=register)
            certificate = issuer.issue(device, request)
        identity.complete(certificate=certificate, minimum_time_unix_s=0)
        identity.put_in_force()

    def token(self, device: str, *, settings: Path | None = None) -> str:
        """Make a token and return the provisioning file's text, as the verb does."""
        with self.fleet.register() as register:
            text = make_provision(
                self.fleet, register, device=device, settings=settings or self.no_settings
            )
            self.fleet.write_access(register)
        self.fleet.access.reload()
        return text

    def shut_out(self, device: str) -> None:
        """Revoke a device as the verb does, whether the broker runs or not."""
        with self.fleet.register() as register:
            register.revoke(device)
            self.fleet.write_revocations(register, self.authority)
            self.fleet.write_access(register)
        self.fleet.access.reload()
        self.copy_to_machine("crl.pem")

    def copy_to_machine(self, *names: str, torn_at: int = 0) -> None:
        """Copy files of the aggregator to its machine; the last one only as far as `torn_at`.

        In place, as `scp` does. Without names: all that a rotation changes.
        """
        wanted = names or _COPIED
        for name in wanted:
            data = (self.fleet.path / "aggregator" / name).read_bytes()
            cut = torn_at if name == wanted[-1] else 0
            with (self.machine / name).open("r+b") as file:
                file.write(data[:cut] if cut else data)
                file.truncate()
                os.fsync(file.fileno())

    def valid(self, device: str) -> list[str]:
        """Return the serial numbers of a device's certificates that are in force."""
        with self.fleet.register() as register:
            return [e.serial for e in register.certificates(device) if e.state == "valid"]

    def close(self) -> None:
        """End service and broker."""
        self.kill_service()
        self.kill()


def tls_sections(tls: TlsFiles, *, more: str, updates: str) -> str:
    """Return the sections of a configuration file that name a side's keys."""
    return f"""
[broker.tls]
ca = "{tls.ca}"
certificate = "{tls.certificate}"
key = "{tls.key}"
{more}
[updates]
{updates}
"""
