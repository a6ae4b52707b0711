"""A summary of counts: noisy statistics of a device's real rows.

On the wire it is `zstd(safetensors)`, the header as JSON in `__metadata__` under `edge_runtime`.

====== =================== ======================================================== ==========
kind   tensor              meaning                                                  shape
====== =================== ======================================================== ==========
census `census.<d>`        noisy counts of the cells of column d                    [cells_d]
anchor `table.<a>`         noisy counts of the codes of column a                    [K_a]
anchor `table.<a>.<b>`     noisy counts of pairs of codes, a < b; so on up to four  [K_a, K_b]
score  `score`             noisy sum of clipped losses and of rows, in 1/1024       [2]
====== =================== ======================================================== ==========

A summary of kind `moments` holds `moments`, noisy sums by group in the units of its plan's
`MomentsRequest`, [groups, width], and `rows`, the noisy number of rows by group, [groups]. After
the noise was added both were divided by `2 ** extra["shift"]` and rounded: low digits that are
noise alone are not sent.

All are int64 and may be negative; `header.extra["sigma"]` is the standard deviation of the noise
per number, in a summary of moments before the division. A score's loss of a row is its negative
log-likelihood in units of `extra["clip_nats"]`, at most 1. The remaining kind, a weight update, is
in `edge_runtime.messages.update`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import RangeError, ShapeError, SizeError
from edge_runtime.messages.header import Header
from edge_runtime.messages.limits import DEFAULT_LIMITS, Limits
from edge_runtime.messages.tensor_file import pack_tensors, peek_summary, unpack_tensors

__all__ = [
    "SCORE_UNITS",
    "columns_of_table",
    "decode_summary",
    "encode_summary",
    "name_of_table",
    "peek_summary",
]

#: a score counts one row, and one clip of loss, as so many units
SCORE_UNITS = 1024

_COLUMN = r"\.(?:0|[1-9][0-9]{0,4})"
_NAMES = {
    "census": re.compile(rf"\Acensus{_COLUMN}\Z"),
    "anchor": re.compile(rf"\Atable(?:{_COLUMN}){{1,4}}\Z"),
    "moments": re.compile(r"\A(?:moments|rows)\Z"),
    "score": re.compile(r"\Ascore\Z"),
}
# Sums over any fleet stay exact in float64 and far from the ends of int64.
_LARGEST = 2**48
#: noise of more bits than this would drown any fleet
_SHIFTS = range(41)


def name_of_table(columns: Sequence[int]) -> str:
    """Return the tensor's name of an anchor's table: `table.0.3` for columns 0 and 3."""
    return ".".join(("table", *map(str, columns)))


def columns_of_table(name: str) -> tuple[int, ...]:
    """Return the columns of an anchor's table by its tensor's name."""
    return tuple(int(part) for part in name.split(".")[1:])


def encode_summary(
    header: Header,
    tensors: Mapping[str, npt.NDArray[np.int64]],
    *,
    limits: Limits = DEFAULT_LIMITS,
) -> bytes:
    """Encode noisy counts.

    Parameters
    ----------
    header : Header
        Of kind `census`, `anchor`, `moments` or `score`, with `extra["sigma"]`; a score's also
        with `extra["clip_nats"]`, that of moments with `extra["shift"]`.
    tensors : mapping of str to ndarray of int64
        As in the table above; a census has every column.
    limits : Limits
        What the reader will accept; nothing larger is made.

    Raises
    ------
    ShapeError, RangeError, SizeError
        Tensors are not those of the kind; a count or sigma is out of range; too large.
    """
    _check(header, tensors, None, limits)
    return pack_tensors(header, tensors, limits=limits)


def decode_summary(
    data: bytes, *, sizes: Sequence[int] | None = None, limits: Limits = DEFAULT_LIMITS
) -> tuple[Header, dict[str, npt.NDArray[np.int64]]]:
    """Decode and check a summary of counts.

    Parameters
    ----------
    data : bytes
        The payload.
    sizes : sequence of int, optional
        Cells per column (census) or codes per column (anchor); shapes are then held against
        it. Without it only names, dtypes and dimensions are checked.
    limits : Limits
        Sizes accepted.

    Returns
    -------
    header : Header
        Of kind `census`, `anchor`, `moments` or `score`.
    tensors : dict of str to ndarray of int64
        As in the table above.

    Raises
    ------
    SizeError, VersionError, ShapeError, RangeError, MessageError
        Too large; of another version; other tensors; a count out of range; damaged.
    """
    header, tensors = unpack_tensors(data, limits=limits)
    _check(header, tensors, sizes, limits)
    return header, tensors


def _check(
    header: Header,
    tensors: Mapping[str, npt.NDArray[Any]],
    sizes: Sequence[int] | None,
    limits: Limits,
) -> None:
    if header.kind not in _NAMES:
        raise ShapeError(f"summary: header of kind {header.kind!r}")
    _check_number(header, "sigma", least=0.0)
    if header.kind == "score":
        _check_number(header, "clip_nats", least=math.ulp(0.0))
    if header.kind == "moments" and header.extra.get("shift") not in _SHIFTS:
        raise RangeError(f"summary: extra['shift'] is {header.extra.get('shift')!r}")
    if len(tensors) > limits.tensors:
        raise SizeError(f"summary: {len(tensors)} tensors, at most {limits.tensors} are accepted")
    cells = sum(tensor.size for tensor in tensors.values())
    if cells > limits.cells:
        raise SizeError(f"summary: {cells} cells, at most {limits.cells} are accepted")
    if not tensors:
        raise ShapeError("summary: no tensors")
    for name, tensor in tensors.items():
        if _NAMES[header.kind].match(name) is None:
            raise ShapeError(f"summary: tensor {name!r} is none of kind {header.kind!r}")
        _check_values(name, tensor)
    if header.kind == "score":
        _check_shape("score", tensors["score"], (2,))
    elif header.kind == "moments":
        if set(tensors) != {"moments", "rows"} or tensors["moments"].ndim != 2:
            raise ShapeError("summary: moments are `moments` in two dimensions, and `rows`")
        _check_shape("rows", tensors["rows"], tensors["moments"].shape[:1])
    else:
        _check_columns(header.kind, tensors, sizes)


def _check_columns(
    kind: str, tensors: Mapping[str, npt.NDArray[Any]], sizes: Sequence[int] | None
) -> None:
    known = dict(enumerate(sizes)) if sizes is not None else {}
    for name, tensor in tensors.items():
        columns = columns_of_table(name)
        ascending = all(a < b for a, b in itertools.pairwise(columns))
        if not ascending or (sizes is not None and columns[-1] >= len(sizes)):
            raise ShapeError(f"summary: tensor {name!r} is about columns that are not there")
        if tensor.ndim != len(columns):
            raise ShapeError(f"summary: tensor {name!r} has {tensor.ndim} dimensions")
        # Without announced sizes the tables must at least agree with each other.
        shape = tuple(
            known.setdefault(column, size)
            for column, size in zip(columns, tensor.shape, strict=True)
        )
        _check_shape(name, tensor, shape)
    if kind == "census" and len(tensors) != max(known) + 1:
        raise ShapeError(f"summary: a census has {max(known) + 1} columns, not {len(tensors)}")


def _check_values(name: str, tensor: npt.NDArray[Any]) -> None:
    if tensor.dtype != np.int64:
        raise ShapeError(f"summary: tensor {name!r} is {tensor.dtype}, not int64")
    if not tensor.size:
        raise ShapeError(f"summary: tensor {name!r} has no cells")
    if tensor.min() < -_LARGEST or tensor.max() > _LARGEST:
        raise RangeError(f"summary: tensor {name!r} has counts beyond {_LARGEST}")


def _check_shape(name: str, tensor: npt.NDArray[Any], shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise ShapeError(f"summary: tensor {name!r} is {list(tensor.shape)}, not {list(shape)}")


def _check_number(header: Header, key: str, *, least: float) -> None:
    value = header.extra.get(key)
    if not isinstance(value, int | float) or not (math.isfinite(value) and value >= least):
        raise RangeError(f"summary: extra[{key!r}] is {value!r}, not a usable number")
