"""A broker that makes messages up, changes, replays and misdirects them: the pool is the same.

Real processes on both sides, each with its certificate; `tests/aggregator/test_lying_broker.py`
has what a broker can do to a fleet without certificates.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import msgspec

from edge_runtime.errors import MessageError
from edge_runtime.fleet.authority import Authority
from edge_runtime.generator import Bundle
from edge_runtime.messages import (
    DeviceState,
    decode_ack,
    decode_batch,
    decode_plan,
    encode_batch,
    encode_state,
    new_id,
)
from edge_runtime.messages.seal import decode_sealed, seal
from edge_runtime.process.agreement import Agreement
from tests.identity.site import FLEET, make_identity, wait_for
from tests.identity.wards import ACK, BATCH, STATE, SUMMARY, TOPICS, WRONG_KEY, Wards


def test_it_changes_nothing_in_the_pool(wards: Wards) -> None:
    liar = wards.liar
    liar.withheld = {"certificate", "summary", "batch"}
    own = liar.wait_for(TOPICS.certificate)

    # Certificates that are not the aggregator's: the device says nothing at all.
    foreign = Authority.create(
        fleet=FLEET, certificate_path=wards.folder / "2.pem", key_path=wards.folder / "2.key"
    )
    for number, (authority, name, words) in enumerate(
        [(foreign, "aggregator", "another fleet"), (wards.authority, "ward-8", "another name")]
    ):
        tls, _ = make_identity(authority, wards.folder / f"not {number}", name)
        liar.say(TOPICS.certificate, Agreement(tls=tls, fleet=FLEET).certificate)
        if wards.device is None:
            wards.start_device()
        wards.waits_in_log(words)
    assert liar.up == []
    liar.let_pass("certificate")
    assert liar.of(TOPICS.certificate) == [own]

    # The census is answered, and the answer withheld, changed, and said to have been stored.
    sealed = liar.wait_for(SUMMARY)
    body = decode_sealed(sealed).body
    plan = decode_plan(liar.of(TOPICS.plan)[-1])
    done = encode_state(DeviceState(device="ward-7", status="idle", plan_id=plan.id))
    before = wards.stored()
    wards.forge(
        (SUMMARY, sealed[:-1] + bytes([sealed[-1] ^ 1])),
        (SUMMARY, sealed[:-1]),
        (SUMMARY, body),
        (BATCH, sealed),
        (TOPICS.summary("ward-8"), sealed),
        # That the device is done: the round would end without its answer.
        (STATE, done),
        (
            STATE,
            seal(done, topic=STATE, key=WRONG_KEY, certificate=decode_sealed(sealed).certificate),
        ),
    )
    wards.tell_the_device_that_it_is_stored(body)
    assert wards.stored() == before
    assert wards.status().phase == "census"
    liar.let_pass("summary")

    # A batch of its own making, in the device's name.
    sealed = liar.wait_for(BATCH)
    certificate, _, body = decode_sealed(sealed)
    bundle = Bundle.from_bytes(next(p for t, p in liar.down if "/bundle/" in t and p))
    names, cards = bundle.schema.names, bundle.codec.cardinalities
    header, codes = decode_batch(body, cardinalities=cards, names=names)
    made_up = encode_batch(
        msgspec.structs.replace(header, id=new_id()), codes[::-1], cardinalities=cards, names=names
    )
    tls, _ = make_identity(wards.authority, wards.folder / "ward-8", "ward-8")
    other = Agreement(tls=tls, fleet=FLEET)
    agreed = other.agree(own, name="aggregator", device="ward-8", now_unix_s=time.time())

    def by_ward_8(topic: str, certificate: bytes) -> bytes:
        return seal(made_up, topic=topic, key=agreed.key, certificate=certificate)

    # What the device sent beside the batch has arrived.
    wait_for(lambda: wards.waiting() == [hashlib.sha256(body).hexdigest()], "all but the batch")
    before = wards.stored()
    wards.forge(
        (BATCH, made_up),
        (BATCH, seal(made_up, topic=BATCH, key=WRONG_KEY, certificate=certificate)),
        # Around a true seal, which fits the true body only.
        (BATCH, sealed[: -len(body)] + made_up),
        # By a device of the fleet that helps: in its own name, and in the other's.
        (BATCH, by_ward_8(BATCH, other.certificate)),
        (BATCH, by_ward_8(BATCH, certificate)),
        (BATCH, by_ward_8(TOPICS.batch("ward-8"), other.certificate)),
    )
    wards.tell_the_device_that_it_is_stored(body)
    assert wards.stored() == before
    liar.let_pass("batch")
    wait_for(lambda: wards.status().phase == "done", wards.aggregator.text())
    wait_for(lambda: not wards.waiting(), "the true acknowledgements")

    # The agreement was not in the agent itself: it is not the larger by it.
    assert wards.device is not None
    assert "cryptography" not in Path(f"/proc/{wards.device.pid}/maps").read_text()

    # The truth again, backwards and twice: duplicates, as without seals.
    before = wards.stored()
    assert {status for *_, status in map(_answer, liar.of(ACK))} <= {"accepted", "duplicate"}
    truth = {payload: topic for topic, payload in liar.up if topic in (SUMMARY, BATCH)}
    for payload, topic in [*reversed(truth.items())] * 2:
        count = len(liar.of(ACK))
        liar.say(topic, payload)
        wanted = (hashlib.sha256(decode_sealed(payload).body).hexdigest(), "duplicate")
        # Beside it there may be a late answer to what the device has sent twice.
        wait_for(
            lambda count=count, wanted=wanted: wanted in map(_answer, liar.of(ACK)[count:]),
            "the answer to a duplicate",
        )
    assert wards.stored() == before
    assert wards.status().unauthentic == wards.forged
    assert "Traceback" not in wards.log.read_text() + wards.aggregator.text()
    # Said, but not each time.
    assert wards.log.read_text().count("ignored what is not from the aggregator") <= 2
    assert wards.aggregator.text().count("dropped what is not authentic") <= 2

    # The aggregator has another key after a restart: the device follows, and says again what it is.
    assert wards.aggregator.stop() == 0
    renewed, _ = make_identity(wards.authority, wards.fleet.path / "aggregator", "aggregator")
    wards.aggregator.restart()
    key = (
        Agreement(tls=renewed, fleet=FLEET)
        .agree(certificate, name="ward-7", device="ward-7", now_unix_s=time.time())
        .key
    )
    wait_for(lambda: _is_by(key, liar.of(STATE)[-1]), "a state under the new key")


def _is_by(key: bytes, payload: bytes) -> bool:
    try:
        return bool(decode_sealed(payload).check(topic=STATE, key=key))
    except MessageError:
        return False


def _answer(payload: bytes) -> tuple[str, str]:
    ack = decode_ack(decode_sealed(payload).body)
    return ack.sha256, ack.status
