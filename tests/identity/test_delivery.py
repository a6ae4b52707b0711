"""What the broker lets whom do, seen by what arrives: what it says to them proves nothing."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from edge_runtime.fleet.authority import Authority
from edge_runtime.messages import TlsFiles
from edge_runtime.messages.enrolment import broker_password
from tests.identity.site import ROOT, Party, Site, make_identity, wait_for


def test_devices_and_the_aggregator_reach_each_other(site: Site) -> None:
    aggregator, a, b = site.aggregator(), site.device("a"), site.device("b")
    a.send(f"{ROOT}/up/a/batch", b"from a")
    aggregator.wait_got(f"{ROOT}/up/a/batch", b"from a")
    aggregator.send(f"{ROOT}/down/a/ack", b"for a")
    for_all = [(f"{ROOT}/down/all/{kind}", b"for all") for kind in ("plan", "revoked")]
    for topic, payload in for_all:
        aggregator.send(topic, payload)
    a.wait_got(f"{ROOT}/down/a/ack", b"for a")
    for device in (a, b):
        for topic, payload in for_all:
            device.wait_got(topic, payload)
    assert b.got == for_all


def test_a_device_writes_below_its_own_name_only(site: Site) -> None:
    aggregator, victim = site.aggregator(), site.device("victim")
    enrolment = site.party(site.fleet.service_tls("enrolment"), [f"{ROOT}/enrol/+/request"]).ready()
    rogue = site.device("rogue")
    forbidden = [
        f"{ROOT}/up/victim/state",
        f"{ROOT}/up/rogue-2/batch",
        f"{ROOT}/up",
        f"{ROOT}/down/victim/ack",
        f"{ROOT}/down/rogue/ack",
        f"{ROOT}/down/all/plan",
        f"{ROOT}/down/all/revoked",
        f"{ROOT}/enrol/{32 * 'a'}/request",
        "er/v1/another/up/rogue/batch",
    ]
    for count, topic in enumerate(forbidden, start=1):
        rogue.try_to_send(topic)
        # Denied means disconnected; what follows goes over a new connection.
        wait_for(lambda count=count: rogue.connects > count, f"a refusal of {topic}")
    rogue.send(f"{ROOT}/up/rogue/batch", b"allowed")
    aggregator.wait_got(f"{ROOT}/up/rogue/batch", b"allowed")
    aggregator.send(f"{ROOT}/down/all/status", b"after it")
    victim.wait_got(f"{ROOT}/down/all/status", b"after it")
    assert not [
        p for party in (aggregator, victim, enrolment) for _, p in party.got if p == b"forbidden"
    ]
    assert enrolment.got == []


def test_a_device_reads_what_is_meant_for_it_only(site: Site) -> None:
    everything = ["#", f"{ROOT}/#", f"{ROOT}/up/#", f"{ROOT}/down/+/ack", f"{ROOT}/down/victim/#",
                  f"{ROOT}/up/victim/batch", "$SYS/#", f"{ROOT}/enrol/#"]  # fmt: skip
    curious = site.device("curious", everything)
    aggregator, victim = site.aggregator(), site.device("victim")
    victim.send(f"{ROOT}/up/victim/batch", b"secret")
    aggregator.wait_got(f"{ROOT}/up/victim/batch", b"secret")
    aggregator.send(f"{ROOT}/down/victim/ack", b"secret")
    victim.wait_got(f"{ROOT}/down/victim/ack", b"secret")
    aggregator.send(f"{ROOT}/down/curious/ack", b"own")
    curious.wait_got(f"{ROOT}/down/curious/ack", b"own")
    assert {topic for topic, _ in curious.got} == {f"{ROOT}/down/curious/ack"}


def test_nobody_takes_the_client_id_of_a_device(site: Site) -> None:
    aggregator, victim = site.aggregator(), site.device("victim")
    thief = site.party(site.identity("thief"), client_id="victim").ready()
    # Over the door for new devices as well: a token that claims to be the device.
    token, secret = 32 * "a", b"s" * 32
    site.fleet.access.write_tokens({token: secret})
    assert site.fleet.access.reload()
    guest = Party(
        site.fleet.enrol_port, TlsFiles(ca=site.fleet.path / "ca.pem"), client_id="victim",
        username=token, password=broker_password(secret),
    )  # fmt: skip
    site.parties.append(guest)
    guest.ready()
    thief.send(f"{ROOT}/up/thief/state", b"here")
    aggregator.send(f"{ROOT}/down/victim/ack", b"still there")
    victim.wait_got(f"{ROOT}/down/victim/ack", b"still there")
    assert victim.connects == 1
    assert thief.got == []
    # The same certificate twice is the same client: the last one stays.
    second = site.party(victim.link._tls)  # type: ignore[arg-type]
    wait_for(lambda: victim.connects > 1 or second.connects > 1, "one throwing the other off")


def test_a_stranger_is_refused_and_told_why(site: Site, tmp_path: Path) -> None:
    foreign = Authority.create(
        fleet="clinics", certificate_path=tmp_path / "ca.pem", key_path=tmp_path / "ca.key"
    )
    tls, _ = make_identity(foreign, tmp_path / "foreign", "a")
    tls.ca.write_text(site.fleet.ca)
    broker = site.fleet.access.directory
    site.identity("gone", "gone")
    gone = site.party(site.identity("gone", "gone"))
    gone.ready()
    site.revoke("gone")
    cases = {
        "foreign": (tls, "not issued by the broker's fleet"),
        "expired": (site.identity("old", lifetime=timedelta(seconds=-60)), "expired"),
        "missing": (TlsFiles(ca=site.fleet.path / "ca.pem"), "asks for a certificate"),
        "revoked": (TlsFiles(**_files(site.directory / "parties" / "gone")), "was revoked"),
        "a server's": (
            TlsFiles(
                ca=broker / "ca.pem", certificate=broker / "server.pem", key=broker / "server.key"
            ),
            "not one for a client",
        ),
    }
    observer = site.aggregator()
    for name, (files, words) in cases.items():
        party = site.party(files)
        wait_for(lambda party=party, words=words: words in party.link.problem, f"{name}: {words}")
        party.try_to_send(f"{ROOT}/up/gone/batch")
        assert party.connects == 0, name
    site.device("b").send(f"{ROOT}/up/b/batch", b"marker")
    observer.wait_got(f"{ROOT}/up/b/batch", b"marker")
    assert observer.got == [(f"{ROOT}/up/b/batch", b"marker")]


def test_a_revocation_holds_for_a_connection_that_is_open(site: Site) -> None:
    aggregator, device = site.aggregator(), site.device("a")
    device.send(f"{ROOT}/up/a/batch", b"before")
    aggregator.wait_got(f"{ROOT}/up/a/batch", b"before")
    site.revoke("a")
    other = site.device("b")
    aggregator.send(f"{ROOT}/down/all/plan", b"after")
    other.wait_got(f"{ROOT}/down/all/plan", b"after")
    device.try_to_send(f"{ROOT}/up/a/batch")
    wait_for(lambda: "was revoked" in device.link.problem, "the end of the connection")
    other.send(f"{ROOT}/up/b/batch", b"marker")
    aggregator.wait_got(f"{ROOT}/up/b/batch", b"marker")
    assert device.got == []
    assert [payload for _, payload in aggregator.got] == [b"before", b"marker"]


def test_one_revocation_after_another_counts_at_once(site: Site) -> None:
    # OpenSSL keeps the older of two lists of one second.
    parties = [site.device(name) for name in ("a", "b", "c")]
    for name, party in zip("abc", parties, strict=True):
        site.revoke(name)
        send_until_out(party, f"{ROOT}/up/{name}/batch")


def test_a_link_takes_up_a_certificate_that_was_replaced(site: Site) -> None:
    device = site.device("a")
    site.revoke("a")
    send_until_out(device, f"{ROOT}/up/a/batch")
    site.identity("a")  # into the same files
    with site.fleet.register() as register:
        site.fleet.write_access(register)
    assert site.fleet.access.reload()
    wait_for(device.link.connected.is_set, "being back")
    aggregator = site.aggregator()
    device.send(f"{ROOT}/up/a/batch", b"back")
    aggregator.wait_got(f"{ROOT}/up/a/batch", b"back")


def test_a_device_that_was_opened_cannot_play_the_broker(site: Site) -> None:
    broker = site.fleet.access.directory
    tls = site.identity("rogue")
    assert tls.certificate is not None
    assert tls.key is not None
    site.stop()
    (broker / "server.pem").write_bytes(tls.certificate.read_bytes())
    (broker / "server.key").write_bytes(tls.key.read_bytes())
    site.start()
    device = site.party(site.identity("a"))
    wait_for(lambda: "is not trusted" in device.link.problem, "distrust")
    assert device.connects == 0


@pytest.mark.parametrize("password", ["", "wrong"])
def test_the_door_for_new_devices_asks_for_a_token(site: Site, password: str) -> None:
    token = 32 * "a"
    site.fleet.access.write_tokens({token: b"s" * 32})
    assert site.fleet.access.reload()
    options = {"username": token, "password": password} if password else {}
    stranger = Party(
        site.fleet.enrol_port, TlsFiles(ca=site.fleet.path / "ca.pem"), client_id=token, **options
    )
    site.parties.append(stranger)
    wait_for(lambda: "refuses client" in stranger.link.problem, "a refusal")
    assert stranger.connects == 0


def test_a_token_asks_for_itself_and_does_nothing_else(site: Site) -> None:
    tokens = {letter * 32: letter.encode() * 32 for letter in "abc"}
    site.fleet.access.write_tokens(tokens)
    assert site.fleet.access.reload()

    def guest(letter: str, topics: list[str]) -> Party:
        made = Party(
            site.fleet.enrol_port, TlsFiles(ca=site.fleet.path / "ca.pem"), topics,
            username=letter * 32, password=broker_password(tokens[letter * 32]),
        )  # fmt: skip
        site.parties.append(made)
        return made.ready()

    mine = f"{ROOT}/enrol/{'a' * 32}"
    a = guest("a", [f"{mine}/reply"])
    curious = guest("b", ["#", f"{ROOT}/enrol/#", f"{mine}/reply", f"{mine}/request",
                          f"{ROOT}/down/all/#", f"{ROOT}/enrol/{'b' * 32}/reply"])  # fmt: skip
    service = site.party(site.fleet.service_tls("enrolment"), [f"{ROOT}/enrol/+/request"]).ready()
    aggregator = site.aggregator()
    a.send(f"{mine}/request", b"please")
    service.wait_got(f"{mine}/request", b"please")
    service.send(f"{mine}/reply", b"here you are")
    a.wait_got(f"{mine}/reply", b"here you are")
    rogue = guest("c", [])
    for topic in (
        f"{mine}/reply",
        f"{mine}/request",
        f"{ROOT}/up/x/batch",
        f"{ROOT}/down/all/plan",
    ):
        before = rogue.connects
        rogue.try_to_send(topic)
        wait_for(lambda before=before: rogue.connects > before, f"a refusal of {topic}")
    aggregator.send(f"{ROOT}/down/all/plan", b"plan")
    service.send(f"{ROOT}/enrol/{'b' * 32}/reply", b"marker")
    curious.wait_got(f"{ROOT}/enrol/{'b' * 32}/reply", b"marker")
    assert curious.got == [(f"{ROOT}/enrol/{'b' * 32}/reply", b"marker")]
    assert service.got == [(f"{mine}/request", b"please")]
    assert a.got == [(f"{mine}/reply", b"here you are")]
    assert aggregator.got == []


def send_until_out(party: Party, topic: str) -> None:
    """Send until the broker has read its files again, which drops the connection."""

    def out() -> bool:
        party.link.publish(topic, b"x").wait(0.05)
        return "was revoked" in party.link.problem

    wait_for(out, f"a refusal of {topic}")


def _files(folder: Path) -> dict[str, Path]:
    return {
        "ca": folder / "ca.pem",
        "certificate": folder / "certificate.pem",
        "key": folder / "key.pem",
    }
