"""A device's synthetic rows; drawn again, with the same conditions, until they can be kept.

Codes are sent, not values; what is checked here is whether values inside the bins can keep the
constraints of the schema. The release, which decodes, settles the rest. Which rows are drawn again
follows from the network's own rows alone and costs no privacy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.device.bench import Bench
from edge_runtime.device.closeness import replace_close
from edge_runtime.errors import EngineError, MissingExtraError, PlanError
from edge_runtime.generator import (
    Bundle,
    Engine,
    GraphBundle,
    GraphEngine,
    Opened,
    Weights,
    open_checked,
    open_engine,
    sample_codes,
)
from edge_runtime.messages import Plan, PrivacyStatement, RowRequest, encode_batch
from edge_runtime.schema import Rules, Schema

__all__ = [
    "BATCH_ROWS",
    "CODE_BYTES",
    "UNUSABLE",
    "Drawn",
    "Redraw",
    "check_engine",
    "draw_rows",
    "enqueue_rows",
    "none_kept",
    "open_trained",
    "row_count",
]

_LOG = logging.getLogger(__name__)

#: most synthetic rows in one message: small enough to send again after a broken connection
BATCH_ROWS = 4096
#: at most, of a code on the wire before compression
CODE_BYTES = 2
UNUSABLE = "the trained weights failed their check"

I32 = npt.NDArray[np.int32]

#: a row is drawn again so often: of a network whose rows are possible every second time, one in
#: four thousand millions is left out
_TRIES = 32


class Redraw:
    """Draws rows of a sequence in place of others; every call goes on where the last one ended.

    Parameters
    ----------
    engine : Engine or GraphEngine
    rules : Rules
        Of the engine's codec.
    key : bytes
        That of the sequence.
    clamp : mapping of int to int32 [rows]
        Codes of the leading columns of every row.
    offset : int
        The first row of the sequence that is not in use.
    go_on : callable, optional
        Called now and then; may raise, as `Bench.go_on` does.

    Attributes
    ----------
    drawn : int
        Rows drawn here so far.
    """

    def __init__(
        self,
        engine: Engine | GraphEngine,
        rules: Rules,
        *,
        key: bytes,
        clamp: Mapping[int, I32],
        offset: int,
        go_on: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine, self._rules = engine, rules
        self._key, self._clamp, self._offset = key, clamp, offset
        self._go_on = go_on
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
        fresh = []
        for start in range(0, len(at), BATCH_ROWS):
            self._go_on()
            size = min(BATCH_ROWS, len(at) - start)
            fresh.append(
                sample_codes(
                    self._engine,
                    size,
                    key=self._key,
                    offset=self._offset,
                    clamp=_slice(wanted, start, size),
                )
            )
            self._offset += size
        self.drawn += len(at)
        return np.concatenate(fresh)


class Drawn(NamedTuple):
    """Rows in pieces of one message each, and how many rows were drawn for them."""

    pieces: list[npt.NDArray[np.uint16]]
    drawn: int


def check_engine(bench: Bench, bundle: Bundle) -> None:
    """See whether the configured engine runs a bundle, before anything is paid for its rows.

    Raises
    ------
    PlanError
        When it does not.
    """
    config = bench.config.engine
    try:
        open_engine(bundle, engine=config.name, threads=config.threads).close()
    except (EngineError, MissingExtraError) as error:
        raise PlanError(
            f"this device's engine {config.name!r} cannot run the plan's bundle: {error.public}"
        ) from error


def open_trained(bench: Bench, bundle: Bundle, weights: Weights) -> Opened:
    """Load the trained weights, or the bundle's where they fail their check."""
    config = bench.config.engine
    opened = open_checked(bundle, weights, engine=config.name, threads=config.threads)
    if not opened.own:
        _LOG.error("%s: %s", UNUSABLE, opened.reason)
    _LOG.info(
        "engine %s, weights quantised with a worst error of %.2g nats",
        opened.engine.name,
        opened.worst_error,
    )
    return opened


def draw_rows(
    bench: Bench,
    bundle: Bundle | GraphBundle,
    engine: Engine | GraphEngine,
    *,
    rows: int,
    key: bytes,
    clamp: Mapping[int, npt.NDArray[np.int32]],
    real: npt.NDArray[np.int32] | None = None,
) -> Drawn:
    """Draw rows from a network that can keep the constraints.

    Parameters
    ----------
    bench : Bench
        To show how far it is, and to be asked whether to go on.
    bundle : Bundle or GraphBundle
    engine : Engine or GraphEngine
        Of the bundle; whose weights it runs is the caller's choice.
    rows : int
        How many; fewer are returned where no draw could do.
    key : bytes
        32 public bytes.
    clamp : mapping of int to int32 [rows]
        Codes of the leading columns; of none for a packed graph.
    real : int32 [m, D], optional
        PRIVATE: real rows to stay away from, WITHOUT PRIVACY only; see `closeness`.
    """
    rules = Rules(bundle.codec)
    redraw = Redraw(engine, rules, key=key, clamp=clamp, offset=rows, go_on=bench.go_on)
    pieces = []
    for start in range(0, rows, BATCH_ROWS):
        bench.go_on()
        size = min(BATCH_ROWS, rows - start)
        codes = sample_codes(engine, size, key=key, offset=start, clamp=_slice(clamp, start, size))
        codes = redraw.made_possible(codes, np.arange(start, start + size))
        pieces.append(codes.astype(np.uint16))
        bench.reporter.set(progress=(start + size) / rows)
    drawn = rows + redraw.drawn
    if real is not None:
        pieces = _away(bench, bundle, pieces, redraw=redraw, real=real)
    if not rules.active:
        return Drawn(pieces, drawn)
    kept = [piece[rules.possible(piece.astype(np.int32))] for piece in pieces]
    _LOG.info("%d rows drawn for %d that can keep the constraints", drawn, sum(map(len, kept)))
    return Drawn([piece for piece in kept if len(piece)], drawn)


def none_kept(schema: Schema, *, away: bool) -> str:
    """Say why no row could be sent; `away`: they had to stay away from real ones as well."""
    lacking = ["keeps the schema's constraints"] if schema.constraints else []
    lacking += ["lies far enough from real ones"] if away else []
    return f"no row drawn {' and '.join(lacking)}: no synthetic rows"


def _away(
    bench: Bench,
    bundle: Bundle | GraphBundle,
    pieces: list[npt.NDArray[np.uint16]],
    *,
    redraw: Redraw,
    real: npt.NDArray[np.int32],
) -> list[npt.NDArray[np.uint16]]:
    """Replace rows that lie too close to real ones; WITHOUT PRIVACY only, see `closeness`."""
    codes = np.concatenate(pieces).astype(np.int32)
    made = replace_close(codes, real=real, codec=bundle.codec, redraw=redraw, go_on=bench.go_on)
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


def enqueue_rows(
    bench: Bench,
    plan: Plan,
    bundle: Bundle | GraphBundle,
    pieces: Sequence[npt.NDArray[np.uint16]],
    *,
    key: bytes,
    privacy: PrivacyStatement,
    extra: Mapping[str, str | int | float],
) -> list[str]:
    """Enqueue one message per piece inside the caller's transaction; return their ids.

    Parameters
    ----------
    key : bytes
        The public sampling key.
    privacy : PrivacyStatement
        What the rows cost.
    extra : mapping
        Public facts for the headers; the offset of a piece is added.
    """
    ids = []
    for part, codes in enumerate(pieces, start=1):
        header = bench.header(
            plan=plan,
            kind="batch",
            privacy=privacy,
            codec_digest=bundle.codec.digest,
            part=part,
            parts=len(pieces),
            depth=bundle.lineage.depth + 1,
            seed=key.hex(),
            extra={**extra, "offset": (part - 1) * BATCH_ROWS},
        )
        ids.append(header.id)
        bench.outbox.add(
            sequence=header.sequence,
            id=header.id,
            kind="batch",
            payload=encode_batch(
                header,
                codes.astype(np.int32),
                cardinalities=bundle.codec.cardinalities,
                names=bundle.schema.names,
            ),
            rows=codes.shape[0],
        )
    _LOG.info("%d synthetic rows enqueued in %d batches", sum(map(len, pieces)), len(pieces))
    return ids


def row_count(bench: Bench, request: RowRequest, rows_public: float, columns: int) -> int:
    """Return how many synthetic rows: as asked, and no more than half the outbox could hold."""
    asked = min(max(round(request.share * rows_public), request.minimum), request.maximum)
    return max(1, min(asked, bench.config.limits.outbox_bytes // (2 * CODE_BYTES * columns)))
