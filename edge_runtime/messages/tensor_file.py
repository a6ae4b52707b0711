"""The file inside every summary: `zstd(safetensors)`, with the header in its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from edge_runtime.errors import MessageError, ShapeError, SizeError
from edge_runtime.messages.batch import METADATA_KEY
from edge_runtime.messages.compression import compress, decompress
from edge_runtime.messages.header import Header, decode_header, encode_header
from edge_runtime.messages.limits import DEFAULT_LIMITS, Limits

__all__ = ["pack_tensors", "peek_summary", "unpack_tensors"]

_DTYPES = {"I64": "<i8", "I8": "i1", "F32": "<f4"}


class _Preamble(msgspec.Struct):
    # The JSON at the start of a safetensors file, as far as it is needed; tensors are left to
    # the library.
    metadata: dict[str, str] = msgspec.field(name="__metadata__", default_factory=dict)


_PREAMBLE = msgspec.json.Decoder(_Preamble)


def pack_tensors(
    header: Header, tensors: Mapping[str, npt.NDArray[Any]], *, limits: Limits = DEFAULT_LIMITS
) -> bytes:
    """Encode a header and tensors.

    Raises
    ------
    RangeError, SizeError
        The header is out of range; a reader with these limits would refuse it.
    """
    raw = safetensors.numpy.save(
        {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()},
        metadata={METADATA_KEY: encode_header(header).decode()},
    )
    return compress([raw], limits=limits)


def unpack_tensors(
    data: bytes, *, limits: Limits = DEFAULT_LIMITS
) -> tuple[Header, dict[str, npt.NDArray[Any]]]:
    """Decode a header and tensors, without looking at what they mean.

    Raises
    ------
    SizeError, VersionError, ShapeError, RangeError, MessageError
        Too large; of another version; of a type no summary has; a header out of range; damaged.
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
        if entry["dtype"] not in _DTYPES:
            raise ShapeError(f"summary: tensor {name!r} is {entry['dtype']}, not I64, I8 or F32")
        flat = np.frombuffer(entry["data"], dtype=_DTYPES[entry["dtype"]])
        try:
            shaped = flat.reshape(entry["shape"])
        except ValueError as error:
            # numpy has no more than 64 dimensions, nor sizes beyond 2^63 beside a size of 0.
            raise ShapeError(f"summary: tensor {name!r} has an impossible shape") from error
        tensors[name] = shaped.astype(flat.dtype.newbyteorder("="))
    return header, tensors


def peek_summary(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Header:
    """Return the checked header of a summary of any kind, without looking at its tensors.

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
