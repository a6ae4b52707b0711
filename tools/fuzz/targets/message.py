"""Messages that are JSON, topics, seals, and what enrolment exchanges."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from edge_runtime.device.keys import check_certificate
from edge_runtime.errors import EnrolmentError, MessageError
from edge_runtime.fleet.authority import public_key_of_request
from edge_runtime.messages import (
    Ack,
    AggregatorStatus,
    Alarm,
    Alarms,
    AnchorRequest,
    DeviceProgress,
    DeviceState,
    Header,
    MomentsRequest,
    Plan,
    RowRequest,
    ScoreRequest,
    Topics,
    TrainRequest,
    UpdateRequest,
    decode_ack,
    decode_alarms,
    decode_header,
    decode_plan,
    decode_state,
    decode_status,
)
from edge_runtime.messages.enrolment import (
    EnrolmentReply,
    EnrolmentRequest,
    decode_reply,
    decode_request,
    encode_sealed,
    is_sealed,
    reply_topic,
    token_of_topic,
)
from edge_runtime.messages.fields import encode_json
from edge_runtime.messages.seal import decode_sealed, seal
from edge_runtime.process.agreement import Agreement
from edge_runtime.process.revocation import read_revocations
from edge_runtime.process.tls import TlsFiles
from tools.fuzz.contract import Decoder
from tools.fuzz.handing_over import hand_over
from tools.fuzz.mutations import mutate_json
from tools.fuzz.samples import DIGEST, header

__all__ = ["DECODERS", "seeds"]

_SECRET = b"s" * 32
_TOPICS = Topics("f")
#: what the holder of the key has sealed, for which topic, and when it is looked at
_BODY, _SEALED_FOR, _NOW = b"a body", _TOPICS.batch("d"), 1_790_000_000.0


def _both_ways(decode: Callable[[bytes], Any]) -> Callable[[bytes], None]:
    """Decode, and encode again: what a reader accepts a sender can send."""

    def run(data: bytes) -> None:
        found = decode(data)
        if isinstance(found, Header | DeviceState):
            hand_over(found)
        if decode(encode_json(found)) != found:
            raise AssertionError(f"{found!r} does not come back")

    return run


def _topic(data: bytes) -> None:
    # Clients decode topics as UTF-8 and drop what is none.
    topic = data.decode(errors="ignore")
    try:
        reply_topic("f", token_of_topic(topic))
    except MessageError:
        address = _TOPICS.parse(topic)
        if not (address.device + address.kind + address.rest).isascii():
            raise AssertionError(f"{address} was let through") from None


def _request(data: bytes) -> None:
    request = decode_request(data)
    is_sealed(request, _SECRET)
    public_key_of_request(request.request)


def _reply(data: bytes) -> None:
    reply = decode_reply(data)
    is_sealed(reply, _SECRET)
    check_certificate(reply.certificate, ca=_ca(), key=_key(), device="d")


def _pem(data: bytes) -> None:
    text = data.decode(errors="replace")
    try:
        public_key_of_request(text)
    except EnrolmentError:
        check_certificate(text, ca=_ca(), key=_key(), device="d")


def _seal(data: bytes) -> None:
    """Open a message that somebody without the key has changed."""
    sealed = decode_sealed(data)
    body = sealed.check(topic=_SEALED_FOR, key=_SECRET)
    if body != _BODY:
        raise AssertionError(f"{body!r} was taken, which nobody has sealed")
    if seal(body, topic=_SEALED_FOR, key=_SECRET, certificate=sealed.certificate) != data:
        raise AssertionError("it is not what a sender would have made")


def _offered(data: bytes) -> None:
    """Agree with the holder of a certificate that somebody without the authority's key has made."""
    from cryptography import x509

    _agreement().agree(data, name="d", device="d", now_unix_s=_NOW)
    # Beside what was signed there is only the signature, of which there is more than one.
    own, other = (x509.load_der_x509_certificate(der) for der in (_client(), data))
    if own.tbs_certificate_bytes != other.tbs_certificate_bytes:
        raise AssertionError("a certificate was taken that nobody has signed")


def _revoked(data: bytes) -> None:
    """Read a list of revoked certificates that somebody without the authority's key has made."""
    from cryptography import x509

    read_revocations(data, [x509.load_pem_x509_certificate(_ca().encode())])
    own, other = (x509.load_der_x509_crl(der) for der in (_list(), data))
    if own.tbs_certlist_bytes != other.tbs_certlist_bytes:
        raise AssertionError("a list was taken that nobody has signed")


@cache
def _agreement() -> Agreement:
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    key = _key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    contents = {"ca": _ca().encode(), "certificate": _certificate("d").encode(), "key": key}
    with tempfile.TemporaryDirectory(prefix="er-fuzz-") as directory:
        for name, data in contents.items():
            (Path(directory) / name).write_bytes(data)
        tls = TlsFiles(**{name: Path(directory) / name for name in contents})
        return Agreement(tls=tls, fleet="f")


@cache
def _client() -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    read = x509.load_pem_x509_certificate(_certificate("d", client=True).encode())
    return read.public_bytes(Encoding.DER)


@cache
def _list() -> bytes:
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    made = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(_key().public_key())
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")]))
        .last_update(made)
        .next_update(made + datetime.timedelta(days=9999))
        .add_extension(authority, critical=False)
    )
    for serial in (7, 8):
        revoked = x509.RevokedCertificateBuilder(serial_number=serial, revocation_date=made)
        builder = builder.add_revoked_certificate(revoked.build())
    return builder.sign(_key(), hashes.SHA256()).public_bytes(Encoding.DER)


def _key() -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.derive_private_key(12345, ec.SECP256R1())


@cache
def _ca() -> str:
    return _certificate("authority")


def _certificate(name: str, *, client: bool = False) -> str:
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    who = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = (
        x509.CertificateBuilder(issuer, who, _key().public_key(), 7)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=9999))
    )
    if client:
        usage = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(usage, critical=True)
    built = builder.sign(_key(), hashes.SHA256())
    return built.public_bytes(serialization.Encoding.PEM).decode()


_ERRORS = (MessageError, EnrolmentError)
_JSON: dict[str, Callable[[bytes], Any]] = {
    "header": decode_header,
    "plan": decode_plan,
    "state": decode_state,
    "status": decode_status,
    "alarms": decode_alarms,
    "ack": decode_ack,
}
DECODERS = (
    *(Decoder(n, _both_ways(decode), (MessageError,), mutate_json) for n, decode in _JSON.items()),
    Decoder("topic", _topic, (MessageError,)),
    Decoder("request", _request, _ERRORS, mutate_json),
    Decoder("reply", _reply, _ERRORS, mutate_json),
    Decoder("pem", _pem, (EnrolmentError,)),
    Decoder("seal", _seal, (MessageError,)),
    Decoder("offered", _offered, (MessageError,)),
    Decoder("revoked", _revoked, (MessageError,)),
)


def seeds() -> dict[str, list[bytes]]:
    """Make valid inputs."""
    from edge_runtime.device.keys import certificate_request

    plan = {
        "fleet": "f", "id": "0" * 32, "round": 1, "schema_digest": DIGEST, "epsilon_after": 2.0,
        "delta": 1e-5, "deadline_s": 60.0, "quorum": 2,
    }  # fmt: skip
    bundle = {"bundle_digest": DIGEST, "holdout": 0.1}
    moments = MomentsRequest(
        share=0.2, order=1, given=0, groups=2, columns=(1, 2), scores=((0.5, -1.0), (1.0,)),
        clip_norm=2.0,
    )  # fmt: skip
    plans = [
        Plan(kind="census", census_sigma=3.0, **plan),
        Plan(
            kind="train", train=TrainRequest(
                steps=10, expected_batch=32, clip_norm=1.0, learning_rate=0.01
            ),
            rows=RowRequest(share=0.25, minimum=1, maximum=9, clamp="wish", wish=(1.0, 0.5)),
            anchor=AnchorRequest(share=0.2, tables=((0,), (0, 1))),
            score=ScoreRequest(share=0.1, clip_nats=9.0), update=UpdateRequest(clip_norm=5.0),
            **plan, **bundle,
        ),
        Plan(kind="measure", moments=moments, **plan, **bundle),
        Plan(
            kind="sample", rows=RowRequest(share=1.0, minimum=0, maximum=5),
            bundle_digest=DIGEST, **plan,
        ),
    ]  # fmt: skip
    messages: dict[str, list[msgspec.Struct]] = {
        "header": [header("batch"), header("anchor", note="x")],
        "plan": list(plans),
        "state": [DeviceState(device="d", status="training", epsilon_spent=1.0, epsilon_limit=8.0)],
        "status": [
            AggregatorStatus(
                phase="round", devices={"d": DeviceProgress(status="idle")}, metrics={"nll": 1.5}
            )
        ],
        "alarms": [
            Alarms(fleet="f", alarms=(Alarm(kind="tails", severity="warning", subject="load"),))
        ],
        "ack": [Ack(id="0" * 32, sequence=1, sha256=DIGEST, status="accepted")],
    }
    made = {name: [encode_json(m) for m in listed] for name, listed in messages.items()}
    csr = certificate_request(_key(), "d")
    token = {"token": "1" * 32, "nonce": "2" * 32}
    asking = EnrolmentRequest(fleet="f", device="d", request=csr, **token)
    answer = EnrolmentReply(
        status="issued", certificate=_certificate("d"), time_unix_s=1_790_000_000, **token
    )
    made["topic"] = [
        topic.encode()
        for topic in (
            _TOPICS.state("d"), _TOPICS.command("d"), _TOPICS.plan, _TOPICS.bundle(DIGEST),
            f"er/v1/f/enrol/{'1' * 32}/request",
        )
    ]  # fmt: skip
    made["request"] = [encode_sealed(asking, _SECRET)]
    made["reply"] = [encode_sealed(answer, _SECRET)]
    made["seal"] = [
        seal(_BODY, topic=_SEALED_FOR, key=_SECRET, certificate=certificate)
        for certificate in (_client(), b"")
    ]
    made["offered"] = [_client()]
    made["revoked"] = [_list()]
    made["pem"] = [csr.encode(), _certificate("d").encode()]
    return made
