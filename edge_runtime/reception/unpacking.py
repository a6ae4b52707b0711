"""A message, unpacked: everything that can be said about it without the aggregator's records.

Decompressing, reading and fingerprinting a batch takes as long as judging and storing it, so it is
done by whoever receives it. Nothing here decides: what is wrong with a message is noted beside it,
and the inbox answers.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.errors import MessageError
from edge_runtime.messages import (
    Header,
    Limits,
    OpenBatch,
    checked_codes,
    open_batch,
    peek_summary,
)
from edge_runtime.reception.fingerprints import Fingerprint, fingerprint

__all__ = ["Incoming", "Parcel", "Rows", "unpack"]


class Incoming(NamedTuple):
    """One message as it came: `kind` is the topic's, "batch" or "summary"."""

    device: str
    kind: str
    payload: bytes


class Rows(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The rows of a batch and their fingerprint, as they travel between two processes.

    Parameters
    ----------
    names : tuple of str
        The columns that the batch has, D of them.
    columns : bytes
        Codes [D, rows], of one or two bytes each, little endian.
    wide : bool
        Whether they have two.
    print_ : tuple
        A `Fingerprint`, its hashes as bytes.
    """

    names: tuple[str, ...]
    columns: bytes
    wide: bool
    print_: tuple[str, bytes, int, int, tuple[int, ...], float]

    @property
    def size_bytes(self) -> int:
        """Of memory, for the most part."""
        return len(self.columns)

    @property
    def fingerprint(self) -> Fingerprint:
        """Of the rows."""
        digest, smallest, rows, distinct, repeats, log_chance = self.print_
        hashes = np.frombuffer(smallest, "<u8")
        return Fingerprint(digest, hashes, rows, distinct, repeats, log_chance)

    def codes(
        self, *, cardinalities: tuple[int, ...], names: tuple[str, ...]
    ) -> npt.NDArray[np.int32]:
        """Return the codes, int32 [rows, D], checked against a codec.

        Raises
        ------
        ShapeError, RangeError
            Other columns; a code out of range.
        """
        flat = np.frombuffer(self.columns, "<u2" if self.wide else np.uint8)
        return checked_codes(
            flat.reshape(len(self.names), -1), self.names, cardinalities=cardinalities, names=names
        )


class Parcel(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A message with all that was found in it.

    Parameters
    ----------
    device, kind, payload
        As `Incoming` has them.
    sha256 : str
        Of the payload.
    key : bytes
        Seals the answer; empty where nothing is sealed.
    header : Header or None
        None where it cannot be read.
    problem : str
        What is wrong with it, as it is told to the device; empty when nothing is.
    rows : Rows or None
        Of a batch without a problem.
    """

    device: str
    kind: str
    payload: bytes
    sha256: str
    key: bytes = b""
    header: Header | None = None
    problem: str = ""
    rows: Rows | None = None


def unpack(message: Incoming, *, limits: Limits, key: bytes = b"") -> Parcel:
    """Read a message as far as it can be read without a codec.

    Parameters
    ----------
    message : Incoming
        From whomever.
    limits : Limits
        Sizes that are refused.
    key : bytes
        Goes with it.
    """
    payload = message.payload
    header, problem, rows = None, "", None
    try:
        if message.kind == "batch":
            opened = open_batch(payload, limits=limits)
            header = opened.header
            rows = _rows(opened)
        else:
            header = peek_summary(payload, limits=limits)
    except MessageError as error:
        problem = str(error)
    sha256 = hashlib.sha256(payload).hexdigest()
    return Parcel(message.device, message.kind, payload, sha256, key, header, problem, rows)


def _rows(opened: OpenBatch) -> Rows:
    columns = opened.columns()
    wide = columns.dtype.itemsize > 1
    print_ = fingerprint(columns.T)
    return Rows(
        tuple(opened.names),
        columns.astype("<u2", copy=False).tobytes() if wide else columns.tobytes(),
        wide,
        (print_.digest, print_.smallest.astype("<u8", copy=False).tobytes(), *print_[2:]),
    )
