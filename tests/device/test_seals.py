"""A device agrees with its aggregator in a process of its own, and with nobody else."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from edge_runtime.device.agreement import Answer, Question, agree_apart
from edge_runtime.device.seals import Seals
from edge_runtime.device.store import Store
from edge_runtime.fleet.authority import Authority
from edge_runtime.messages import Topics
from edge_runtime.messages.seal import decode_sealed, seal
from edge_runtime.process.agreement import Agreement
from edge_runtime.process.tls import TlsFiles
from tests.identity.site import make_identity

TOPICS = Topics("f")
UP, DOWN = TOPICS.batch("d"), TOPICS.ack("d")


class Fleet(NamedTuple):
    folder: Path
    authority: Authority
    tls: TlsFiles
    store: Store
    answers: queue.SimpleQueue[Answer]
    seals: Seals

    def restarted(self) -> Fleet:
        """The same device, as after a restart of its agent."""
        return started(self.folder, self.authority, self.tls, self.store)

    def list(self, *revoked: Agreement, number: int, authority: Authority | None = None) -> bytes:
        """Make a list of revoked certificates that is dated by its number."""
        now = datetime.now(UTC)
        pem = (authority or self.authority).revocation_list(
            [(one.serial, now) for one in revoked], after=now + timedelta(hours=number)
        )
        return x509.load_pem_x509_crl(pem).public_bytes(Encoding.DER)

    def asked(self) -> bool:
        """Wait for the next question's turn, and settle it."""
        wait_until(lambda: (self.seals.look(), asking())[1])
        return self.settle()

    def aggregator(self, folder: str, authority: Authority | None = None) -> Agreement:
        tls, _ = make_identity(authority or self.authority, self.folder / folder, "aggregator")
        tls.ca.write_bytes((self.folder / "ca.pem").read_bytes())
        return Agreement(tls=tls, fleet="f")

    def settle(self) -> bool:
        return self.seals.settle(self.answers.get(timeout=60))

    def is_agreed_with(self, aggregator: Agreement) -> bool:
        sealed = decode_sealed(self.seals.seal(UP, b"up"))
        key = aggregator.agree(sealed.certificate, name="d", device="d", now_unix_s=time.time()).key
        answer = seal(b"down", topic=DOWN, key=key)
        return sealed.check(topic=UP, key=key) == b"up" and self.seals.open(DOWN, answer) == b"down"


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    authority = Authority.create(
        fleet="f", certificate_path=tmp_path / "ca.pem", key_path=tmp_path / "ca.key"
    )
    tls, _ = make_identity(authority, tmp_path / "device", "d")
    return started(tmp_path, authority, tls, Store(tmp_path / "device.sqlite"))


def started(folder: Path, authority: Authority, tls: TlsFiles, store: Store) -> Fleet:
    answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    seals = Seals(
        tls=tls, fleet="f", device="d", store=store, now=time.time, on_answer=answers.put
    )  # fmt: skip
    return Fleet(folder, authority, tls, store, answers, seals)


def test_it_agrees_and_follows_new_certificates_of_both_sides(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    seals = fleet.seals
    assert seals.used
    assert not seals.ready
    assert "certificate has not come yet" in seals.problem
    first = fleet.aggregator("1")
    seals.offer(first.certificate)
    assert fleet.settle()
    assert seals.problem == ""
    assert fleet.is_agreed_with(first)
    # As at each reconnect: nothing is asked.
    seals.connected()
    seals.offer(first.certificate)
    assert not asking()
    # The aggregator has another certificate now.
    second = fleet.aggregator("2")
    seals.offer(second.certificate)
    assert fleet.settle()
    assert fleet.is_agreed_with(second)
    # The device was enrolled again; its link takes the files up with the next connection.
    before = decode_sealed(seals.seal(UP, b"")).certificate
    make_identity(fleet.authority, fleet.folder / "device", "d")
    seals.look()
    assert not asking()
    seals.connected()
    seals.look()
    assert fleet.settle()
    assert fleet.is_agreed_with(second)
    assert decode_sealed(seals.seal(UP, b"")).certificate != before
    # False answers are ignored, and said once.
    for answer in (b"{}", seal(b"down", topic=DOWN, key=b"w" * 32), seals.seal(UP, b"up"), b""):
        assert seals.open(DOWN, answer) is None
    assert caplog.text.count("not from the aggregator") == 1


def test_it_takes_up_its_own_new_certificate_without_another_connection(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Revoked and enrolled again while it had nothing to send: the connection stays open, and the
    # aggregator answers nothing under the old key.
    seals, aggregator = fleet.seals, fleet.aggregator("1")
    seals.offer(aggregator.certificate)
    assert fleet.settle()
    make_identity(fleet.authority, fleet.folder / "device", "d")
    own = Agreement(tls=fleet.tls, fleet="f").certificate
    monkeypatch.setattr("edge_runtime.device.seals._OWN_LOOK_S", 0.0)
    assert fleet.asked()
    assert decode_sealed(seals.seal(UP, b"")).certificate == own
    assert fleet.is_agreed_with(aggregator)
    seals.look()
    assert not asking()


def test_a_false_certificate_changes_nothing_and_costs_little(fleet: Fleet) -> None:
    seals, own = fleet.seals, fleet.aggregator("1")
    foreign = Authority.create(
        fleet="f", certificate_path=fleet.folder / "2.pem", key_path=fleet.folder / "2.key"
    )
    false, another = (fleet.aggregator("foreign", foreign).certificate for _ in range(2))
    seals.offer(false)
    assert not fleet.settle()
    assert not seals.ready
    assert "no key was agreed on with the aggregator: " in seals.problem
    # The next process only after a while, whatever is offered.
    for certificate in (another, false, another):
        seals.offer(certificate)
        assert not asking()
    seals.offer(own.certificate)
    wait_until(lambda: (seals.look(), asking())[1])
    assert fleet.settle()
    for wrong in (another, b"no certificate"):
        seals.offer(wrong)
        wait_until(lambda: (seals.look(), asking())[1])
        assert not fleet.settle()
        assert fleet.is_agreed_with(own)
    # That was looked at already, and what is too long to be one does not take its place.
    seals.offer(b"no certificate")
    seals.offer(b"x" * 100_000)
    # The true one again, as it is retained: it is in force already.
    seals.offer(own.certificate)
    assert not asking()


def test_a_process_that_finds_nothing_out_is_worth_another(fleet: Fleet) -> None:
    assert fleet.tls.certificate is not None
    assert fleet.tls.key is not None
    question = Question(
        ca=str(fleet.tls.ca), certificate=str(fleet.tls.certificate), key=str(fleet.tls.key),
        fleet="f", device="d", offered=fleet.aggregator("1").certificate, now_unix_s=time.time(),
    )  # fmt: skip
    assert len(agree_apart(question).key) == 32
    fleet.tls.key.rename(fleet.folder / "away")
    answer = agree_apart(question)
    assert (answer.key, answer.failed) == (b"", True)
    assert "key.pem cannot be read" in answer.reason
    (fleet.folder / "away").rename(fleet.tls.key)
    # As by a clock that is ahead: this certificate will do no better.
    late = agree_apart(
        Question(**{name: getattr(question, name) for name in question.__struct_fields__}
                 | {"now_unix_s": 2.0**33})
    )  # fmt: skip
    assert not late.failed
    assert "expired" in late.reason


def test_a_revoked_certificate_is_dropped_and_stays_out(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = fleet.aggregator("1"), fleet.aggregator("2")
    before, after = fleet.list(number=1), fleet.list(old, number=2)
    fleet.seals.offer_list(before)
    assert not asking()  # before there is a certificate to ask about
    fleet.seals.offer(old.certificate)
    assert fleet.settle()
    # As at each reconnect.
    fleet.seals.connected()
    for offer, what in ((fleet.seals.offer_list, before), (fleet.seals.offer, old.certificate)):
        offer(what)
        assert not asking()
    fleet.seals.offer_list(after)
    assert not fleet.settle()
    assert not fleet.seals.ready
    assert "was revoked; nothing is sent until" in fleet.seals.problem
    assert fleet.seals.open(DOWN, seal(b"down", topic=DOWN, key=b"w" * 32)) is None
    assert "nothing is sent until it has another" in caplog.text
    # Neither the older list nor a restart brings it back, nor both.
    again = fleet.restarted()
    for seals in (fleet.seals, again.seals):
        seals.offer_list(before)
    for device in (fleet, again):
        device.seals.offer(old.certificate)
        assert not device.asked()
        assert not device.seals.ready
    assert caplog.text.count("is not newer than the one in force") == 2
    assert caplog.text.count("certificate of 'aggregator' was revoked") == 3
    # The one that took its place does, without the list being asked about again.
    for device in (fleet, again):
        device.seals.offer(new.certificate)
        device.seals.offer_list(before)
        assert device.asked()
        assert device.is_agreed_with(new)
    assert caplog.text.count("is not newer than the one in force") == 2


def test_a_list_counts_also_beside_a_certificate_that_is_none(fleet: Fleet) -> None:
    one, other = fleet.aggregator("1"), fleet.aggregator("2")
    fleet.seals.offer(one.certificate)
    assert fleet.settle()
    fleet.seals.offer(b"no certificate")
    assert not fleet.settle()
    # About another one first, and then about the one in force.
    for number, (listed, ready) in enumerate([(other, True), (one, False)], start=1):
        fleet.seals.offer_list(fleet.list(listed, number=number))
        assert not fleet.asked()
        assert fleet.seals.ready == ready


def test_a_false_list_changes_nothing_and_costs_little(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    own = fleet.aggregator("1")
    foreign = Authority.create(
        fleet="f", certificate_path=fleet.folder / "2.pem", key_path=fleet.folder / "2.key"
    )
    false = fleet.list(own, number=5, authority=foreign)
    fleet.seals.offer_list(false)
    fleet.seals.offer(own.certificate)
    # The key is agreed on all the same.
    assert fleet.settle()
    assert fleet.is_agreed_with(own)
    assert "another fleet" in caplog.text
    # Not again, the next one only after a while, and never what is too long to be one.
    for listed in (false, b"no list", b"x" * (2 << 20)):
        fleet.seals.offer_list(listed)
        assert not asking()
    assert not fleet.asked()
    assert "cannot be read" in caplog.text
    assert fleet.store.get("revoked") is None
    # A true one does still.
    true = fleet.list(own, number=1)
    fleet.seals.offer_list(true)
    assert not fleet.asked()
    assert not fleet.seals.ready
    assert fleet.store.get("revoked") == true


def test_a_list_that_cannot_be_kept_counts_and_is_kept_later(fleet: Fleet) -> None:
    own = fleet.aggregator("1")
    fleet.seals.offer(own.certificate)
    assert fleet.settle()
    listed = fleet.list(own, number=1)
    fleet.store.connection.execute("PRAGMA query_only=1")  # as a disk that is full
    fleet.seals.offer_list(listed)
    assert not fleet.settle()
    assert not fleet.seals.ready
    fleet.store.connection.execute("PRAGMA query_only=0")
    assert fleet.store.get("revoked") is None
    fleet.seals.connected()
    assert fleet.store.get("revoked") == listed


def test_a_list_of_the_fleet_before_is_not_in_the_way(fleet: Fleet) -> None:
    before = Authority.create(
        fleet="f", certificate_path=fleet.folder / "2.pem", key_path=fleet.folder / "2.key"
    )
    fleet.store.put("revoked", fleet.list(number=9, authority=before))
    enrolled, own = fleet.restarted(), fleet.aggregator("1")
    enrolled.seals.offer_list(fleet.list(own, number=1))
    enrolled.seals.offer(own.certificate)
    assert not enrolled.settle()
    assert not enrolled.seals.ready


@pytest.mark.parametrize("tls", [None, TlsFiles(ca=Path("ca.pem"))])
def test_without_a_certificate_everything_travels_as_it_is(
    tls: TlsFiles | None, tmp_path: Path
) -> None:
    seals = Seals(
        tls=tls, fleet="f", device="d", store=Store(tmp_path / "device.sqlite"), now=time.time,
        on_answer=pytest.fail,
    )  # fmt: skip
    seals.connected()
    seals.offer(b"anything")
    seals.offer_list(b"anything")
    seals.look()
    assert (seals.used, seals.ready) == (False, True)
    assert seals.seal(UP, b"body") == b"body"
    assert seals.open(DOWN, b"body") == b"body"


def asking() -> bool:
    return "agree" in {thread.name for thread in threading.enumerate()}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
