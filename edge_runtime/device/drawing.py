"""Synthetic rows from an engine, in pieces of one message each."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edge_runtime.device.bench import Bench
from edge_runtime.device.closeness import replace_close
from edge_runtime.generator import Bundle, Engine, Opened, Weights, open_checked, sample_codes

__all__ = ["BATCH_ROWS", "UNUSABLE", "draw_rows", "open_trained"]

_LOG = logging.getLogger(__name__)

#: most synthetic rows in one message: small enough to send again after a broken connection
BATCH_ROWS = 4096
UNUSABLE = "the trained weights failed their check"


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
    bundle: Bundle,
    engine: Engine,
    *,
    rows: int,
    key: bytes,
    clamp: Mapping[int, npt.NDArray[np.int32]],
    real: npt.NDArray[np.int32] | None,
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
    engine: Engine,
    bundle: Bundle,
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
