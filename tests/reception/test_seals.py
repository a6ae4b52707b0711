"""What an aggregator with a certificate looks at, and what it drops."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from edge_runtime.errors import ConfigError, MessageError
from edge_runtime.fleet.authority import Authority
from edge_runtime.messages import Ack, DeviceState, Topics, encode_ack, encode_state
from edge_runtime.messages.seal import decode_sealed, seal
from edge_runtime.process.agreement import Agreement
from edge_runtime.reception import AggregatorTls, Incoming
from edge_runtime.reception.seals import Opened, Seals
from tests.identity.site import make_identity, wait_for

TOPICS = Topics("f")
NOW = 1_800_000_000.0
ACK = Ack(id="0" * 32, sequence=1, sha256="a" * 64, status="accepted")


class Board(NamedTuple):
    """A device with its key."""

    certificate: bytes
    key: bytes
    serial: int

    def seal(self, topic: str, body: bytes) -> bytes:
        return seal(body, topic=topic, key=self.key, certificate=self.certificate)


class Clock:
    now_s = NOW

    def __call__(self) -> float:
        return self.now_s


class Fleet:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority.create(
            fleet="f", certificate_path=folder / "ca.pem", key_path=folder / "ca.key"
        )
        self.clock = Clock()
        tls, _ = make_identity(
            self.authority, folder / "own", "aggregator", lifetime=timedelta(days=3650)
        )
        self.tls = AggregatorTls(ca=tls.ca, certificate=tls.certificate, key=tls.key)
        self.seals = Seals(tls=self.tls, topics=TOPICS, clock=self.clock)
        own = Agreement(tls=tls, fleet="f")
        self.certificate, self.serial = own.certificate, own.serial
        self.list = folder / "crl.pem"

    def knows_the_list(self) -> Seals:
        tls = msgspec.structs.replace(self.tls, revoked=self.list)
        self.seals = Seals(tls=tls, topics=TOPICS, clock=self.clock)
        return self.seals

    def write_list(
        self, *serials: int, number: int = 1, authority: Authority | None = None
    ) -> bytes:
        """Put another file in the list's place, dated by its number; return it as DER."""
        now = datetime.now(UTC)
        pem = (authority or self.authority).revocation_list(
            [(serial, now) for serial in serials], after=now + timedelta(hours=number)
        )
        return self.put_list(pem)

    def put_list(self, pem: bytes) -> bytes:
        new = self.list.with_name("crl.new")
        new.write_bytes(pem)
        new.replace(self.list)
        try:
            return x509.load_pem_x509_crl(pem).public_bytes(Encoding.DER)
        except ValueError:
            return b""

    def board(self, name: str, folder: str = "", authority: Authority | None = None) -> Board:
        tls, _ = make_identity(
            authority or self.authority, self.folder / (folder or name), name,
            lifetime=timedelta(days=3650),
        )  # fmt: skip
        tls.ca.write_bytes((self.folder / "ca.pem").read_bytes())
        own = Agreement(tls=tls, fleet="f")
        agreed = own.agree(self.certificate, name="aggregator", device=name, now_unix_s=NOW)
        return Board(own.certificate, agreed.key, own.serial)


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    monkeypatch.setattr("edge_runtime.reception.watched._LOOK_S", 0.05)
    return Fleet(tmp_path)


def test_true_messages_are_opened_and_answered_under_their_key(fleet: Fleet) -> None:
    a, b, again = fleet.board("a"), fleet.board("b"), fleet.board("a", "a again")
    sent = [
        Incoming("a", "batch", a.seal(TOPICS.batch("a"), b"one")),
        Incoming("b", "summary", b.seal(TOPICS.summary("b"), b"two")),
        Incoming("a", "batch", again.seal(TOPICS.batch("a"), b"three")),
    ] * 2
    opened = fleet.seals.open(sent)
    assert [one.message for one in opened] == [
        Incoming("a", "batch", b"one"),
        Incoming("b", "summary", b"two"),
        Incoming("a", "batch", b"three"),
    ] * 2
    for one, board in zip(opened, (a, b, again) * 2, strict=True):
        topic, payload = fleet.seals.answer(one.message.device, encode_ack(ACK), key=one.key)
        assert topic == TOPICS.ack(one.message.device)
        assert decode_sealed(payload).check(topic=topic, key=board.key) == encode_ack(ACK)
    assert fleet.seals.unauthentic == 0


def test_what_is_not_authentic_is_dropped_and_said_once(
    fleet: Fleet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = fleet.board("a"), fleet.board("b")
    foreign = Authority.create(
        fleet="f", certificate_path=tmp_path / "2.pem", key_path=tmp_path / "2.key"
    )
    topic, true = TOPICS.batch("a"), a.seal(TOPICS.batch("a"), b"body")
    cases = {
        "bare": b"body",
        "empty": b"",
        "changed": true[:-1] + b"x",
        "cut off": true[:-1],
        "of another kind": a.seal(TOPICS.summary("a"), b"body"),
        "an answer of ours sent back": seal(b"body", topic=TOPICS.ack("a"), key=a.key),
        "another's": b.seal(TOPICS.batch("b"), b"body"),
        "by another device, for this topic": b.seal(topic, b"body"),
        "by another device, with this one's certificate": seal(
            b"body", topic=topic, key=b.key, certificate=a.certificate
        ),
        "another fleet's": fleet.board("a", "foreign", foreign).seal(topic, b"body"),
        "without a certificate": seal(b"body", topic=topic, key=a.key),
        "with too much of one": seal(b"body", topic=topic, key=a.key, certificate=b"x" * 5000),
    }
    with caplog.at_level(logging.WARNING):
        # Twice: with certificates that are not known yet, and with those that are.
        for _ in range(2):
            for name, payload in cases.items():
                assert fleet.seals.open([Incoming("a", "batch", payload)]) == [], name
            both = [Incoming("b", "batch", b.seal(TOPICS.batch("b"), b"body")),
                    Incoming("a", "batch", true)]  # fmt: skip
            assert len(fleet.seals.open(both)) == 2
    assert fleet.seals.unauthentic == 2 * len(cases)
    assert len(caplog.records) == 1
    assert "not authentic" in caplog.text


def test_a_certificate_is_good_until_it_expires(fleet: Fleet) -> None:
    board = fleet.board("a")
    message = Incoming("a", "batch", board.seal(TOPICS.batch("a"), b"body"))
    assert fleet.seals.open([message])
    fleet.clock.now_s = NOW + 3650 * 86_400
    assert not fleet.seals.open([message])
    fleet.clock.now_s = NOW
    assert fleet.seals.open([message])


def test_another_certificate_on_the_disk_is_taken_up_whole_or_not_at_all(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    before = fleet.board("a")
    message = Incoming("a", "batch", before.seal(TOPICS.batch("a"), b"body"))
    assert fleet.seals.open([message])
    old = fleet.certificate
    fresh, _ = make_identity(
        fleet.authority, fleet.folder / "next", "aggregator", lifetime=timedelta(days=3650)
    )
    assert fresh.certificate is not None
    assert fresh.key is not None
    own = fleet.folder / "own"
    fleet.certificate = Agreement(tls=fresh, fleet="f").certificate
    after = fleet.board("a", "a once more")
    renewed = Incoming("a", "batch", after.seal(TOPICS.batch("a"), b"body"))
    # The one file without the other: what was in use stays in use.
    (own / fresh.certificate.name).write_bytes(fresh.certificate.read_bytes())
    wait_for(lambda: fleet.seals.open([message]) and "stays in use" in caplog.text, "not seen")
    assert not fleet.seals.open([renewed])
    (own / fresh.key.name).write_bytes(fresh.key.read_bytes())
    wait_for(lambda: fleet.seals.open([renewed]), "not taken up")
    assert not fleet.seals.open([message])
    assert old != fleet.certificate


def test_files_of_another_fleet_are_not_taken_up(
    fleet: Fleet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = Authority.create(
        fleet="f", certificate_path=tmp_path / "2.pem", key_path=tmp_path / "2.key"
    )
    other, _ = make_identity(foreign, tmp_path / "other", "aggregator")
    a = fleet.board("a")
    fleet.write_list()
    seals = fleet.knows_the_list()
    message = Incoming("a", "batch", a.seal(TOPICS.batch("a"), b"body"))
    assert seals.open([message])
    for file in ("ca", "certificate", "key"):
        getattr(fleet.tls, file).write_bytes(getattr(other, file).read_bytes())
    wait_for(lambda: seals.open([message]) and "is of another fleet" in caplog.text, "not said")
    assert "stays in use" in caplog.text
    assert seals.open([message])


def test_states_count_if_sealed_and_a_will_says_no_more_than_that(fleet: Fleet) -> None:
    a, topic = fleet.board("a"), TOPICS.state("a")
    idle = DeviceState(device="a", status="idle", plan_id="1" * 32, epsilon_spent=0.5)
    assert fleet.seals.state("a", a.seal(topic, encode_state(idle))) == idle
    assert fleet.seals.state("a", encode_state(idle)) is None
    assert fleet.seals.state("a", a.seal(TOPICS.batch("a"), encode_state(idle))) is None
    assert fleet.seals.state("a", a.seal(topic, encode_state(idle))[:-1]) is None
    assert fleet.seals.state("a", b"ERS\x01") is None
    assert fleet.seals.state("a", b"{}") is None
    will = DeviceState(device="b", status="offline", plan_id="1" * 32, epsilon_spent=0.5)
    assert fleet.seals.state("a", encode_state(will)) == DeviceState(device="a", status="offline")
    assert fleet.seals.unauthentic == 5
    with pytest.raises(MessageError):
        fleet.seals.state("a", a.seal(topic, b"{}"))


class Retained:
    """What was published, in place of a link."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes, bool]] = []

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        self.got.append((topic, payload, retain))


def test_what_was_revoked_is_dropped_from_then_on_and_devices_hear_of_it(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = fleet.board("a"), fleet.board("b")
    first, link = fleet.write_list(a.serial, number=1), Retained()
    seals = fleet.knows_the_list()
    seals.publish(link)  # type: ignore[arg-type]
    assert link.got == [
        (TOPICS.certificate, fleet.certificate, True),
        (TOPICS.revoked, first, True),
    ]
    messages = [
        Incoming(name, "batch", board.seal(TOPICS.batch(name), b"body"))
        for name, board in (("a", a), ("b", b))
    ]
    state = b.seal(TOPICS.state("b"), encode_state(DeviceState(device="b", status="idle")))

    def heard() -> set[str]:
        return {one.message.device for one in seals.open(messages)}

    assert heard() == {"b"}
    assert seals.state("b", state) is not None
    assert "certificate of 'a' was revoked" in caplog.text
    # The key of the other one is known already.
    second = fleet.write_list(a.serial, b.serial, number=2)
    wait_for(lambda: not heard())
    assert seals.state("b", state) is None
    assert link.got[2:] == [(TOPICS.revoked, second, True)]
    # And its own, which the log says.
    third = fleet.write_list(a.serial, fleet.serial, number=3)
    wait_for(lambda: heard() == {"b"})
    assert link.got[3:] == [(TOPICS.revoked, third, True)]
    assert "own certificate was revoked" in caplog.text


def test_a_list_that_is_none_leaves_the_one_before_in_force(
    fleet: Fleet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a, link = fleet.board("a"), Retained()
    foreign = Authority.create(
        fleet="f", certificate_path=tmp_path / "2.pem", key_path=tmp_path / "2.key"
    )
    good = fleet.write_list(a.serial, number=2)
    good_pem = fleet.list.read_bytes()
    seals = fleet.knows_the_list()
    seals.publish(link)  # type: ignore[arg-type]
    message = Incoming("a", "batch", a.seal(TOPICS.batch("a"), b"body"))
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: fleet.write_list(number=1), "not newer"),
        (lambda: fleet.write_list(number=3, authority=foreign), "another fleet"),
        (lambda: fleet.put_list(good_pem[:-40]), "in PEM form"),
        (lambda: fleet.write_list(*range(2**158, 2**158 + 28_000), number=3), "more than the"),
        (fleet.list.unlink, "cannot be read"),
    ]  # fmt: skip
    for number, (put, words) in enumerate(wrong, start=1):
        put()
        wait_for(lambda words=words: seals.open([message]) == [] and words in caplog.text)
        assert caplog.text.count("the list from before stays in force") == number
    # Said once each, and a good one counts as ever.
    newer = fleet.write_list(number=3)
    wait_for(lambda: seals.open([message]) != [])
    assert caplog.text.count("the list from before stays in force") == len(wrong)
    assert [payload for _, payload, _ in link.got[1:]] == [good, newer]


def test_it_does_not_start_with_a_list_that_is_none(fleet: Fleet) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read .* copy aggregator/crl\.pem"):
        fleet.knows_the_list()
    fleet.put_list(b"no list")
    with pytest.raises(ConfigError, match=r"holds no list .* copy aggregator/crl\.pem"):
        fleet.knows_the_list()
    fleet.write_list(fleet.serial)
    with pytest.raises(ConfigError, match="own certificate is in the list"):
        fleet.knows_the_list()
    with pytest.raises(ValueError, match="certificate is missing"):
        AggregatorTls(ca=fleet.tls.ca, revoked=fleet.list)


def test_without_a_certificate_everything_travels_as_it_is() -> None:
    seals = Seals(tls=None, topics=TOPICS)
    message = Incoming("a", "batch", b"anything")
    assert seals.open([message]) == [Opened(message, b"")]
    assert seals.answer("a", encode_ack(ACK), key=b"") == (TOPICS.ack("a"), encode_ack(ACK))
    idle = DeviceState(device="a", status="idle")
    assert seals.state("a", encode_state(idle)) == idle
