"""A summary: noisy statistics of a device's real rows.

On the wire it is `zstd(safetensors)`, the header as JSON in `__metadata__` under `edge_runtime`.

====== =================== ======================================================== ==========
kind   tensor              meaning                                                  shape
====== =================== ======================================================== ==========
census `census.<d>`        noisy counts of the cells of column d                    [cells_d]
anchor `one_way.<d>`       noisy counts of the codes of column d                    [K_d]
anchor `pair.<a>.<b>`      noisy counts of the code pairs of columns a < b          [K_a, K_b]
====== =================== ======================================================== ==========

All are int64 and may be negative; `header.extra["sigma"]` is the standard deviation of the noise
per count.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from edge_runtime.errors import MessageError, RangeError, ShapeError, SizeError
from edge_runtime.messages.batch import METADATA_KEY
from edge_runtime.messages.compression import compress, decompress
from edge_runtime.messages.header import Header, decode_header, encode_header
from edge_runtime.messages.limits import DEFAULT_LIMITS, Limits

__all__ = ["decode_summary", "encode_summary", "peek_summary"]

_NAMES = {
    "census": re.compile(r"\Acensus\.(0|[1-9][0-9]{0,4})\Z"),
    "anchor": re.compile(r"\A(?:one_way|pair\.(0|[1-9][0-9]{0,4}))\.(0|[1-9][0-9]{0,4})\Z"),
}
_ONE_WAY = {"census": "census", "anchor": "one_way"}
# Sums over any fleet stay exact in float64 and far from the ends of int64.
_LARGEST = 2**48


class _Preamble(msgspec.Struct):
    # The JSON at the start of a safetensors file, as far as it is needed; tensors are left to
    # the library.
    metadata: dict[str, str] = msgspec.field(name="__metadata__", default_factory=dict)


_PREAMBLE = msgspec.json.Decoder(_Preamble)


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
        Of kind `census` or `anchor`, with `extra["sigma"]`.
    tensors : mapping of str to ndarray of int64
        As in the table above; every column must have its one-way counts.
    limits : Limits
        What the reader will accept; nothing larger is made.

    Raises
    ------
    ShapeError, RangeError, SizeError
        Tensors are not those of the kind; a count or sigma is out of range; too large.
    """
    _check(header, tensors, None, limits)
    raw = safetensors.numpy.save(
        {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()},
        metadata={METADATA_KEY: encode_header(header).decode()},
    )
    return compress([raw], limits=limits)


def decode_summary(
    data: bytes, *, sizes: Sequence[int] | None = None, limits: Limits = DEFAULT_LIMITS
) -> tuple[Header, dict[str, npt.NDArray[np.int64]]]:
    """Decode and check a summary.

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
        Of kind `census` or `anchor`.
    tensors : dict of str to ndarray of int64
        One-way counts of every column, and pairs.

    Raises
    ------
    SizeError, VersionError, ShapeError, RangeError, MessageError
        Too large; of another version; other tensors; a count out of range; damaged.
    """
    raw, header = _read(data, limits)
    try:
        entries = safetensors.deserialize(raw)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise MessageError(f"summary: not a safetensors file: {error}") from error
    if len(entries) > limits.tensors:
        raise SizeError(f"summary: {len(entries)} tensors, at most {limits.tensors} are accepted")
    tensors = {}
    for name, entry in entries:
        if entry["dtype"] != "I64":
            raise ShapeError(f"summary: tensor {name!r} is {entry['dtype']}, not I64")
        flat = np.frombuffer(entry["data"], dtype="<i8").astype(np.int64)
        tensors[name] = flat.reshape(entry["shape"])
    _check(header, tensors, sizes, limits)
    return header, tensors


def peek_summary(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Header:
    """Return the checked header of a summary, without looking at its tensors.

    Raises
    ------
    SizeError, VersionError, RangeError, MessageError
        As `decode_summary`.
    """
    return _read(data, limits)[1]


def _read(data: bytes, limits: Limits) -> tuple[bytes, Header]:
    raw = decompress(data, limits=limits)
    length = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or length > min(limits.json_bytes, len(raw) - 8):
        raise MessageError("summary: not a safetensors file")
    try:
        metadata = _PREAMBLE.decode(raw[8 : 8 + length]).metadata
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"summary: not a safetensors file: {error}") from error
    if METADATA_KEY not in metadata:
        raise MessageError(f"summary: no {METADATA_KEY!r} in __metadata__")
    return raw, decode_header(metadata[METADATA_KEY].encode(), limits=limits)


def _check(
    header: Header,
    tensors: Mapping[str, npt.NDArray[np.int64]],
    sizes: Sequence[int] | None,
    limits: Limits,
) -> None:
    if header.kind not in _NAMES:
        raise ShapeError(f"summary: header of kind {header.kind!r}")
    sigma = header.extra.get("sigma")
    if not isinstance(sigma, int | float) or not (math.isfinite(sigma) and sigma >= 0):
        raise RangeError(f"summary: extra['sigma'] is {sigma!r}, not a standard deviation")
    if len(tensors) > limits.tensors:
        raise SizeError(f"summary: {len(tensors)} tensors, at most {limits.tensors} are accepted")
    one_way = _ONE_WAY[header.kind]
    found = _one_way_sizes(tensors, one_way)
    if not found or (sizes is not None and found != list(sizes)):
        wanted = "at least one" if sizes is None else f"{len(sizes)} of the announced sizes"
        raise ShapeError(f"summary: tensors {one_way}.0 .. {one_way}.<D-1> must be {wanted}")
    for name, tensor in tensors.items():
        if _NAMES[header.kind].match(name) is None:
            raise ShapeError(f"summary: tensor {name!r} is none of kind {header.kind!r}")
        _check_tensor(name, tensor, found)


def _one_way_sizes(tensors: Mapping[str, npt.NDArray[np.int64]], prefix: str) -> list[int]:
    columns = sum(name.startswith(f"{prefix}.") for name in tensors)
    names = [f"{prefix}.{d}" for d in range(columns)]
    return [tensors[name].size for name in names] if all(n in tensors for n in names) else []


def _check_tensor(name: str, tensor: npt.NDArray[np.int64], sizes: Sequence[int]) -> None:
    columns = [int(part) for part in name.split(".")[1:]]
    ascending = all(a < b for a, b in itertools.pairwise(columns))
    if columns[-1] >= len(sizes) or not ascending:
        raise ShapeError(f"summary: tensor {name!r} is about columns that are not there")
    shape = tuple(sizes[d] for d in columns)
    if tensor.dtype != np.int64 or tensor.shape != shape:
        raise ShapeError(
            f"summary: tensor {name!r} is {tensor.dtype}{list(tensor.shape)}, "
            f"not int64{list(shape)}"
        )
    if tensor.size and (tensor.min() < -_LARGEST or tensor.max() > _LARGEST):
        raise RangeError(f"summary: tensor {name!r} has counts beyond {_LARGEST}")
