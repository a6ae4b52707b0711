"""How a new device and the fleet's issuing authority talk: one request, one answer.

Both know a one-time token. Whoever knows its secret may have one certificate; whoever carries the
messages, the broker included, learns nothing that would let it have one or hand out a wrong one:
request and answer are bound to the secret by HMAC-SHA256 over everything in them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edge_runtime.errors import MessageError, RangeError
from edge_runtime.messages.fields import (
    FORMAT_VERSION,
    Count,
    Digest,
    Id,
    MessageId,
    Text,
    check_id,
    decode_json,
    encode_json,
)

__all__ = [
    "ALL_REQUESTS",
    "EnrolmentReply",
    "EnrolmentRequest",
    "broker_password",
    "decode_reply",
    "decode_request",
    "encode_sealed",
    "is_sealed",
    "reply_topic",
    "request_topic",
    "token_of_topic",
]

#: `er/v1/<fleet>/` and this: where the requests of all devices arrive
ALL_REQUESTS = "enrol/+/request"

#: most bytes of a request or reply: two certificates of a kilobyte each, and room
_LIMIT = 32 << 10
_Pem = Annotated[str, Meta(max_length=8192)]
_TOPIC = re.compile(r"\Aer/v1/[a-z0-9_-]+/enrol/([0-9a-f]{32})/request\Z")


class EnrolmentRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device asks for its certificate.

    Parameters
    ----------
    token : str
        Id of the token, not its secret.
    fleet, device : str
        Which device of which fleet wants to be known.
    request : str
        PKCS #10 certificate request (PEM), signed by the device's own key.
    nonce : str
        Random, new for each attempt; the answer repeats it.
    mac : str
        HMAC-SHA256 under the token's secret; see `encode_sealed`.
    """

    version: int = FORMAT_VERSION
    token: MessageId
    fleet: Id
    device: Id
    request: _Pem
    nonce: MessageId
    mac: Digest | Literal[""] = ""


class EnrolmentReply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The authority's answer.

    Parameters
    ----------
    token, nonce : str
        Of the request.
    status : {"issued", "refused"}
        A refusal is final: asking again with this token will not help.
    certificate : str
        The device's certificate (PEM); empty when refused.
    time_unix_s : int
        The authority's clock: it is not earlier than this.
    reason : str
        Of a refusal, for people.
    mac : str
        HMAC-SHA256 under the token's secret.
    """

    version: int = FORMAT_VERSION
    token: MessageId
    nonce: MessageId
    status: Literal["issued", "refused"]
    certificate: _Pem = ""
    time_unix_s: Count
    reason: Text = ""
    mac: Digest | Literal[""] = ""


def encode_sealed(message: EnrolmentRequest | EnrolmentReply, secret: bytes) -> bytes:
    """Encode a message with its MAC.

    Parameters
    ----------
    message : EnrolmentRequest or EnrolmentReply
        Without a MAC.
    secret : bytes
        Of the token.
    """
    return encode_json(msgspec.structs.replace(message, mac=_mac(message, secret)))


def is_sealed(message: EnrolmentRequest | EnrolmentReply, secret: bytes) -> bool:
    """Return whether the message comes, unchanged, from somebody who knows the secret."""
    return hmac.compare_digest(message.mac, _mac(message, secret))


def decode_request(data: bytes) -> EnrolmentRequest:
    """Decode a request; see `fields.decode_json` for its errors. The MAC is not checked here."""
    return decode_json(data, EnrolmentRequest, limit=_LIMIT)


def decode_reply(data: bytes) -> EnrolmentReply:
    """Decode an answer; see `fields.decode_json` for its errors. The MAC is not checked here."""
    return decode_json(data, EnrolmentReply, limit=_LIMIT)


def request_topic(fleet: str, token: str) -> str:
    """Return the topic that a device with this token asks on."""
    return f"er/v1/{check_id(fleet, what='fleet')}/enrol/{_checked(token)}/request"


def reply_topic(fleet: str, token: str) -> str:
    """Return the topic that a device with this token is answered on."""
    return f"er/v1/{check_id(fleet, what='fleet')}/enrol/{_checked(token)}/reply"


def token_of_topic(topic: str) -> str:
    """Return the token id in the topic of a request.

    Raises
    ------
    MessageError
        It is no such topic.
    """
    found = _TOPIC.match(topic)
    if found is None:
        raise MessageError(f"topic {topic!r} is none of an enrolment request")
    return found[1]


def broker_password(secret: bytes) -> str:
    """Return what a device shows the broker to be let in to ask; it does not betray the secret."""
    mac = hmac.digest(secret, b"edge-runtime broker password", hashlib.sha256)
    return base64.urlsafe_b64encode(mac).decode().rstrip("=")


def _mac(message: EnrolmentRequest | EnrolmentReply, secret: bytes) -> str:
    # JSON of a fixed struct: fields in their order, no white space, so the same on both sides.
    bare = msgspec.json.encode(msgspec.structs.replace(message, mac=""))
    # The name keeps a request from being played back as an answer.
    name = type(message).__name__.encode()
    return hmac.new(secret, name + b"\0" + bare, hashlib.sha256).hexdigest()


def _checked(token: str) -> str:
    if re.fullmatch(r"[0-9a-f]{32}", token) is None:
        raise RangeError(f"token {token!r} is not 32 hexadecimal digits")
    return token
