"""The network in the test's hands, inside TLS: it sees, repeats and makes up, and notes."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.fleet.broker import find_broker
from tests.faults.proxy import Keys, Network, Publication, Wire
from tests.identity.site import ROOT, Party, Site, make_identity, wait_for

_UP, _DOWN = f"{ROOT}/up/d/state", f"{ROOT}/down/d/ack"


class Tapped:
    """A fleet's broker, and the wire of one device to it."""

    def __init__(self, folder: Path) -> None:
        self.site = Site(folder / "fleet")
        self.tls = self.site.identity("d")
        self.seen: list[Publication] = []
        self.network = Network(
            broker_port=self.site.fleet.port,
            on_publication=self.seen.append,
            rng=random.Random(1),
        )
        self.wire: Wire = self.network.wire(
            "d", keys=Keys(self.site.fleet.access.directory, self.tls)
        )

    def device(self) -> Party:
        party = Party(self.wire.port, self.tls, [_DOWN])
        self.site.parties.append(party)
        return party

    def close(self) -> None:
        self.site.close()
        self.network.close()


@pytest.fixture
def tapped(tmp_path: Path) -> Iterator[Tapped]:
    if find_broker("mosquitto") is None:
        (pytest.fail if "CI" in os.environ else pytest.skip)("mosquitto is not installed")
    made = Tapped(tmp_path)
    yield made
    made.close()


def test_it_sees_repeats_and_makes_up_what_goes_through_tls(tapped: Tapped) -> None:
    aggregator, device = tapped.site.aggregator(), tapped.device().ready()
    device.send(_UP, b"once")
    aggregator.wait_got(_UP, b"once")
    assert tapped.seen[0] == Publication("d", _UP, b"once")
    tapped.wire.twice = 1.0
    device.send(_UP, b"twice")
    wait_for(lambda: aggregator.got.count((_UP, b"twice")) > tapped.seen.count(tapped.seen[-1]))
    tapped.wire.say(_DOWN, b"x" * 300)
    device.wait_got(_DOWN, b"x" * 300)
    # A cut in the middle of a record; the device comes back.
    tapped.wire.heal()
    tapped.wire.cut(torn=True)
    device.try_to_send(_UP, b"cut off")
    wait_for(lambda: device.connects > 1)
    device.send(_UP, b"back")
    aggregator.wait_got(_UP, b"back")
    assert tapped.network.in_the_clear == []


def test_what_is_plain_is_noted_and_does_not_arrive(tapped: Tapped) -> None:
    with socket.create_connection(("127.0.0.1", tapped.wire.port), timeout=20) as plain:
        plain.sendall(b"\x10\x14\x00\x04MQTT\x04\x02\x00\x3c\x00\x08er-probe")
        with contextlib.suppress(ConnectionResetError):
            assert plain.recv(4) != b"\x20\x02\x00\x00"
    assert len(tapped.network.in_the_clear) == 1
    assert tapped.seen == []


def test_nobody_gets_further_than_mosquitto_lets_the_certificate(tapped: Tapped) -> None:
    device = tapped.device().ready()
    tapped.site.revoke("d")
    tapped.wire.cut(torn=False)
    wait_for(lambda: "refuses this client" in device.link.problem)
    # Another certificate in its files is of no use to who shows the old one.
    stolen, _ = make_identity(tapped.site.authority, tapped.site.directory / "stolen", "d")
    thief = Party(tapped.wire.port, stolen)
    tapped.site.parties.append(thief)
    wait_for(lambda: "refuses this client" in thief.link.problem)
    assert not thief.connects
