"""A fleet with a real Mosquitto, and parties that speak to it as devices would, or should not."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

from edge_runtime.fleet.authority import Authority, new_key, pem
from edge_runtime.fleet.broker import find_broker, free_port
from edge_runtime.fleet.fleet_dir import FleetDir, init_fleet
from edge_runtime.messages import Link, TlsFiles

FLEET = "clinics"
ROOT = f"er/v1/{FLEET}"


def wait_for(condition: Callable[[], object], what: str = "", timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what or condition}"
        time.sleep(0.005)


def make_identity(
    authority: Authority, folder: Path, name: str, *, lifetime: timedelta = timedelta(days=1)
) -> tuple[TlsFiles, int]:
    """Return files and serial number of a fresh client certificate."""
    folder.mkdir(parents=True, exist_ok=True)
    tls = TlsFiles(
        ca=folder / "ca.pem", certificate=folder / "certificate.pem", key=folder / "key.pem"
    )
    assert tls.certificate is not None
    certificate = authority.issue_client(
        new_key(folder / "key.pem").public_key(), name, lifetime=lifetime
    )
    tls.certificate.write_bytes(pem(certificate))
    tls.ca.write_bytes(pem(authority.certificate))
    return tls, certificate.serial_number


class Party:
    """A client of the broker that notes what it is sent."""

    def __init__(
        self, port: int, tls: TlsFiles, topics: Sequence[str] = (), *, client_id: str = "x",
        **options: object,
    ) -> None:  # fmt: skip
        self.got: list[tuple[str, bytes]] = []
        self.connects = 0
        self.link = Link(
            host="127.0.0.1", port=port, client_id=client_id, topics=topics, tls=tls,
            on_message=lambda topic, payload, _: self.got.append((topic, payload)),
            on_connect=self._note, retry_min_s=0.05, retry_max_s=0.1, **options,  # type: ignore[arg-type]
        ).start()  # fmt: skip

    def _note(self) -> None:
        self.connects += 1

    def ready(self) -> Party:
        self.link.wait_connected(60)
        return self

    def send(self, topic: str, payload: bytes = b"x") -> None:
        """Publish what must arrive: again after each reconnect, as a device's outbox does."""
        wait_for(lambda: self.link.publish(topic, payload).wait(2), f"sending to {topic}")

    def try_to_send(self, topic: str, payload: bytes = b"forbidden") -> None:
        """Publish what must not: a refusal drops the connection."""
        self.link.publish(topic, payload).wait(0.3)

    def wait_got(self, topic: str, payload: bytes) -> None:
        wait_for(lambda: (topic, payload) in self.got, f"{payload!r} on {topic}")


class Site:
    """The fleet's directory, and the broker as a child process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.fleet: FleetDir = self.make(directory)
        self.authority = self.fleet.authority()
        self.parties: list[Party] = []
        self.log = directory / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def make(self, directory: Path) -> FleetDir:
        return init_fleet(
            directory, name=FLEET, host="127.0.0.1", port=free_port(), enrol_port=free_port()
        )

    def start(self) -> None:
        program = find_broker("mosquitto")
        assert program is not None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [program, "-c", self.fleet.access.configuration], stdout=log, stderr=log
            )
        self.wait_listening([self.fleet.port, self.fleet.enrol_port])

    def wait_listening(self, ports: Sequence[int]) -> None:
        for port in ports:
            wait_for(lambda port=port: self._is_up() and _listens(port), f"port {port}")

    def _is_up(self) -> bool:
        # Another's broker may answer at a port that was free a moment ago.
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        return True

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)

    def kill(self) -> None:
        """End the broker at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        for party in self.parties:
            party.link.close(timeout_s=1)
        self.stop()

    def identity(
        self, name: str, folder: str = "", *, lifetime: timedelta = timedelta(days=1)
    ) -> TlsFiles:
        """Give a device a certificate that the register knows."""
        tls, serial = make_identity(
            self.authority, self.directory / "parties" / (folder or name), name, lifetime=lifetime
        )
        with self.fleet.register() as register:
            register.add_certificate(
                serial=serial, name=name, service=False, issued_s=0, expires_s=2**40
            )
        return tls

    def revoke(self, name: str) -> None:
        with self.fleet.register() as register:
            assert register.revoke(name)
            self.fleet.write_revocations(register, self.authority)
            self.fleet.write_access(register)
        assert self.fleet.access.reload()

    def party(self, tls: TlsFiles, topics: Sequence[str] = (), **options: object) -> Party:
        made = Party(self.fleet.port, tls, topics, **options)  # type: ignore[arg-type]
        self.parties.append(made)
        return made

    def device(self, name: str, topics: Sequence[str] | None = None) -> Party:
        """Connect a device that listens to all that is meant for it."""
        mine = [f"{ROOT}/down/{name}/#", f"{ROOT}/down/all/#"]
        return self.party(self.identity(name), mine if topics is None else topics).ready()

    def aggregator(self) -> Party:
        return self.party(self.fleet.service_tls("aggregator"), [f"{ROOT}/up/#"]).ready()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


__all__ = ["FLEET", "ROOT", "Party", "Site", "make_identity", "wait_for"]
