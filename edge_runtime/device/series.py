"""From ordered rows to windows in the store, each row in exactly one.

What a window holds depends on its own rows alone. Rows may come late, twice or out of order; a
window is found by its entity, its static values and its place on the grid, and of two rows in one
place the first stays. A window counts once half of its rows are there and it is not the last one of
its entity, which may still grow; once the source has ended, also if it grows later, all count that
have half of their rows. So the windows that count with one window's rows and without them differ by
one window: by that one, or, where it was the last of its entity, by the one before, which then
waits in its stead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.device.intake import Intake
from edge_runtime.device.source import Piece, Source
from edge_runtime.device.store import Code, CodeSet, Store
from edge_runtime.schema import (
    Codec,
    Schema,
    Table,
    cell_codes,
    census_cells,
    census_schema,
    count_cells,
    grid_slots,
    label_codes,
    long_codec,
)

__all__ = ["SeriesIntake", "open_intake"]

I32 = npt.NDArray[np.int32]
_KEY_BYTES = 16
#: the highest number that a window ever had, and whether the source has ended once
_NUMBERED, _ENDED = "windows.numbered", "windows.ended"


def open_intake(*, store: Store, source: Source, schema: Schema) -> Intake:
    """Make the intake that a schema needs, of rows or of windows.

    Parameters
    ----------
    store, source
        As `Intake`.
    schema : Schema
        Of the rows in the source.
    """
    made = Intake if schema.sequence is None else SeriesIntake
    return made(store=store, source=source, schema=schema)


class _Coder(NamedTuple):
    """Makes codes int32 [rows, columns of a step] of rows, and names them."""

    digest: str
    encode: Callable[[Table], I32]
    #: of the columns of a step, static ones first
    cardinalities: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[npt.NBitBase]]:
        """Narrowest type of a code, the same in every window."""
        most = max(self.cardinalities)
        return np.dtype("<u1" if most <= 1 << 8 else "<u2" if most <= 1 << 16 else "<u4")


class _Window(NamedTuple):
    """A window as the store has it: `codes` are unsigned [static + steps * changing]."""

    series: bytes
    place: int
    static: bytes
    filled: bytearray
    codes: npt.NDArray[np.unsignedinteger[npt.NBitBase]]


class SeriesIntake(Intake):
    """Takes rows in sequence and keeps windows: its codes are theirs.

    Parameters
    ----------
    store, source
        As `Intake`.
    schema : Schema
        Of the rows; its sequence has a grid.
    """

    #: windows that are read again come in another order, so who is held out is drawn anew
    keeps_places = False

    def __init__(self, *, store: Store, source: Source, schema: Schema) -> None:
        super().__init__(store=store, source=source, schema=schema)
        assert schema.sequence is not None, "Intake is for rows without order"
        self._sequence = schema.sequence
        self._steps = census_schema(schema.learnt)

    def census(self, *, should_stop: Callable[[], bool]) -> list[npt.NDArray[np.int64]] | None:
        """Count the cells of every column over all steps of all windows that count.

        Static columns are counted once per step as well. The cells of the windows are kept in the
        store until there is a codec: a source of any length fits.

        Returns
        -------
        list of int64 [cells], or None when told to stop.
            PRIVATE. A window adds as much as it has steps to every histogram.
        """
        cells = census_cells(self._steps)[: len(self._steps.columns)]
        coder = _Coder(
            f"cells of {self._steps.digest}",
            lambda table: cell_codes(self._step_table(table, self._steps), self._steps),
            cells,
        )
        while self._take(coder.digest, lambda piece: self._keep(piece, coder)):
            if should_stop():
                return None
        windows, _ = self._read(coder, None, np.dtype(np.int32))
        static, steps = len(self._sequence.static), self._sequence.steps
        changing = windows[:, static:].reshape(len(windows) * steps, len(cells) - static)
        laid_out = np.hstack([np.repeat(windows[:, :static], steps, axis=0), changing])
        return count_cells(laid_out, self._steps)

    def advance(self, codec: Codec) -> bool:
        """Take one piece of new rows; see `Intake.advance`.

        Parameters
        ----------
        codec : Codec
            Of windows.
        """
        coder = self._coder(codec)
        return self._take(coder.digest, lambda piece: self._keep(piece, coder))

    def codes(self, codec: Codec, *, up_to_part: int | None = None) -> CodeSet:
        """Codes of the windows that count, int32 [windows, columns], in the order they began to."""
        return CodeSet(*self._read(self._coder(codec), up_to_part, np.dtype(np.int32)))

    def narrow_codes(self, codec: Codec, *, up_to_part: int) -> npt.NDArray[np.unsignedinteger]:
        """See `Intake.narrow_codes`."""
        coder = self._coder(codec)
        return self._read(coder, up_to_part, np.dtype(coder.dtype))[0]

    def _coder(self, codec: Codec) -> _Coder:
        rows = long_codec(codec)
        return _Coder(
            codec.digest,
            lambda table: rows.encode(self._step_table(table, rows.schema)).codes,
            rows.cardinalities,
        )

    @staticmethod
    def _step_table(table: Table, schema: Schema) -> Table:
        return Table(
            schema=schema,
            columns={name: table.columns.held(name) for name in schema.names},
            missing={name: table.missing[name] for name in schema.names},
            file=table.file,
            first_row=table.first_row,
        )

    def _keep(self, piece: Piece, coder: _Coder) -> None:
        """Add rows to their windows, inside the caller's transaction."""
        changed: dict[tuple[bytes, int, bytes], _Window] = {}
        if piece.table.rows:
            codes = coder.encode(piece.table)
            places, steps = np.divmod(grid_slots(piece.table, self._sequence), self._sequence.steps)
            series = _keys(piece.table, (self._sequence.entity,) if self._sequence.entity else ())
            static = _keys(piece.table, self._sequence.static)
            for row, key in enumerate(zip(series, places.tolist(), static, strict=True)):
                window = changed.get(key) or self._window(key, codes[row], coder)
                changed[key] = window
                self._fill(window, int(steps[row]), codes[row])
        self._write(list(changed.values()))
        # That it once ended stays: a last window counts since then, and must not, beside itself,
        # make those before it count.
        if piece.ended and self._store.get(_ENDED) is None:
            self._store.put(_ENDED, b"1")
        self._count(ended=self._store.get(_ENDED) is not None)

    def _window(self, key: tuple[bytes, int, bytes], row: I32, coder: _Coder) -> _Window:
        """Return the window of this key as it is stored, or a new one without rows."""
        found = self._store.connection.execute(
            "SELECT filled, packed FROM windows WHERE series = ? AND place = ? AND static = ?", key
        ).fetchone()
        if found is not None:
            return _Window(*key, bytearray(found[0]), np.frombuffer(found[1], coder.dtype).copy())
        static, steps = len(self._sequence.static), self._sequence.steps
        # The last code of a column that changes is "missing".
        absent = [k - 1 for k in coder.cardinalities[static:]] * steps
        codes = np.array([*row[:static].tolist(), *absent], coder.dtype)
        return _Window(*key, bytearray(steps), codes)

    def _fill(self, window: _Window, step: int, row: I32) -> None:
        if window.filled[step]:
            return
        static = len(self._sequence.static)
        first = static + step * (len(row) - static)
        window.codes[first : first + len(row) - static] = row[static:]
        window.filled[step] = 1

    def _write(self, windows: list[_Window]) -> None:
        """Put windows back, those that are new behind the others."""
        if windows:
            self._store.check_room(len(windows) * windows[0].codes.nbytes)
        self._store.connection.executemany(
            "INSERT INTO windows (series, place, static, filled, enough, packed) "
            "VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (series, place, static) "
            "DO UPDATE SET filled = ?4, enough = ?5, packed = ?6",
            (
                (
                    window.series,
                    window.place,
                    window.static,
                    bytes(window.filled),
                    2 * sum(window.filled) >= self._sequence.steps,
                    window.codes.tobytes(),
                )
                for window in windows
            ),
        )

    def _count(self, *, ended: bool) -> None:
        """Give a number to the windows that count from now on; it stays for ever.

        No number comes twice, not even when all windows were dropped: a training that goes on then
        must find none of those it began with, and not as many others. Which ones come first depends
        on where pieces end, and with it on every row.
        """
        connection = self._store.connection
        found = connection.execute(
            "SELECT number FROM windows AS w WHERE counted IS NULL AND enough AND (?1 OR EXISTS ("
            "SELECT 1 FROM windows AS later WHERE later.series = w.series "
            "AND (later.place, later.static) > (w.place, w.static))) ORDER BY number",
            (ended,),
        ).fetchall()
        last = self._store.counter(_NUMBERED, add=len(found)) - len(found)
        connection.executemany(
            "UPDATE windows SET counted = ? WHERE number = ?",
            ((last + 1 + place, number) for place, (number,) in enumerate(found)),
        )

    def _read(
        self, coder: _Coder, up_to_part: int | None, dtype: np.dtype[Code]
    ) -> tuple[npt.NDArray[Code], int]:
        static = len(self._sequence.static)
        width = static + (len(coder.cardinalities) - static) * self._sequence.steps
        mark = self._mark()
        if mark is None or mark.codec_digest != coder.digest:
            return np.zeros((0, width), dtype), 0
        limit = (up_to_part if up_to_part is not None else 1 << 62,)
        connection = self._store.connection
        # All at once: joined later they would need the memory twice.
        count, last = connection.execute(
            "SELECT COUNT(*), COALESCE(MAX(counted), 0) FROM windows WHERE counted <= ?", limit
        ).fetchone()
        codes = np.empty((count, width), dtype)
        found = connection.execute(
            "SELECT packed FROM windows WHERE counted <= ? ORDER BY counted", limit
        )
        for place, (packed,) in enumerate(found):
            codes[place] = np.frombuffer(packed, coder.dtype)
        return codes, last


def _keys(table: Table, names: tuple[str, ...]) -> list[bytes]:
    """Return a short key of what each row has in these columns; equal values, equal keys.

    Not the values themselves: the store has codes of real rows and nothing more.
    """
    if not names:
        return [b""] * table.rows
    numbers = np.zeros((table.rows, 2 * len(names)), np.int64)
    for at, name in enumerate(names):
        column = table.schema.columns[table.schema.index(name)]
        values = table.columns[name] if column.numeric else label_codes(column, table)[0]
        if values.dtype == np.float64:
            # Adding 0 makes one number of both zeros.
            values = (values + 0.0).view(np.int64)
        gone = table.missing[name]
        numbers[:, 2 * at] = np.where(gone, 0, values)
        numbers[:, 2 * at + 1] = gone
    distinct, which = np.unique(numbers, axis=0, return_inverse=True)
    keys = [hashlib.blake2b(row.tobytes(), digest_size=_KEY_BYTES).digest() for row in distinct]
    return [keys[number] for number in which.reshape(-1).tolist()]
