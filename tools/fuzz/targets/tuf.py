"""Signed metadata: the message it travels in, and what python-tuf makes of it."""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

from securesystemslib.formats import encode_canonical
from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, Root

from edge_runtime import errors
from edge_runtime.device.files import write_durably
from edge_runtime.errors import MessageError, SizeError, UpdateError
from edge_runtime.updates import Envelope, Target, Trusted, decode_envelope, encode_envelope
from edge_runtime.updates.keys import load_roots, load_signer, make_roots
from edge_runtime.updates.repository import Repository
from edge_runtime.updates.trust import Question
from edge_runtime.updates.verify import verify
from tools.fuzz.contract import Decoder
from tools.fuzz.mutations import mutate_json

__all__ = ["DECODERS", "seeds"]

_ROLES = ("targets", "snapshot", "timestamp")
#: the corpus is to be as good in later years
_EXPIRES = "2100-01-01T00:00:00Z"
_PLAN = hashlib.sha256(b"p1").hexdigest()


class _Fleet:
    """A fleet's online keys, which some attacker has: its signatures are right."""

    def __init__(self, directory: Path) -> None:
        make_roots(
            root_key=directory / "root.key",
            online=directory,
            write=lambda path, data, mode: write_durably(path, data, mode=mode),
        )
        self.root = load_roots(directory)[1]
        root = Metadata[Root].from_bytes(self.root.encode()).signed
        self._signers: dict[str, Signer] = {
            role: load_signer(directory, root, role) for role in _ROLES
        }
        repository = Repository(online=directory, last=None)
        plan = Target(role="plan", bytes=2, sha256=_PLAN)
        repository.sign({"plan": plan}, now_unix_s=time.time())
        assert repository.message is not None
        self.message = repository.message
        envelope = decode_envelope(self.message)
        self.contents: dict[str, Any] = {
            role: json.loads(getattr(envelope, role))["signed"] | {"expires": _EXPIRES}
            for role in _ROLES
        }
        # Once more, so that the lengths and hashes in them are those of each other.
        settled = self.envelope("targets", self.contents["targets"])
        self.contents = {role: json.loads(getattr(settled, role))["signed"] for role in _ROLES}

    def envelope(self, role: str, content: object) -> Envelope:
        """Return a message with this content, signed, and named by what lies above it."""
        contents = self.contents | {role: content}
        texts = {"targets": self._text("targets", contents["targets"])}
        for above, below in (("snapshot", "targets"), ("timestamp", "snapshot")):
            if above != role:
                data = texts[below].encode()
                version = contents[below].get("version") if below != role else _version(content)
                meta = {
                    "version": version,
                    "length": len(data),
                    "hashes": {"sha256": hashlib.sha256(data).hexdigest()},
                }
                contents[above] = contents[above] | {"meta": {f"{below}.json": meta}}
            texts[above] = self._text(above, contents[above])
        return Envelope(**texts)

    def _text(self, role: str, content: object) -> str:
        try:
            plain = encode_canonical(content).encode()
        except Exception:  # noqa: BLE001 - it has no canonical form, so no right signature
            plain = b""
        signature = self._signers[role].sign(plain)
        return json.dumps({"signatures": [signature.to_dict()], "signed": content})


@functools.cache
def _fleet() -> _Fleet:
    with tempfile.TemporaryDirectory(prefix="er-fuzz-") as directory:
        return _Fleet(Path(directory))


def _version(content: object) -> object:
    return content.get("version") if isinstance(content, dict) else 1


def _verify(envelope: Envelope) -> Trusted:
    fleet = _fleet()
    question = Question(root=fleet.root, trusted=None, offered=envelope, now_unix_s=0.0)
    with tempfile.TemporaryDirectory(prefix="er-fuzz-") as directory:
        verdict = verify(question, Path(directory))
    if verdict.trusted is None:
        raise getattr(errors, verdict.error)(verdict.reason)
    if verdict.root != fleet.root:
        raise AssertionError("a root was taken that the fleet's did not sign")
    return verdict.trusted


def _envelope(data: bytes) -> None:
    """Verify a message that somebody without keys has changed."""
    trusted = _verify(decode_envelope(data))
    if {name: target.sha256 for name, target in trusted.targets.items()} != {"plan": _PLAN}:
        raise AssertionError("something was trusted that nobody signed")


def _signed(data: bytes) -> None:
    """Verify a role, a zero byte and its content, signed with the fleet's keys."""
    role, _, body = data.partition(b"\0")
    name = role.decode("ascii", "replace")
    if name not in _ROLES:
        raise UpdateError(f"there is no role {name[:40]!r}")
    try:
        envelope = _fleet().envelope(name, json.loads(body))
    except (ValueError, RecursionError) as error:
        raise UpdateError("no JSON") from error
    _verify(decode_envelope(encode_envelope(envelope)))


def _mutate_message(data: bytes, random: Random) -> bytes:
    """Start from a message of this process's own keys, as the corpus's are forgotten."""
    return mutate_json(random.choice((data, _fleet().message)), random)


def _mutate_content(data: bytes, random: Random) -> bytes:
    role, _, body = data.partition(b"\0")
    return role + b"\0" + mutate_json(body, random)


_ERRORS = (MessageError, SizeError, UpdateError)
DECODERS = (
    Decoder("envelope", _envelope, _ERRORS, _mutate_message),
    Decoder("signed", _signed, _ERRORS, _mutate_content),
)


def seeds() -> dict[str, list[bytes]]:
    """Make valid inputs; those of the message itself are signed by keys of their own."""
    fleet = _fleet()
    return {
        "envelope": [fleet.message],
        "signed": [
            role.encode() + b"\0" + json.dumps(content).encode()
            for role, content in fleet.contents.items()
        ],
    }
