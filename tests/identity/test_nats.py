"""The same rules at nats-server, by delivery."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from edge_runtime.cli.main import run
from edge_runtime.device.keys import certificate_request, load_or_make_key
from edge_runtime.fleet.authority import Authority
from edge_runtime.fleet.broker import find_broker
from edge_runtime.messages import TlsFiles
from tests.identity.site import ROOT, Party, Site, make_identity, wait_for


class NatsSite(Site):
    """A fleet whose broker is nats-server."""

    def start(self) -> None:
        program = find_broker("nats-server")
        assert program is not None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [program, "-c", self.fleet.access.directory / "nats.conf"], stdout=log, stderr=log
            )
        self.wait_listening([self.fleet.port])

    def admit(self) -> None:
        """Tell the broker whom the register knows."""
        with self.fleet.register() as register:
            self.fleet.write_access(register)
        assert self.fleet.access.reload()

    def member(self, name: str, topics: list[str]) -> Party:
        tls = self.identity(name)
        self.admit()
        return self.party(tls, topics, client_id=tls.client_id(name)).ready()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[NatsSite]:
    if find_broker("nats-server") is None:
        (pytest.fail if "CI" in os.environ else pytest.skip)("nats-server is not installed")
    made = NatsSite(tmp_path / "a fleet")
    yield made
    made.close()


def test_each_writes_and_reads_what_is_its_own(site: NatsSite) -> None:
    tls = site.fleet.service_tls("aggregator")
    aggregator = site.party(tls, [f"{ROOT}/up/+/state"], client_id=tls.client_id("a")).ready()
    victim = site.member("victim", [f"{ROOT}/down/victim/ack", f"{ROOT}/down/all/plan"])
    rogue = site.member(
        "rogue",
        ["#", f"{ROOT}/#", f"{ROOT}/up/+/state", f"{ROOT}/down/+/ack", f"{ROOT}/down/victim/ack",
         "+/v1/clinics/up/victim/state", "$MQTT/sub/#", f"{ROOT}/down/all/plan"],
    )  # fmt: skip
    for topic in (
        "up/victim/state",
        "down/victim/ack",
        "down/all/plan",
        "down/all/revoked",
        "up/rogue-2/state",
    ):
        wait_for(rogue.link.connected.is_set, "being let in after a refusal")
        rogue.try_to_send(f"{ROOT}/{topic}")
    rogue.send(f"{ROOT}/up/rogue/state", b"own")
    victim.send(f"{ROOT}/up/victim/state", b"secret")
    aggregator.wait_got(f"{ROOT}/up/victim/state", b"secret")
    aggregator.wait_got(f"{ROOT}/up/rogue/state", b"own")
    aggregator.send(f"{ROOT}/down/victim/ack", b"secret")
    aggregator.send(f"{ROOT}/down/all/plan", b"for all")
    victim.wait_got(f"{ROOT}/down/victim/ack", b"secret")
    victim.wait_got(f"{ROOT}/down/all/plan", b"for all")
    rogue.wait_got(f"{ROOT}/down/all/plan", b"for all")
    assert rogue.got == [(f"{ROOT}/down/all/plan", b"for all")]
    assert b"forbidden" not in [
        payload for party in (aggregator, victim) for _, payload in party.got
    ]


def test_a_stranger_and_a_revoked_device_are_refused(site: NatsSite, tmp_path: Path) -> None:
    device = site.member("a", [])
    old = tmp_path / "old"
    old.mkdir()
    folder = site.directory / "parties" / "a"
    for path in folder.iterdir():
        (old / path.name).write_bytes(path.read_bytes())
        (old / path.name).chmod(0o600)
    site.revoke("a")
    wait_for(lambda: "Not authorized" in device.link.problem, "the end of an open connection")
    site.identity("a")
    site.admit()
    wait_for(device.link.connected.is_set, "a new certificate for the same name")

    foreign = Authority.create(
        fleet="clinics", certificate_path=tmp_path / "ca.pem", key_path=tmp_path / "ca.key"
    )
    strange, _ = make_identity(foreign, tmp_path / "foreign", "a")
    strange.ca.write_text(site.fleet.ca)
    cases = {
        "revoked": TlsFiles(
            ca=old / "ca.pem", certificate=old / "certificate.pem", key=old / "key.pem"
        ),
        "foreign": strange,
        "expired": site.identity("late", lifetime=timedelta(seconds=-60)),
        "missing": TlsFiles(ca=site.fleet.path / "ca.pem"),
    }
    site.admit()
    for name, files in cases.items():
        party = site.party(files, client_id=name)
        wait_for(lambda party=party: "refuses" in party.link.problem, f"{name} being refused")
        assert party.connects == 0


def shown_certificate(site: NatsSite) -> str:
    """Return the certificate that the broker shows, as a new device of the fleet sees it."""
    context = ssl.create_default_context(cafile=str(site.fleet.path / "ca.pem"))
    address = ("127.0.0.1", site.fleet.port)
    with (
        socket.create_connection(address) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as link,
    ):
        der = link.getpeercert(binary_form=True)
    assert der is not None
    return ssl.DER_cert_to_PEM_cert(der)


def test_a_board_is_enrolled_by_its_request_and_let_in(site: NatsSite, tmp_path: Path) -> None:
    """The way for brokers without a door for tokens; by the verb, as an operator does it."""
    key = load_or_make_key(tmp_path / "key.pem")
    request = tmp_path / "ward-7.csr"
    # Whatever the request calls itself, the operator's word counts.
    request.write_text(certificate_request(key, "aggregator"))
    out = tmp_path / "certificate.pem"
    verb = ["enrol", str(site.directory), "ward-7", "--request", str(request), "--out", str(out)]
    assert run(["fleet", *verb]) == 0
    tls = TlsFiles(ca=site.fleet.path / "ca.pem", certificate=out, key=tmp_path / "key.pem")
    board = site.party(tls, [f"{ROOT}/down/ward-7/ack"], client_id=tls.client_id("w")).ready()
    services = site.fleet.service_tls("aggregator")
    aggregator = site.party(services, [f"{ROOT}/up/+/state"], client_id="aggregator-1").ready()
    board.send(f"{ROOT}/up/ward-7/state", b"enrolled")
    aggregator.wait_got(f"{ROOT}/up/ward-7/state", b"enrolled")
    aggregator.send(f"{ROOT}/down/ward-7/ack", b"heard")
    board.wait_got(f"{ROOT}/down/ward-7/ack", b"heard")

    # Rotated, the aggregator's old certificate is of no use, and its new one is.
    assert run(["fleet", "rotate", str(site.directory), "aggregator"]) == 0
    wait_for(lambda: aggregator.connects > 1, "the aggregator with its new certificate")
    board.send(f"{ROOT}/up/ward-7/state", b"rotated")
    aggregator.wait_got(f"{ROOT}/up/ward-7/state", b"rotated")
    # The broker's: shown to whoever connects from the reload on.
    before = shown_certificate(site)
    assert run(["fleet", "rotate", str(site.directory), "broker"]) == 0
    wait_for(lambda: shown_certificate(site) != before, "the broker's new certificate")
    after = (site.fleet.access.directory / "server.pem").read_text()
    assert shown_certificate(site).split() == after.split()
    # And no more once it is revoked.
    assert run(["fleet", "revoke", str(site.directory), "ward-7"]) == 0
    wait_for(lambda: "Not authorized" in board.link.problem, "the end of an open connection")
