"""Where real rows come from: pieces of a table, in order, from a remembered position.

A source never keeps rows itself. It hands out pieces that fit in memory, each with the position
after it, and the caller stores both in one transaction: every row is taken exactly once, however
often the process is killed. A source can be read again from its start, which is what a new codec
needs.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
import numpy as np

from edge_runtime.device.config import SourceConfig
from edge_runtime.errors import ConfigError, DataError
from edge_runtime.schema import WATERMARK, Schema, Table, read_table, refuse_synthetic

__all__ = ["SOURCES", "CsvSource", "Piece", "Position", "Source", "open_source"]


#: how Arrow and Parquet files begin
_OTHER_KINDS = (b"ARROW1", b"PAR1")
#: where the mark of synthetic rows is looked for, at either end
_MARK_BYTES = 1 << 20

#: enough to tell two files of the same kind apart, cheap to read again
_TAIL_BYTES = 256


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """A place between two rows of a source.

    Parameters
    ----------
    offset : int
        Where the next row starts, in the source's own unit (bytes for a file).
    rows : int
        Data rows before it; private, as it counts real rows.
    identity : str
        Names what was read so far; when it no longer fits, the source was replaced.
    """

    offset: int
    rows: int
    identity: str

    def to_bytes(self) -> bytes:
        """Encode for the store."""
        return msgspec.json.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Position:
        """Decode what `to_bytes` made."""
        return msgspec.json.decode(data, type=cls)


class Piece(NamedTuple):
    """Consecutive rows of a source."""

    table: Table
    #: the position after these rows
    position: Position
    #: more rows are there right now
    more: bool
    #: the source was replaced: these rows are its first, and those taken before are gone
    restarted: bool
    #: nothing comes after these rows
    ended: bool = False


class Source(Protocol):
    """What the device asks of a source of real rows."""

    def read(self, schema: Schema, position: Position | None) -> Piece:
        """Read the rows after a position, or from the start.

        Parameters
        ----------
        schema : Schema
            What the rows must satisfy.
        position : Position or None
            The position of the piece before; None starts at the first row.

        Returns
        -------
        Piece
            Possibly without rows, when nothing new is there.

        Raises
        ------
        DataError
            When the source is missing or holds a value that the schema does not allow.
        """
        ...


class CsvSource:
    """A CSV file with a header line, which may grow while it is read.

    Only complete records are taken: a writer may be in the middle of the last line. A line break
    inside quotes does not end a record (RFC 4180).

    Parameters
    ----------
    path : Path
        The file, UTF-8.
    follow : bool
        True: a last line without a line break is unfinished. False: the file is complete.
    piece_bytes : int
        Bytes per piece; grows for a longer record, up to `max_record_bytes`. While it is parsed a
        piece takes forty times as much, which stays; smaller ones make more transactions.
    max_record_bytes : int
        A record longer than this is refused.
    """

    def __init__(
        self,
        *,
        path: Path,
        follow: bool = True,
        piece_bytes: int = 32 << 10,
        max_record_bytes: int = 4 << 20,
    ) -> None:
        if piece_bytes < 1 or max_record_bytes < 1:
            raise ConfigError("piece_bytes and max_record_bytes must be positive")
        self._path = path
        self._follow = follow
        self._piece_bytes = piece_bytes
        self._max_record_bytes = max_record_bytes

    def read(self, schema: Schema, position: Position | None) -> Piece:
        """Read the next complete records; see `Source.read`."""
        try:
            with self._path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                self._refuse_other_kinds(file, size)
                header, start = self._records(file, 0, limit=1)
                restarted = position is not None and (
                    position.offset > size
                    or position.identity != _identity(file, header, position.offset)
                )
                if position is None or restarted:
                    position = Position(offset=start, rows=0, identity="")
                if not header:
                    body, end = b"", position.offset
                else:
                    body, end = self._records(file, position.offset)
                identity = _identity(file, header, end)
        except OSError as error:
            raise DataError(
                f"cannot be read ({error.strerror})",
                file=str(self._path),
                hint="check source.path in the device's configuration",
            ) from error
        table = self._parse(header, body, schema, first_row=position.rows + 1)
        after = Position(offset=end, rows=position.rows + table.rows, identity=identity)
        return Piece(
            table,
            after,
            more=bool(body) and end < size,
            restarted=restarted,
            ended=not self._follow and end >= size,
        )

    def _refuse_other_kinds(self, file: io.BufferedReader, size: int) -> None:
        """Refuse Parquet and Arrow by name, and synthetic rows among them as what they are.

        Converting such a file to CSV, as "not UTF-8" would suggest, loses the mark.
        """
        if not file.read(len(_OTHER_KINDS[0])).startswith(_OTHER_KINDS):
            return
        # The schema is in the first message of an Arrow file and in the footer of a Parquet file.
        ends = file.read(_MARK_BYTES)
        file.seek(max(0, size - _MARK_BYTES))
        if WATERMARK.encode() in ends + file.read():
            refuse_synthetic({}, file=str(self._path))
        raise DataError(
            "is a Parquet or Arrow file, not CSV", file=str(self._path), hint="convert it first"
        )

    def _records(
        self, file: io.BufferedReader, offset: int, *, limit: int | None = None
    ) -> tuple[bytes, int]:
        """Bytes of the complete records from an offset on, and the offset after them."""
        wanted = self._piece_bytes
        while True:
            file.seek(offset)
            data = file.read(wanted)
            at_end = len(data) < wanted
            ends = _record_ends(data)
            if at_end and not self._follow and (ends.size == 0 or ends[-1] < len(data)):
                ends = np.append(ends, len(data)) if data else ends
            if ends.size:
                last = int(ends[0] if limit == 1 else ends[-1])
                return data[:last], offset + last
            if at_end:
                return b"", offset
            if wanted >= self._max_record_bytes:
                raise DataError(
                    f"has a record of more than {self._max_record_bytes} bytes",
                    file=str(self._path),
                    hint="an unclosed quote, most likely",
                )
            wanted *= 2

    def _parse(self, header: bytes, body: bytes, schema: Schema, *, first_row: int) -> Table:
        try:
            text = header.decode("utf-8-sig") + body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                "is not UTF-8", file=str(self._path), hint="convert the file to UTF-8"
            ) from error
        if not header:
            names = [column.name for column in schema.columns]
            text = ",".join(f'"{name}"' for name in names) + "\n"
        # Rows that break a constraint are taken as they are. The schema is the aggregator's: a
        # device that stopped, or left them out, would answer what it may ask about rows together.
        return read_table(
            io.StringIO(text),
            schema,
            file=str(self._path),
            first_row=first_row,
            constraints=False,
        )


def _identity(file: io.BufferedReader, header: bytes, offset: int) -> str:
    """Digest of the header and of what stands right before an offset.

    A file that was replaced under the same name and header differs there, unless it is the same
    file grown longer.
    """
    start = max(0, offset - _TAIL_BYTES)
    file.seek(start)
    return hashlib.sha256(header + file.read(offset - start)).hexdigest()


def _record_ends(data: bytes) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Offsets after each line break that lies outside quotes, data starting at a record."""
    raw = np.frombuffer(data, dtype=np.uint8)
    breaks = np.flatnonzero(raw == ord("\n"))
    quotes = np.flatnonzero(raw == ord('"'))
    if quotes.size:
        # A doubled quote inside quotes counts twice and leaves the parity alone.
        breaks = breaks[np.searchsorted(quotes, breaks) % 2 == 0]
    return breaks + 1


#: every source by the `kind` that a configuration names
SOURCES: dict[str, type[CsvSource]] = {"csv": CsvSource}


def open_source(config: SourceConfig) -> Source:
    """Make the source that a configuration describes."""
    return SOURCES[config.kind](path=config.path, follow=config.follow)
