"""Any number of rows from an engine, reproducible row by row."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edge_runtime import kernel
from edge_runtime.errors import EngineError
from edge_runtime.generator.engine import Engine
from edge_runtime.generator.graph_engine import GraphEngine
from edge_runtime.generator.kernel_engine import KernelEngine
from edge_runtime.generator.layout import I32
from edge_runtime.schema import BlockDecoder, Codec, Table

__all__ = ["sample_codes", "sample_table"]


def sample_codes(
    engine: Engine | GraphEngine,
    rows: int,
    *,
    key: bytes,
    stream: int = 0,
    offset: int = 0,
    clamp: Mapping[int, I32] | None = None,
    batch: int = 512,
) -> I32:
    """Draw rows with the kernel's noise.

    Row i of the result is row ``offset + i`` of the sequence that `key` and `stream` define,
    whatever the batch size, so that a long sample can be drawn in pieces.

    Parameters
    ----------
    engine : Engine
    rows : int
    key : bytes
        32 bytes; public, unlike a key of privacy noise.
    stream : int
        Independent sequences under one key. Decoding the codes needs a stream of its own.
    offset : int
        Row of the sequence to start at.
    clamp : mapping of int to I32[rows], optional
        Codes forced on leading columns. Later columns follow them; columns before a clamped one
        would not, so only columns 0..k-1 together can be clamped.
    batch : int
        Rows per call of the engine.

    Returns
    -------
    I32[rows, D]

    Raises
    ------
    EngineError
        If `clamp` names a column that is not leading, or codes outside its cardinality, or any
        column of a packed graph.
    """
    if rows < 0 or offset < 0 or batch < 1:
        raise EngineError(f"cannot draw rows={rows} from offset={offset} in batches of {batch}")
    if isinstance(engine, GraphEngine):
        if clamp:
            raise EngineError(
                "a packed graph draws whole rows: no column can be clamped; reject rows instead"
            )
        return engine.draw(rows, key=key, stream=stream, offset=offset)
    layout = engine.layout
    forced = _forced(clamp or {}, rows, layout.cardinalities)
    if isinstance(engine, KernelEngine):
        return engine.draw(rows, key=key, stream=stream, offset=offset, forced=_stacked(forced))
    codes = np.empty((rows, layout.columns), np.int32)
    noise = np.empty((min(batch, rows), layout.columns), np.float32)
    for start in range(0, rows, batch):
        part = noise[: min(batch, rows - start)]
        kernel.fill_uniform(
            part.reshape(-1), key=key, stream=stream, offset=(offset + start) * layout.columns
        )
        for column, chosen in forced.items():
            # Cardinalities stay below 2**16, so 1 + code is exact in float32.
            part[:, column] = chosen[start : start + len(part)] + 1
        codes[start : start + len(part)] = engine.generate(part)
    return codes


def sample_table(
    engine: Engine | GraphEngine,
    codec: Codec,
    rows: int,
    *,
    key: bytes,
    offset: int = 0,
    clamp: Mapping[int, I32] | None = None,
) -> Table:
    """Draw rows as values: `sample_codes` with stream 0, decoded with stream 1 of the same key.

    The kernel engine does both in one go, with the same result.

    Parameters
    ----------
    engine : Engine
    codec : Codec
        The one of the engine's bundle.
    rows, key, offset, clamp
        As `sample_codes`.

    Raises
    ------
    EngineError
        As `sample_codes`, or if the codec is of another layout.
    """
    known = engine if isinstance(engine, GraphEngine) else engine.layout
    if codec.cardinalities != known.cardinalities:
        raise EngineError("the codec's cardinalities are not those of the engine's layout")
    decoder = BlockDecoder(codec)
    if not isinstance(engine, KernelEngine) or not decoder.possible:
        codes = sample_codes(engine, rows, key=key, offset=offset, clamp=clamp)
        return codec.decode(codes, key=key, stream=1, offset=offset)
    if rows < 0 or offset < 0:
        raise EngineError(f"cannot draw rows={rows} from offset={offset}")
    forced = _forced(clamp or {}, rows, codec.cardinalities)
    outputs = decoder.outputs(rows)
    engine.draw_into(
        outputs,
        rows,
        key=key,
        stream=0,
        decode_stream=decoder.stream(1),
        offset=offset,
        forced=_stacked(forced),
    )
    return decoder.table(outputs)


def _stacked(forced: Mapping[int, I32]) -> I32 | None:
    return np.stack([forced[column] for column in range(len(forced))]) if forced else None


def _forced(clamp: Mapping[int, I32], rows: int, cardinalities: tuple[int, ...]) -> dict[int, I32]:
    if sorted(clamp) != list(range(len(clamp))) or len(clamp) > len(cardinalities):
        raise EngineError(
            f"columns {sorted(clamp)} cannot be clamped: only the leading columns together can, "
            "because earlier columns do not follow later ones; reject rows instead"
        )
    forced = {}
    for column, codes in clamp.items():
        chosen = np.asarray(codes)
        if chosen.shape != (rows,) or chosen.dtype.kind not in "iu":
            raise EngineError(
                f"clamped codes of column {column} must be {rows} integers, "
                f"not {chosen.dtype} {list(chosen.shape)}"
            )
        if rows and (chosen.min() < 0 or chosen.max() >= cardinalities[column]):
            raise EngineError(
                f"clamped codes of column {column} must lie in 0..{cardinalities[column] - 1}"
            )
        forced[column] = chosen.astype(np.int32)
    return forced
