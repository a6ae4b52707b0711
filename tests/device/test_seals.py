"""A device agrees with its aggregator in a process of its own, and with nobody else."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from edge_runtime.device.agreement import Answer, Question, agree_apart
from edge_runtime.device.seals import Seals
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
    seals: Seals
    answers: queue.SimpleQueue[Answer]

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
    answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    seals = Seals(tls=tls, fleet="f", device="d", now=time.time, on_answer=answers.put)
    return Fleet(tmp_path, authority, tls, seals, answers)


def test_it_agrees_and_follows_new_certificates_of_both_sides(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    seals = fleet.seals
    assert seals.used
    assert not seals.ready
    first = fleet.aggregator("1")
    seals.offer(first.certificate)
    assert fleet.settle()
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


def test_a_false_certificate_changes_nothing_and_costs_little(fleet: Fleet) -> None:
    seals, own = fleet.seals, fleet.aggregator("1")
    foreign = Authority.create(
        fleet="f", certificate_path=fleet.folder / "2.pem", key_path=fleet.folder / "2.key"
    )
    false, another = (fleet.aggregator("foreign", foreign).certificate for _ in range(2))
    seals.offer(false)
    assert not fleet.settle()
    assert not seals.ready
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


@pytest.mark.parametrize("tls", [None, TlsFiles(ca=Path("ca.pem"))])
def test_without_a_certificate_everything_travels_as_it_is(tls: TlsFiles | None) -> None:
    seals = Seals(tls=tls, fleet="f", device="d", now=time.time, on_answer=pytest.fail)
    seals.connected()
    seals.offer(b"anything")
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
