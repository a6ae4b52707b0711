"""From the source to local codes, each row exactly once per codec."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.device.holdout import forget_holdout
from edge_runtime.device.source import Piece, Position, Source
from edge_runtime.device.store import CodeSet, Store
from edge_runtime.schema import Codec, Schema, census_cells, census_counts

__all__ = ["Intake"]

_KEY = "intake"


class _Mark(msgspec.Struct, frozen=True):
    codec_digest: str
    position: Position


class Intake:
    """Takes rows from a source into the store; `open_intake` makes the one that a schema needs.

    Parameters
    ----------
    store : Store
        Of the calling thread.
    source : Source
        Where rows come from.
    schema : Schema
        What they must satisfy.
    """

    #: rows that are read again have the places in the store that they had
    keeps_places = True

    def __init__(self, *, store: Store, source: Source, schema: Schema) -> None:
        self._store = store
        self._source = source
        self._schema = schema

    def census(self, *, should_stop: Callable[[], bool]) -> list[npt.NDArray[np.int64]] | None:
        """Count the cells of every column over all rows there are now.

        Reads the whole source, as the grid of the census is finer than any codec.

        Returns
        -------
        list of int64 [cells], or None when told to stop.
            PRIVATE: exact counts, to be released with noise only.
        """
        position: Position | None = None
        totals = self._no_cells()
        while True:
            if should_stop():
                return None
            piece = self._source.read(self._schema, position)
            if piece.restarted:
                totals = self._no_cells()
            for total, counts in zip(totals, census_counts(piece.table, self._schema), strict=True):
                total += counts  # noqa: PLW2901 - in place, on purpose
            position = piece.position
            if not piece.more:
                return totals

    def _no_cells(self) -> list[npt.NDArray[np.int64]]:
        return [np.zeros(cells, dtype=np.int64) for cells in census_cells(self._schema)]

    def advance(self, codec: Codec) -> bool:
        """Take one piece of new rows; return whether more are there right now.

        Codes of another codec are dropped: the source can be read again.

        Raises
        ------
        DataError
            When the source has a value that the schema does not allow; nothing of the piece is
            taken.
        StoreError
            When the store is full; what was taken stays.
        """
        return self._take(
            codec.digest,
            lambda piece: self._store.append_codes(codec.digest, codec.encode(piece.table).codes),
        )

    def _take(self, digest: str, keep: Callable[[Piece], None]) -> bool:
        """Read one piece and keep it in one transaction with the position after it.

        Parameters
        ----------
        digest : str
            Of what makes the codes; those that something else made are dropped.
        keep : callable (Piece)
            Puts the rows of the piece into the store.
        """
        mark = self._mark()
        known = mark is not None and mark.codec_digest == digest
        piece = self._source.read(self._schema, mark.position if mark and known else None)
        still = known and not piece.restarted and mark and piece.position == mark.position
        if still and not piece.ended:
            return piece.more
        with self._store.transaction():
            if not known or piece.restarted:
                self._store.drop_codes()
            if piece.restarted or not (known or self.keeps_places):
                forget_holdout(self._store)
            keep(piece)
            self._store.put(
                _KEY, msgspec.json.encode(_Mark(codec_digest=digest, position=piece.position))
            )
        return piece.more

    def _mark(self) -> _Mark | None:
        data = self._store.get(_KEY)
        return None if data is None else msgspec.json.decode(data, type=_Mark)

    def codes(self, codec: Codec, *, up_to_part: int | None = None) -> CodeSet:
        """Local codes of a codec: int32 [rows, columns], also when there are no rows."""
        stored = self._store.read_codes(codec.digest, up_to_part=up_to_part)
        if stored.codes.shape[0] == 0:
            empty = np.zeros((0, len(codec.cardinalities)), dtype=np.int32)
            return CodeSet(empty, stored.last_part)
        return stored

    def narrow_codes(self, codec: Codec, *, up_to_part: int) -> npt.NDArray[np.unsignedinteger]:
        """Local codes as `codes` gives them, in the narrowest type: training holds them for long.

        Returns
        -------
        uint8, uint16 or uint32 [rows, columns]
        """
        dtype = np.min_scalar_type(max(codec.cardinalities) - 1)
        stored = self._store.read_narrow_codes(codec.digest, up_to_part=up_to_part, dtype=dtype)
        return stored if len(stored) else np.zeros((0, len(codec.cardinalities)), dtype)
