"""Field types shared by all messages, and strict JSON in both directions.

The types carry their constraints, so that one decoder per message checks everything; encoding
decodes its own result once, so that no sender can emit what a strict reader refuses.
"""

from __future__ import annotations

import functools
import re
import threading
import uuid
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from edge_runtime.errors import MessageError, RangeError, SizeError, VersionError

__all__ = [
    "FORMAT_VERSION",
    "Count",
    "Digest",
    "Fraction",
    "Id",
    "MessageId",
    "OptionalDigest",
    "OptionalMessageId",
    "OptionalSeed",
    "PositiveFloat",
    "Text",
    "check_id",
    "decode_json",
    "encode_json",
    "new_id",
]

#: format version of every payload of this release, the `v1` of the topics
FORMAT_VERSION = 1

# `\Z` and not `$`: `$` also matches before a trailing line feed, which is illegal in a topic.
_ID = r"\A(?!all\Z)[a-z0-9][a-z0-9_-]{0,62}\Z"

#: fleet or device; `all` is a topic level of its own, and NATS refuses client ids with dots
Id = Annotated[str, Meta(pattern=_ID)]
#: a uuid4 as 32 hexadecimal digits
MessageId = Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]
#: a SHA-256 as 64 hexadecimal digits
Digest = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
OptionalMessageId = Annotated[str, Meta(pattern=r"\A(?:[0-9a-f]{32})?\Z")]
OptionalDigest = Annotated[str, Meta(pattern=r"\A(?:[0-9a-f]{64})?\Z")]
#: a public 32-byte sampling key, or nothing
OptionalSeed = Annotated[str, Meta(pattern=r"\A(?:[0-9a-f]{64})?\Z")]
#: counters and sizes: SQLite and Arrow hold signed 64-bit integers
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
#: a share, a progress
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
PositiveFloat = Annotated[float, Meta(gt=0.0)]
#: text for people
Text = Annotated[str, Meta(max_length=2000)]

_T = TypeVar("_T", bound=msgspec.Struct)


class _Probe(msgspec.Struct):
    # Read before anything else: a newer version may have fields this release does not know.
    version: int


_MAKING = threading.Lock()
_PROBE = msgspec.json.Decoder(_Probe)


def new_id() -> str:
    """Return a fresh message or plan id: a uuid4 as 32 hexadecimal digits."""
    return uuid.uuid4().hex


def check_id(value: str, *, what: str) -> str:
    """Return `value` when it can be the id of a fleet or device.

    Raises
    ------
    RangeError
        For anything but 1 to 63 of `a-z 0-9 _ -`, starting with a letter or digit, and for `all`.
    """
    if re.match(_ID, value) is None:
        raise RangeError(
            f"{what} {value!r} is not usable in topics; use 1 to 63 of a-z, 0-9, '_' and '-', "
            "starting with a letter or digit, and not 'all'"
        )
    return value


def encode_json(message: msgspec.Struct) -> bytes:
    """Encode a message, having checked that a strict reader gets the same object back.

    Raises
    ------
    RangeError
        A field has a value that the format does not allow, such as an infinite epsilon.
    """
    kind = type(message)
    try:
        data = msgspec.json.encode(message)
        again = _decoder(kind).decode(data)
    except (msgspec.MsgspecError, OverflowError, TypeError, UnicodeEncodeError) as error:
        raise RangeError(f"{kind.__name__}: {error}") from error
    if again != message:
        # JSON has no inf and nan: they would arrive as null, which for an epsilon means
        # "without privacy".
        raise RangeError(f"{kind.__name__}: a number is infinite or not a number: {message!r}")
    return data


def decode_json(data: bytes, kind: type[_T], *, limit: int) -> _T:
    """Decode and check one JSON message.

    Parameters
    ----------
    data : bytes
        UTF-8 JSON.
    kind : type
        The `msgspec.Struct` to decode into.
    limit : int
        Most bytes accepted.

    Raises
    ------
    SizeError, VersionError, RangeError, MessageError
        Too large; of another version; a field is missing, unknown or out of range; not JSON.
    """
    name = kind.__name__
    if len(data) > limit:
        raise SizeError(f"{name}: {len(data)} bytes, at most {limit} are accepted")
    version = _guarded(_PROBE.decode, data, name).version
    if version != FORMAT_VERSION:
        raise VersionError(
            f"{name}: format version {version}, this release reads {FORMAT_VERSION}; "
            "update the older side"
        )
    decoded: _T = _guarded(_decoder(kind).decode, data, name)
    return decoded


def _decoder(kind: type[_T]) -> msgspec.json.Decoder[_T]:
    # One thread at a time: msgspec notes a half-made description of a type, and another thread that
    # decodes by it ends the process with a segmentation fault.
    with _MAKING:
        return _made_decoder(kind)


@functools.cache
def _made_decoder(kind: type[_T]) -> msgspec.json.Decoder[_T]:
    return msgspec.json.Decoder(kind)


def _guarded(decode: Any, data: bytes, name: str) -> Any:
    try:
        return decode(data)
    except msgspec.ValidationError as error:
        raise RangeError(f"{name}: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"{name}: not valid JSON: {error}") from error
