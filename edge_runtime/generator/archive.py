"""A zip file with exactly one possible form: stored members, fixed order, no dates.

Equal members give equal bytes on every machine and Python version, so that a digest names the
content. Reading accepts only that form: what writing the members again does not reproduce byte for
byte (extra fields, comments, hidden or overlapping members, trailing bytes) is refused. Any zip
tool can read the file. Field layout: PKWARE APPNOTE 6.3, sections 4.3.7, 4.3.12 and 4.3.16.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Mapping

from edge_runtime.errors import BundleError

__all__ = ["first_member", "pack", "unpack"]

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
#: Version needed to extract: 1.0, stored files need no more.
_VERSION = 10
#: Made by Unix, so that the permissions below count.
_MADE_BY = (3 << 8) | _VERSION
#: 1980-01-01, the first day that a zip file can name.
_DATE = (0 << 9) | (1 << 5) | 1
#: A regular file, readable by all, writable by its owner.
_PERMISSIONS = 0o100644 << 16


def pack(members: Mapping[str, bytes]) -> bytes:
    """Write members in the given order.

    Parameters
    ----------
    members : mapping of str to bytes
        ASCII names and contents, together below 4 GiB.

    Returns
    -------
    bytes
    """
    body, directory, offset = [], [], 0
    for name, data in members.items():
        encoded = name.encode("ascii")
        common = (0, 0, 0, _DATE, zlib.crc32(data), len(data), len(data), len(encoded), 0)
        local = _LOCAL.pack(b"PK\x03\x04", _VERSION, *common) + encoded
        directory.append(
            _CENTRAL.pack(b"PK\x01\x02", _MADE_BY, _VERSION, *common, 0, 0, 0, _PERMISSIONS, offset)
            + encoded
        )
        body += [local, data]
        offset += len(local) + len(data)
    size = sum(map(len, directory))
    count = len(members)
    end = _END.pack(b"PK\x05\x06", 0, 0, count, count, size, offset, 0)
    return b"".join([*body, *directory, end])


def first_member(data: bytes, name: str) -> bytes:
    """Content of the first member if that is its name, else nothing; checks nothing else."""
    head = b"PK\x03\x04"
    if not data.startswith(head) or len(data) < _LOCAL.size:
        return b""
    size, length = _LOCAL.unpack_from(data)[8:10]
    start = _LOCAL.size + length
    return data[start : start + size] if data[_LOCAL.size : start] == name.encode() else b""


def unpack(
    data: bytes, *, names: Collection[str], optional: Collection[str] = (), max_bytes: int
) -> dict[str, bytes]:
    """Read members written by `pack`.

    Parameters
    ----------
    data : bytes
    names, optional : collection of str
        The members that must be there and those that may be, no others.
    max_bytes : int
        Largest size of `data`; members are stored, so nothing expands.

    Raises
    ------
    BundleError
        For anything that `pack` would not have written.
    """
    if len(data) > max_bytes:
        raise BundleError(f"the bundle has {len(data)} bytes; at most {max_bytes} are accepted")
    members: dict[str, bytes] = {}
    offset = 0
    while data[offset : offset + 4] == b"PK\x03\x04":
        if len(data) < offset + _LOCAL.size:
            raise BundleError("the bundle ends inside a member; fetch it again")
        fields = _LOCAL.unpack_from(data, offset)
        size, length = fields[8], fields[9]
        start = offset + _LOCAL.size + length
        name = data[offset + _LOCAL.size : start].decode("ascii", "backslashreplace")
        if name not in names and name not in optional:
            raise BundleError(f"the bundle has an unexpected member {name[:80]!r}")
        if name in members:
            raise BundleError(f"the bundle has the member {name!r} twice")
        if start + size > len(data):
            raise BundleError(f"member {name!r} claims {size} bytes, more than the bundle has")
        members[name] = data[start : start + size]
        offset = start + size
    missing = sorted(set(names) - set(members))
    if missing:
        raise BundleError(
            f"not a whole bundle: {', '.join(missing)} missing; is the file damaged or another "
            "kind of file?"
        )
    if pack(members) != data:
        raise BundleError("the bundle is damaged, or was changed by another zip tool")
    return members
