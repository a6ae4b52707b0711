"""Synthetic rows from an engine, in pieces of one message each."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

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

__all__ = [
    "BATCH_ROWS",
    "CODE_BYTES",
    "UNUSABLE",
    "check_engine",
    "draw_rows",
    "enqueue_rows",
    "open_trained",
    "row_count",
]

_LOG = logging.getLogger(__name__)

#: most synthetic rows in one message: small enough to send again after a broken connection
BATCH_ROWS = 4096
#: at most, of a code on the wire before compression
CODE_BYTES = 2
UNUSABLE = "the trained weights failed their check"


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
) -> list[npt.NDArray[np.uint16]]:
    """Draw rows from a network, one piece per message; away from `real`, where given."""
    pieces = []
    for start in range(0, rows, BATCH_ROWS):
        size = min(BATCH_ROWS, rows - start)
        codes = sample_codes(engine, size, key=key, offset=start, clamp=_slice(clamp, start, size))
        pieces.append(codes.astype(np.uint16))
        bench.reporter.set(progress=(start + size) / rows)
    if real is not None:
        pieces = _away(engine, bundle, pieces, key=key, clamp=clamp, real=real)
    return pieces


def _away(
    engine: Engine | GraphEngine,
    bundle: Bundle | GraphBundle,
    pieces: list[npt.NDArray[np.uint16]],
    *,
    key: bytes,
    clamp: Mapping[int, npt.NDArray[np.int32]],
    real: npt.NDArray[np.int32],
) -> list[npt.NDArray[np.uint16]]:
    """Replace rows that lie too close to real ones; WITHOUT PRIVACY only, see `closeness`."""
    codes = np.concatenate(pieces).astype(np.int32)
    offset = len(codes)

    def redraw(at: npt.NDArray[np.intp]) -> npt.NDArray[np.int32]:
        nonlocal offset
        wanted = {column: values[at] for column, values in clamp.items()}
        fresh = sample_codes(engine, len(at), key=key, offset=offset, clamp=wanted)
        offset += len(at)
        return fresh

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
