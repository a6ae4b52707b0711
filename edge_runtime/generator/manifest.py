"""The manifest: what a bundle's other members must be, byte for byte."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
import numpy as np

from edge_runtime.errors import BundleError
from edge_runtime.generator.archive import first_member

__all__ = ["MANIFEST", "VERSION", "Member", "Noise", "encode", "read", "read_format", "sealed"]

#: Name of the member, always the first.
MANIFEST = "manifest.json"
#: Version of all kinds of bundles.
VERSION = 1
#: Of a member that is JSON or text: objects take twenty times the bytes that they are written in.
_MOST_TEXT_BYTES = 8 << 20

M = TypeVar("M", bound=msgspec.Struct)


class Member(msgspec.Struct, forbid_unknown_fields=True):
    """Size and SHA-256 of a member."""

    bytes: int
    sha256: str


class Noise(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A segment of a graph's noise: `width` numbers per row of one kind."""

    kind: str
    width: int


def sealed(members: Mapping[str, bytes]) -> dict[str, Member]:
    """Return what the manifest says about the other members."""
    return {
        name: Member(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in members.items()
    }


def encode(value: object) -> bytes:
    """Write JSON with sorted keys.

    Raises
    ------
    TypeError, ValueError
        For what has no JSON form.
    """
    plain = msgspec.to_builtins(value, enc_hook=_plain_number)
    # The standard encoder refuses NaN, which msgspec would quietly write as null.
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _plain_number(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def read_format(data: bytes) -> str:
    """Name of a bundle's format, empty where it cannot be told."""
    manifest = first_member(data, MANIFEST)
    if len(manifest) > _MOST_TEXT_BYTES:
        return ""
    try:
        head = msgspec.json.decode(manifest)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return ""
    found = head.get("format") if isinstance(head, dict) else ""
    return found if isinstance(found, str) else ""


def read(members: Mapping[str, bytes], *, type: type[M], format: str) -> M:  # noqa: A002
    """Read the manifest and hold the other members to it.

    Parameters
    ----------
    members : mapping of str to bytes
        All of the bundle.
    type : type
        The manifest's structure; it has `members`.
    format : str
        The format expected.

    Raises
    ------
    BundleError
        If it is of another format or version, or any member is not the one it lists.
    """
    for name, data in members.items():
        if name.endswith((".json", ".md")) and len(data) > _MOST_TEXT_BYTES:
            raise BundleError(f"{name} has {len(data)} bytes; at most {_MOST_TEXT_BYTES} are")
    raw = members[MANIFEST]
    try:
        head = msgspec.json.decode(raw, type=dict[str, Any])
        if head.get("format") != format or head.get("version") != VERSION:
            raise BundleError(
                f"format {head.get('format')!r} version {head.get('version')!r}; this release "
                f"reads {format!r} version {VERSION}"
            )
        manifest = msgspec.json.decode(raw, type=type)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BundleError(f"manifest.json is not valid: {error}") from error
    listed: dict[str, Member] = manifest.members  # type: ignore[attr-defined]
    if set(listed) != set(members) - {MANIFEST}:
        raise BundleError("manifest.json does not list exactly the members of the bundle")
    for name, member in listed.items():
        data = members[name]
        if len(data) != member.bytes or hashlib.sha256(data).hexdigest() != member.sha256:
            raise BundleError(f"{name} does not match its digest in the manifest; fetch it again")
    return manifest
