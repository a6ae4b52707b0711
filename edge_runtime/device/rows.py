"""A device's synthetic rows; drawn again, with the same conditions, until they can be kept.

Codes are sent, not values; what is checked here is whether values inside the bins can keep the
constraints of the schema. The release, which decodes, settles the rest. Which rows are drawn again
follows from the network's own rows alone and costs no privacy.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.device.bench import Bench
from edge_runtime.device.closeness import replace_close
from edge_runtime.generator import Bundle, Engine, Weights, open_engine, sample_codes
from edge_runtime.schema import Rules

__all__ = ["BATCH_ROWS", "Drawn", "Redraw", "draw_rows"]

_LOG = logging.getLogger(__name__)

#: most synthetic rows in one message: small enough to send again after a broken connection
BATCH_ROWS = 4096

I32 = npt.NDArray[np.int32]

#: a row is drawn again so often: of a network whose rows are possible every second time, one in
#: four thousand millions is left out
_TRIES = 32


class Redraw:
    """Draws rows of a sequence in place of others; every call goes on where the last one ended.

    Parameters
    ----------
    engine : Engine
    rules : Rules
        Of the engine's codec.
    key : bytes
        That of the sequence.
    clamp : mapping of int to int32 [rows]
        Codes of the leading columns of every row.
    offset : int
        The first row of the sequence that is not in use.

    Attributes
    ----------
    drawn : int
        Rows drawn here so far.
    """

    def __init__(
        self, engine: Engine, rules: Rules, *, key: bytes, clamp: Mapping[int, I32], offset: int
    ) -> None:
        self._engine, self._rules = engine, rules
        self._key, self._clamp, self._offset = key, clamp, offset
        self.drawn = 0

    def __call__(self, at: npt.NDArray[np.intp]) -> I32:
        """Fresh rows int32 [k, D] in place of those at k indices, possible ones where found."""
        return self.made_possible(self._draw(at), at)

    def made_possible(self, codes: I32, at: npt.NDArray[np.intp]) -> I32:
        """Draw impossible rows again; some may remain.

        Parameters
        ----------
        codes : int32 [k, D]
            Changed in place.
        at : intp [k]
            Their indices among all rows.
        """
        waiting = np.flatnonzero(~self._rules.possible(codes))
        for _ in range(_TRIES):
            if not len(waiting):
                break
            codes[waiting] = self._draw(at[waiting])
            waiting = waiting[~self._rules.possible(codes[waiting])]
        return codes

    def _draw(self, at: npt.NDArray[np.intp]) -> I32:
        wanted = {column: codes[at] for column, codes in self._clamp.items()}
        fresh = sample_codes(
            self._engine, len(at), key=self._key, offset=self._offset, clamp=wanted
        )
        self._offset += len(at)
        self.drawn += len(at)
        return fresh


class Drawn(NamedTuple):
    """Rows in pieces of one message each, and how many rows were drawn for them."""

    pieces: list[npt.NDArray[np.uint16]]
    drawn: int


def draw_rows(
    bench: Bench,
    bundle: Bundle,
    weights: Weights,
    *,
    rows: int,
    key: bytes,
    clamp: Mapping[int, npt.NDArray[np.int32]],
    real: npt.NDArray[np.int32] | None,
) -> Drawn:
    """Draw rows from the trained network that can keep the constraints.

    Parameters
    ----------
    bench : Bench
        For the engine's configuration, and to show how far it is.
    bundle : Bundle
    weights : Weights
        The device's own.
    rows : int
        How many; fewer are returned where no draw could do.
    key : bytes
        32 public bytes.
    clamp : mapping of int to int32 [rows]
        Codes of the leading columns.
    real : int32 [m, D], optional
        PRIVATE: real rows to stay away from, WITHOUT PRIVACY only; see `closeness`.
    """
    engine = open_engine(
        bundle,
        weights=weights,
        engine=bench.config.engine.name,
        threads=bench.config.engine.threads,
    )
    rules = Rules(bundle.codec)
    redraw = Redraw(engine, rules, key=key, clamp=clamp, offset=rows)
    pieces = []
    try:
        for start in range(0, rows, BATCH_ROWS):
            size = min(BATCH_ROWS, rows - start)
            codes = sample_codes(
                engine, size, key=key, offset=start, clamp=_slice(clamp, start, size)
            )
            codes = redraw.made_possible(codes, np.arange(start, start + size))
            pieces.append(codes.astype(np.uint16))
            bench.reporter.set(progress=(start + size) / rows)
        drawn = rows + redraw.drawn
        if real is not None:
            pieces = _away(bundle, pieces, redraw=redraw, real=real)
    finally:
        engine.close()
    if not rules.active:
        return Drawn(pieces, drawn)
    kept = [piece[rules.possible(piece.astype(np.int32))] for piece in pieces]
    _LOG.info("%d rows drawn for %d that can keep the constraints", drawn, sum(map(len, kept)))
    return Drawn([piece for piece in kept if len(piece)], drawn)


def _away(
    bundle: Bundle,
    pieces: list[npt.NDArray[np.uint16]],
    *,
    redraw: Redraw,
    real: npt.NDArray[np.int32],
) -> list[npt.NDArray[np.uint16]]:
    """Replace rows that lie too close to real ones; WITHOUT PRIVACY only, see `closeness`."""
    codes = np.concatenate(pieces).astype(np.int32)
    made = replace_close(codes, real=real, codec=bundle.codec, redraw=redraw)
    _LOG.info(
        "WITHOUT PRIVACY: %d of %d synthetic rows lay closer to a real row than real rows to each "
        "other and were drawn again, %d of them in vain",
        made.close,
        len(codes),
        made.left_out,
    )
    return [
        made.codes[start : start + BATCH_ROWS].astype(np.uint16)
        for start in range(0, len(made.codes), BATCH_ROWS)
    ]


def _slice(
    clamp: Mapping[int, npt.NDArray[np.int32]], start: int, rows: int
) -> dict[int, npt.NDArray[np.int32]]:
    return {column: codes[start : start + rows] for column, codes in clamp.items()}
