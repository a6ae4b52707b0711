"""What an aggregator with a certificate looks at, and what it drops."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from edge_runtime.errors import MessageError
from edge_runtime.fleet.authority import Authority
from edge_runtime.messages import Ack, DeviceState, Topics, encode_ack, encode_state
from edge_runtime.messages.seal import decode_sealed, seal
from edge_runtime.process.agreement import Agreement
from edge_runtime.reception import Incoming
from edge_runtime.reception.seals import Opened, Seals
from tests.identity.site import make_identity

TOPICS = Topics("f")
NOW = 1_800_000_000.0
ACK = Ack(id="0" * 32, sequence=1, sha256="a" * 64, status="accepted")


class Board(NamedTuple):
    """A device with its key."""

    certificate: bytes
    key: bytes

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
        self.seals = Seals(tls=tls, topics=TOPICS, clock=self.clock)
        self.certificate = Agreement(tls=tls, fleet="f").certificate

    def board(self, name: str, folder: str = "", authority: Authority | None = None) -> Board:
        tls, _ = make_identity(
            authority or self.authority, self.folder / (folder or name), name,
            lifetime=timedelta(days=3650),
        )  # fmt: skip
        tls.ca.write_bytes((self.folder / "ca.pem").read_bytes())
        own = Agreement(tls=tls, fleet="f")
        agreed = own.agree(self.certificate, name="aggregator", device=name, now_unix_s=NOW)
        return Board(own.certificate, agreed.key)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
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


def test_without_a_certificate_everything_travels_as_it_is() -> None:
    seals = Seals(tls=None, topics=TOPICS)
    message = Incoming("a", "batch", b"anything")
    assert seals.open([message]) == [Opened(message, b"")]
    assert seals.answer("a", encode_ack(ACK), key=b"") == (TOPICS.ack("a"), encode_ack(ACK))
    idle = DeviceState(device="a", status="idle")
    assert seals.state("a", encode_state(idle)) == idle
