"""Series of any length from a network over windows: step by step, many series at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import SamplingError
from edge_runtime.generator.bundle import Bundle
from edge_runtime.generator.conditional import Leading, leading_given
from edge_runtime.generator.engine import Engine
from edge_runtime.generator.layout import I32
from edge_runtime.generator.sampler import sample_codes
from edge_runtime.schema import Rules, Table, long_codec, series_table

__all__ = ["roll"]

#: a step whose codes cannot keep the constraints is drawn again so often
_TRIES = 32
#: series drawn at once and rows of them, and series drawn per series asked for at most
_PART, _PART_ROWS, _MOST_PER_SERIES = 4096, 1 << 20, 20
#: streams of the key: leading codes, then steps (their tries lie apart), and decoding, whose
#: streams lie behind them all (see `decode_streams`)
_LEADING, _STEPS, _NEXT_TRY, _VALUES = 2, 16, 1 << 20, 1 << 10
_MOST_STEPS = _NEXT_TRY - _STEPS


def roll(
    bundle: Bundle,
    engine: Engine,
    *,
    series: int,
    length: int,
    key: bytes,
    wished: Mapping[int, int],
) -> Table:
    """Draw series.

    The first window is drawn whole; every further step given the `lags` steps before it, whose
    codes are forced. A series is the same whatever their number.

    Parameters
    ----------
    bundle : Bundle
        Of windows, see `edge_runtime.schema.sequence`.
    engine : Engine
        Of the bundle.
    series : int
        How many.
    length : int
        Rows of each.
    key : bytes
        32 public bytes.
    wished : mapping of int to int
        Codes that static columns must have.

    Returns
    -------
    Table
        Number of the series, step, static columns and those that change; series one after the
        other.

    Raises
    ------
    SamplingError
        The bundle is not one of windows, a wish is about a column that changes or cannot be set,
        or the constraints leave too few series.
    """
    sequence = bundle.schema.sequence
    if sequence is None or not sequence.columns:
        raise SamplingError("the bundle is not of series: its schema declares no sequence")
    if series < 0 or not 1 <= length <= _MOST_STEPS:
        raise SamplingError(
            f"cannot draw {series} series of {length} rows: 0 or more of 1 to {_MOST_STEPS}"
        )
    static = len(sequence.static)
    if any(column >= static for column in wished):
        raise SamplingError(
            "series can be asked for by their static columns only: "
            f"{', '.join(sequence.static) or 'there are none'}"
        )
    leading = leading_given(bundle.quantised.tensors, bundle.layout, wished)
    if any(column >= leading.codes.shape[1] for column in wished):
        raise SamplingError(
            "the static columns before the one asked for have too many combinations; declare it as "
            "a condition, first of all"
        )
    codec = long_codec(bundle.codec)
    rules, windows = Rules(codec), Rules(bundle.codec)
    tables: list[Table] = []
    done = drawn = 0
    while done < series or not tables:
        count = max(1, min(_PART, _PART_ROWS // length, series - done))
        codes, kept = _codes(
            engine, windows, leading, series=count, length=length, key=key, first=drawn,
            static=static, width=len(sequence.columns), steps=sequence.steps,
        )  # fmt: skip
        flat = codes.reshape(count * length, -1)
        table, settled = rules.decode(flat, key=key, stream=_VALUES, offset=drawn * length)
        whole = np.bincount(settled // length, minlength=count) == length
        whole &= kept
        take = np.repeat(whole, length)[settled]
        tables.append(table.take(take))
        done += int(whole.sum())
        drawn += count
        if done < series and drawn >= _MOST_PER_SERIES * series + _PART:
            raise SamplingError(
                f"{done} of {drawn:,} series drawn keep the schema's constraints in every row, "
                f"{series:,} were asked for: ask for shorter ones, or loosen the constraints "
                f"({'; '.join(map(str, codec.schema.constraints))})"
            )
    rows = Table.concat(tables).take(slice(0, series * length))
    return series_table(rows, sequence, series=series, length=length)


def _codes(
    engine: Engine,
    rules: Rules,
    leading: Leading,
    *,
    series: int,
    length: int,
    key: bytes,
    first: int,
    static: int,
    width: int,
    steps: int,
) -> tuple[I32, npt.NDArray[np.bool_]]:
    """Codes int32 [series, length, static + width], and which series keep the constraints."""
    forced = leading.draw(series, key=key, stream=_LEADING, offset=first)
    window, kept = _possible(engine, rules, forced, series, key=key, first=first, stream=_STEPS)
    codes = np.empty((series, max(length, steps), static + width), np.int32)
    codes[:, :, :static] = window[:, None, :static]
    for step in range(steps):
        codes[:, step, static:] = _step(window, step, static, width)
    for step in range(steps, length):
        forced = {column: window[:, column].copy() for column in range(static)}
        for back in range(steps - 1):
            known = codes[:, step - steps + 1 + back, static:]
            for column in range(width):
                at = static + back * width + column
                forced[at] = np.ascontiguousarray(known[:, column])
        window, possible = _possible(
            engine, rules, forced, series, key=key, first=first, stream=_STEPS + step
        )
        kept &= possible
        codes[:, step, static:] = _step(window, steps - 1, static, width)
    return np.ascontiguousarray(codes[:, :length]), kept


def _step(window: I32, step: int, static: int, width: int) -> I32:
    return window[:, static + step * width : static + (step + 1) * width]


def _possible(
    engine: Engine,
    rules: Rules,
    forced: Mapping[int, I32],
    rows: int,
    *,
    key: bytes,
    first: int,
    stream: int,
) -> tuple[I32, npt.NDArray[np.bool_]]:
    """Draw windows again until they can keep the constraints; which of them can in the end."""
    codes = sample_codes(engine, rows, key=key, stream=stream, offset=first, clamp=forced)
    possible = rules.possible(codes)
    for attempt in range(1, _TRIES):
        if possible.all():
            break
        again = stream + attempt * _NEXT_TRY
        fresh = sample_codes(engine, rows, key=key, stream=again, offset=first, clamp=forced)
        codes[~possible] = fresh[~possible]
        possible = rules.possible(codes)
    return codes, possible
