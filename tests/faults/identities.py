"""Faults that only secure fleets have: enrolment cut off, devices revoked, keys replaced."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from edge_runtime.device.identity import IdentityDir
from edge_runtime.errors import FleetError
from edge_runtime.messages.seal import decode_sealed
from tests.faults.board import Board, check_identity, enrol_command, provision, refused
from tests.faults.fleet import DEVICES, Fleet
from tests.faults.node import Node
from tests.faults.power import cut_power
from tests.faults.secure import Secured

__all__ = ["SECURE_KINDS", "begin_secure", "parts"]

#: how often a kind is drawn beside the others, and whom it can befall
SECURE_KINDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "enrolment, board killed": (3, ("board",)),
    "enrolment, board's power cut": (4, ("board",)),
    "enrolment, board cut off": (3, ("board",)),
    "enrolment, broker killed": (3, ("broker",)),
    "enrolment, service killed": (3, ("service",)),
    "revoked, aggregator down": (3, DEVICES),
    "revoked, broker down": (3, DEVICES),
    "new key, aggregator down": (3, DEVICES),
    "new key, broker down": (3, DEVICES),
    "new key, nobody down": (3, DEVICES),
    "new key, power cut": (3, DEVICES),
    "aggregator's new key, half copied": (6, ("aggregator",)),
}
_PATIENCE_S = 240.0
#: until a board is struck, however far it has come; the other faults of the schedule wait
_STAGE_S = 3.0


def parts(kind: str, target: str) -> set[tuple[str, bool]]:
    """Return what a fault lays its hands on: whom, and whether on the network."""
    down = kind.rpartition(", ")[2].removesuffix(" down")
    return {(target, False), (target, True), (down, False)}


def begin_secure(kind: str, target: str, fleet: Fleet, rng: random.Random) -> Callable[[], None]:
    """Make it; the function returned ends it, and what follows is among `fleet.afterwards`."""
    assert fleet.secured is not None
    what, _, how = kind.partition(", ")
    match what:
        case "enrolment":
            return _enrolment(fleet, fleet.secured, how, rng)
        case "aggregator's new key":
            return _half_copied(fleet, fleet.secured, rng)
        case "revoked":
            return _revoked(fleet, fleet.secured, fleet.nodes[target], how)
    if how == "power cut":
        return _new_key_cut_off(fleet, fleet.secured, fleet.nodes[target], rng)
    return _new_key(fleet, fleet.secured, fleet.nodes[target], how)


def _enrolment(fleet: Fleet, secured: Secured, how: str, rng: random.Random) -> Callable[[], None]:
    board = Board(fleet, len([*fleet.folder.glob("board-*")]))
    fleet.afterwards.append(board.finish)
    board.node.start()
    assert board.node.process is not None
    _let_come(board.node.process, board.stages(), rng)
    match how:
        case "board killed":
            board.node.kill()
        case "board's power cut":
            board.node.kill()
            cut_power(root=board.node.state, journal=board.node.journal, rng=rng)
        case "board cut off":
            board.node.wire.refuse = True
            board.node.wire.cut(torn=rng.random() < 0.5)
            return board.node.wire.heal
        case "broker killed":
            fleet.kill_broker()
            return fleet.broker.restart
        case "service killed":
            secured.kill_service()
            return secured.start_service
    return lambda: None


def _revoked(fleet: Fleet, secured: Secured, node: Node, down: str) -> Callable[[], None]:
    """Shut a device out; afterwards the others go on without it, until it is let in again."""
    stolen = IdentityDir(fleet.folder / "stolen")
    shutil.rmtree(stolen.path, ignore_errors=True)
    shutil.copytree(node.state / "identity", stolen.path)
    up = _take_down(fleet, down)
    secured.shut_out(node.name)

    def finish() -> None:
        if not refused(secured.port, stolen.tls):
            raise FleetError(f"{node.name} is revoked and let in")
        _replay(fleet, node)
        before, status = _messages(fleet, node), fleet.status
        assert status is not None
        fleet.wait(
            "a round of the others ends",
            lambda: (
                fleet.status is not None
                and (fleet.status.phase == "done" or fleet.status.round > status.round)
            ),
            patience_s=_PATIENCE_S,
        )
        if _messages(fleet, node) != before:
            raise FleetError(f"{node.name} is revoked, and its messages were taken")
        _let_in(fleet, secured, node, node.also(_enrolment_of(secured, node)))

    fleet.afterwards.append(finish)
    return up


def _new_key(fleet: Fleet, secured: Secured, node: Node, down: str) -> Callable[[], None]:
    """Revoke a device and enrol it again at once, while its agent runs on."""
    up = _take_down(fleet, down)
    secured.shut_out(node.name)
    enrolling = node.also(_enrolment_of(secured, node))
    fleet.afterwards.append(lambda: _let_in(fleet, secured, node, enrolling))
    return up


def _new_key_cut_off(
    fleet: Fleet, secured: Secured, node: Node, rng: random.Random
) -> Callable[[], None]:
    """Do the same, and cut the device's power on the way; its next boot enrols it first."""
    secured.shut_out(node.name)
    command, new, old = (
        _enrolment_of(secured, node),
        *(node.state / f"identity.{name}" for name in ("new", "old")),
    )
    enrolling = node.also(command)
    stages: list[Callable[[], bool]] = [
        new.exists,
        (new / "minimum-time").exists,
        (new / "certificate.pem").exists,
        old.exists,
        lambda: enrolling.poll() is not None,
    ]
    _let_come(enrolling, stages, rng)
    node.hold()
    enrolling.kill()
    enrolling.wait()
    cut_power(root=node.state, journal=node.journal, rng=rng)

    def finish() -> None:
        again = node.also(command)
        again.wait(_PATIENCE_S)
        node.let_go()
        _let_in(fleet, secured, node, again)

    fleet.afterwards.append(finish)
    return lambda: None


def _let_come(
    process: subprocess.Popen[bytes], stages: list[Callable[[], bool]], rng: random.Random
) -> None:
    """Let an enrolment come as far as the seed says, and a moment further."""
    reached, ends = rng.choice(stages), time.monotonic() + _STAGE_S
    while process.poll() is None and not reached() and time.monotonic() < ends:
        time.sleep(0.001)
    time.sleep(rng.choice([0.0, rng.uniform(0.0, 0.05)]))


def _half_copied(fleet: Fleet, secured: Secured, rng: random.Random) -> Callable[[], None]:
    """Give the aggregator a new key that arrives in part, while it runs or before it starts."""
    node, running = fleet.aggregator, rng.random() < 0.5
    if not running:
        _take_down(fleet, "aggregator down")
    said = len(node.log.read_text())
    secured.fleet.rotate("aggregator")
    secured.fleet.access.reload()
    names = ["ca.pem", "certificate.pem", "key.pem", "crl.pem"][: rng.randint(1, 4)]
    size = (secured.fleet.path / "aggregator" / names[-1]).stat().st_size
    # A file that lacks its last line only may be whole to who reads it.
    secured.copy_to_machine(*names, torn_at=rng.randrange(1, size - 40))

    def end() -> None:
        if running:
            fleet.wait(
                "the aggregator goes on with the files from before",
                lambda: "from before stays in" in node.log.read_text()[said:],
                patience_s=_PATIENCE_S,
            )
        else:
            node.start()
            assert node.process is not None
            code = node.process.wait(_PATIENCE_S)
            if code != 2 or str(secured.machine) not in node.last_words():
                raise FleetError(f"the aggregator, {names} in part: {code}, {node.last_words()}")
            node.check_words()
        secured.copy_to_machine()
        if not running:
            node.let_go()

    return end


def _take_down(fleet: Fleet, what: str) -> Callable[[], None]:
    if what == "nobody down":
        return lambda: None
    if what == "broker down":
        fleet.kill_broker()
        return fleet.broker.restart
    fleet.aggregator.hold()
    fleet.status = None  # the next one is of the next process
    return fleet.aggregator.let_go


def _replay(fleet: Fleet, node: Node) -> None:
    """Have the broker deliver what a revoked device had sent: it is dropped."""
    fleet.wait("the aggregator is back", lambda: fleet.status is not None, patience_s=_PATIENCE_S)
    assert fleet.status is not None
    before, seen, said_s = fleet.status.unauthentic, fleet.sealed[node.name], 0.0

    def dropped() -> bool:
        nonlocal said_s
        if time.monotonic() - said_s > 1.0:
            said_s = time.monotonic()
            fleet.aggregator.wire.say(seen.topic, seen.payload)
        return fleet.status is not None and fleet.status.unauthentic > before

    fleet.wait(f"what {node.name} has sent is dropped", dropped, patience_s=_PATIENCE_S)


def _enrolment_of(secured: Secured, node: Node) -> list[str]:
    """Give a device of the fleet a new token, and return the command to enrol with it."""
    source = node.folder / "boot.toml"
    source.write_text(
        provision(
            secured.token(node.name),
            secured,
            port=node.wire.port,
            enrol_port=secured.fleet.enrol_port,
        )
    )
    return enrol_command(source, node.state, node.config)


def _let_in(fleet: Fleet, secured: Secured, node: Node, enrolling: subprocess.Popen[bytes]) -> None:
    """Wait until a device has its new identity and speaks with it."""
    fleet.wait("enrolled", lambda: enrolling.poll() is not None, patience_s=_PATIENCE_S)
    if enrolling.returncode != 0:
        raise FleetError(f"{node.name} does not enrol: {node.log.read_text()[-1000:]}")
    check_identity(secured, node.name, node.state / "identity")
    pem = (node.state / "identity" / "certificate.pem").read_bytes()
    own = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    fleet.wait(
        f"{node.name} speaks with its new key",
        lambda: decode_sealed(fleet.sealed[node.name].payload).certificate == own,
        patience_s=_PATIENCE_S,
    )


def _messages(fleet: Fleet, node: Node) -> set[str]:
    path = fleet.aggregator.state / "catalogue.sqlite"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30.0)) as connection:
        rows = connection.execute("SELECT sha256 FROM messages WHERE device = ?", (node.name,))
        return {row[0] for row in rows}
