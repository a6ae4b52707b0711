"""The issuing side of enrolment, asked directly: what gets a certificate, and what does not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509

from edge_runtime.device.keys import certificate_request, load_or_make_key
from edge_runtime.device.provisioning import load_provision
from edge_runtime.errors import (
    EnrolmentError,
    FleetError,
    MessageError,
)
from edge_runtime.fleet.issuing import Issuer, serve
from edge_runtime.fleet.tokens import make_provision
from edge_runtime.messages import new_id
from edge_runtime.messages.enrolment import (
    EnrolmentReply,
    EnrolmentRequest,
    decode_reply,
    encode_sealed,
    is_sealed,
    request_topic,
)
from tests.identity.site import Site


class Desk:
    """The issuing side alone, asked directly."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.fleet = site.fleet
        self.register = site.fleet.register()
        self.issuer = Issuer(fleet=site.fleet, authority=site.authority, register=self.register)
        self.folder = folder

    def token(self, device: str = "", *, days: float = 1.0) -> tuple[str, bytes]:
        path = self.folder / "p.toml"
        path.write_text(make_provision(self.fleet, self.register, device=device, days=days))
        token = load_provision(path).token
        return token.id, token.key

    def request(self, token: str, device: str, *, key: str = "k") -> EnrolmentRequest:
        made = load_or_make_key(self.folder / key)
        return EnrolmentRequest(
            token=token, fleet=self.fleet.name, device=device,
            request=certificate_request(made, "whatever"), nonce=new_id(),
        )  # fmt: skip

    def ask(self, request: EnrolmentRequest, secret: bytes) -> EnrolmentReply:
        answer = self.issuer.answer(
            request_topic(self.fleet.name, request.token), encode_sealed(request, secret)
        )
        reply = decode_reply(answer)
        assert is_sealed(reply, secret)
        assert reply.nonce == request.nonce
        return reply


@pytest.fixture
def desk(site: Site, tmp_path: Path) -> Iterator[Desk]:
    made = Desk(site, tmp_path)
    yield made
    made.register.close()


def test_asking_again_with_the_same_key_gives_the_same_answer(desk: Desk) -> None:
    token, secret = desk.token("a")
    first = desk.ask(desk.request(token, "a"), secret)
    second = desk.ask(desk.request(token, "a"), secret)
    assert first.status == second.status == "issued"
    assert first.certificate == second.certificate
    assert len(desk.register.certificates("a")) == 1
    assert "another key" in desk.ask(desk.request(token, "a", key="other"), secret).reason


def test_asking_again_tells_a_broker_that_was_not_told(desk: Desk) -> None:
    first, secret = desk.token("a")
    desk.ask(desk.request(first, "a"), secret)
    desk.register.revoke("a")
    desk.fleet.write_access(desk.register)
    rules = desk.fleet.access.directory / "fleet.acl"
    shut_out = rules.read_text()
    assert "user a\n" in shut_out
    token, secret = desk.token("a")
    desk.ask(desk.request(token, "a", key="new"), secret)
    assert "user a\n" not in rules.read_text()
    rules.write_text(shut_out)  # as after a full disk, or a kill, between register and rules
    desk.ask(desk.request(token, "a", key="new"), secret)
    assert "user a\n" not in rules.read_text()


def test_a_service_that_starts_writes_what_the_broker_was_not_told(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.identity("a")
    with site.fleet.register() as register:
        register.revoke("a")  # and the verb is killed
    stop, ready = threading.Event(), threading.Event()
    service = threading.Thread(
        target=serve, args=(site.fleet.path,), kwargs={"stop": stop, "ready": ready}
    )
    pid = site.fleet.access.directory / "mosquitto.pid"
    pid.rename(pid.with_name("elsewhere"))
    service.start()
    try:
        assert ready.wait(60)
    finally:
        stop.set()
        service.join()
    assert "no broker runs from" in caplog.text
    assert "user a\n" in (site.fleet.access.directory / "fleet.acl").read_text()
    for path in (site.fleet.access.directory / "crl.pem", site.fleet.revoked):
        assert len(x509.load_pem_x509_crl(path.read_bytes())) == 1


def test_a_full_register_is_said_and_passes(desk: Desk) -> None:
    size = desk.register._db.execute("pragma page_count").fetchone()[0]
    desk.register._db.execute(f"pragma max_page_count = {size}")

    def fill() -> None:
        while True:
            desk.token("a")

    with pytest.raises(FleetError, match=r"fleet\.sqlite cannot be used .* full"):
        fill()
    token = desk.register.tokens()[-1]
    secret = desk.fleet.token_secret(token.id, "a")
    with pytest.raises(FleetError, match="cannot be used"):
        desk.ask(desk.request(token.id, "a"), secret)
    desk.register._db.execute("pragma max_page_count = 4294967294")
    assert desk.ask(desk.request(token.id, "a"), secret).status == "issued"


def test_of_two_keys_at_once_one_gets_a_certificate(desk: Desk) -> None:
    token, secret = desk.token("a")
    topic = request_topic(desk.fleet.name, token)
    requests = [encode_sealed(desk.request(token, "a", key=key), secret) for key in ("k", "l")]
    start = threading.Barrier(len(requests))

    def ask(request: bytes) -> EnrolmentReply:
        # As two services, or a service that was started twice by mistake.
        with desk.fleet.register() as register:
            issuer = Issuer(fleet=desk.fleet, authority=desk.issuer._authority, register=register)
            start.wait(60)
            return decode_reply(issuer.answer(topic, request))

    with ThreadPoolExecutor(len(requests)) as pool:
        replies = list(pool.map(ask, requests))
    assert sorted(reply.status for reply in replies) == ["issued", "refused"]
    assert len(desk.register.certificates("a")) == 1


def test_what_is_refused_and_why(desk: Desk) -> None:
    token, secret = desk.token("a")
    request = desk.request(token, "a")
    cases = {
        "is for device 'a'": desk.request(token, "b"),
        "service of the fleet": desk.request(token, "aggregator"),
        "this is fleet": EnrolmentRequest(
            token=token, fleet="other", device="a", request=request.request, nonce=new_id()
        ),
        "cannot be read": EnrolmentRequest(
            token=token, fleet="clinics", device="a", request="nonsense", nonce=new_id()
        ),
    }
    for words, wrong in cases.items():
        reply = desk.ask(wrong, secret)
        assert (reply.status, reply.certificate) == ("refused", "")
        assert words in reply.reason
    old, old_secret = desk.token("a", days=-1)
    assert "expired" in desk.ask(desk.request(old, "a"), old_secret).reason
    assert desk.register.certificates("a") == []
    assert desk.ask(request, secret).status == "issued"
    gone, gone_secret = desk.token("a")
    desk.register.revoke("a")
    assert "was revoked" in desk.ask(desk.request(gone, "a"), gone_secret).reason


def test_a_token_for_any_board_makes_new_devices_only(desk: Desk) -> None:
    for device in ("a", "b"):
        token, secret = desk.token()
        assert desk.ask(desk.request(token, device, key=device), secret).status == "issued"
    used, used_secret = token, secret
    token, secret = desk.token()
    desk.register.revoke("b")
    again = desk.ask(desk.request(used, "b", key="b"), used_secret)
    assert (again.certificate, again.reason) == (
        "",
        "the certificate was revoked; make a new token",
    )
    for device in ("a", "b"):
        assert "exists" in desk.ask(desk.request(token, device, key="c"), secret).reason


def test_a_request_without_the_secret_gets_no_answer(desk: Desk) -> None:
    token, secret = desk.token("a")
    other, _ = desk.token("b")
    request = desk.request(token, "a")
    topic = request_topic("clinics", token)
    with pytest.raises(EnrolmentError, match="without its secret"):
        desk.issuer.answer(topic, encode_sealed(request, b"wrong" * 8))
    changed = encode_sealed(request, secret).replace(b'"device":"a"', b'"device":"b"')
    with pytest.raises(EnrolmentError, match="without its secret"):
        desk.issuer.answer(topic, changed)
    with pytest.raises(EnrolmentError, match="without its secret"):
        desk.issuer.answer(request_topic("clinics", other), encode_sealed(request, secret))
    with pytest.raises(EnrolmentError, match="no token"):
        desk.issuer.answer(topic, encode_sealed(desk.request(new_id(), "a"), secret))
    for junk in (b"", b"{}", b"\xff" * 100, b"x" * 100_000):
        with pytest.raises(MessageError):
            desk.issuer.answer(topic, junk)
    assert desk.register.certificates("a") == []
