"""The seal: what it lets through, and what it does not."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from edge_runtime.errors import AuthenticityError, MessageError, SizeError, VersionError
from edge_runtime.messages import DEFAULT_LIMITS, Limits, Topics
from edge_runtime.messages.seal import decode_sealed, is_sealed, seal

TOPICS = Topics("f")
KEY, BODY, CERTIFICATE = b"k" * 32, b"the body", b"a certificate"
TOPIC = TOPICS.batch("d")
SEALED = seal(BODY, topic=TOPIC, key=KEY, certificate=CERTIFICATE)


def test_what_was_sealed_is_opened() -> None:
    for body in (b"", BODY, b"\0" * 100_000):
        for certificate in (b"", CERTIFICATE):
            data = seal(body, topic=TOPIC, key=KEY, certificate=certificate)
            assert is_sealed(data)
            assert len(data) == len(body) + len(certificate) + 38
            found = decode_sealed(data)
            assert found.certificate == certificate
            assert found.check(topic=TOPIC, key=KEY) == body


def test_the_bytes_are_those_of_the_protocol() -> None:
    mac = hmac.digest(KEY, b"er/v1/f/up/d/batch\0the body", hashlib.sha256)
    assert b"ERS\x01\x00\x0d" + CERTIFICATE + mac + BODY == SEALED


def test_no_byte_can_be_changed() -> None:
    # The certificate is not covered by the MAC: the key follows from it.
    other = {*range(6 + len(CERTIFICATE), len(SEALED))}
    for place in range(len(SEALED)):
        changed = bytearray(SEALED)
        changed[place] ^= 1
        if place in other:
            with pytest.raises(AuthenticityError):
                decode_sealed(bytes(changed)).check(topic=TOPIC, key=KEY)
        elif place >= 6:
            assert decode_sealed(bytes(changed)).certificate != CERTIFICATE
        else:
            with pytest.raises(MessageError):
                decode_sealed(bytes(changed)).check(topic=TOPIC, key=KEY)


@pytest.mark.parametrize(
    "topic",
    [TOPICS.summary("d"), TOPICS.batch("e"), TOPICS.state("d"), TOPICS.ack("d"),
     Topics("g").batch("d"), TOPIC + "\0the"],
)  # fmt: skip
def test_a_message_is_of_no_use_elsewhere(topic: str) -> None:
    with pytest.raises(AuthenticityError):
        decode_sealed(SEALED).check(topic=topic, key=KEY)


def test_another_key_does_not_open() -> None:
    for key in (b"K" * 32, b"", KEY + b"k"):
        with pytest.raises(AuthenticityError):
            decode_sealed(SEALED).check(topic=TOPIC, key=key)


def test_what_is_cut_off_or_has_no_seal_is_refused() -> None:
    for length in range(6 + len(CERTIFICATE) + 32):
        with pytest.raises(MessageError, match="seal"):
            decode_sealed(SEALED[:length])
    for bare in (b"", b"{}", BODY, b"\x28\xb5\x2f\xfd"):
        assert not is_sealed(bare)
        with pytest.raises(MessageError, match="no seal"):
            decode_sealed(bare)


def test_sizes_and_versions_are_refused() -> None:
    most = DEFAULT_LIMITS.certificate_bytes
    assert decode_sealed(seal(b"", topic="t", key=KEY, certificate=b"x" * most))
    with pytest.raises(SizeError, match=f"{most + 1} bytes"):
        decode_sealed(seal(b"", topic="t", key=KEY, certificate=b"x" * (most + 1)))
    # Before anything is there that long: a claim is enough.
    with pytest.raises(SizeError, match="65535"):
        decode_sealed(b"ERS\x01\xff\xff")
    with pytest.raises(SizeError, match="9 bytes"):
        decode_sealed(seal(b"9" * 9, topic="t", key=KEY), limits=Limits(message_bytes=8))
    with pytest.raises(VersionError, match="version 2"):
        decode_sealed(b"ERS\x02" + SEALED[4:])
