"""A weight update: what private training changed in the plan's bundle, in int8.

On the wire it is `zstd(safetensors)` like the other summaries. Tensors `w1`, `b1`, `w2`, `b2`,
`w3`, `b3` are int8 in the shapes of `edge_runtime.generator.Weights`; `scales` is float32 [6], one
per tensor: a change is scale * integer. `header.extra["clip_norm"]` bounds its L2 norm.
"""

from __future__ import annotations

import math

import numpy as np

from edge_runtime.errors import EngineError, RangeError, ShapeError
from edge_runtime.generator import Layout, Weights
from edge_runtime.messages.header import Header
from edge_runtime.messages.limits import DEFAULT_LIMITS, Limits
from edge_runtime.messages.tensor_file import pack_tensors, unpack_tensors

__all__ = ["clip_update", "decode_update", "encode_update", "update_norm"]

_SCALES = "scales"
_TOP = 127


def update_norm(delta: Weights) -> float:
    """L2 norm of a change over all tensors together."""
    return math.sqrt(sum(float(np.square(t, dtype=np.float64).sum()) for t in delta))


def clip_update(delta: Weights, clip_norm: float) -> Weights:
    """Scale a change down so that its L2 norm is at most `clip_norm`."""
    norm = update_norm(delta)
    if norm <= clip_norm:
        return delta
    factor = np.float32(clip_norm / norm)
    return Weights(*(tensor * factor for tensor in delta))


def encode_update(
    header: Header, delta: Weights, *, layout: Layout, limits: Limits = DEFAULT_LIMITS
) -> bytes:
    """Clip a change of weights to `header.extra["clip_norm"]`, round it to int8 and encode it.

    Parameters
    ----------
    header : Header
        Of kind `update`, with `extra["clip_norm"]`.
    delta : Weights
        Local weights minus the bundle's, float32.
    layout : Layout
    limits : Limits
        What the reader will accept; nothing larger is made.

    Raises
    ------
    RangeError, ShapeError, SizeError
        A number is not finite; tensors do not fit the layout; too large.
    """
    clip_norm = _clip_norm(header)
    try:
        layout.check(delta)
    except EngineError as error:
        raise ShapeError(f"update: {error}") from error
    if not math.isfinite(update_norm(delta)):
        raise RangeError("update: a change of weights is not finite")
    clipped = clip_update(delta, clip_norm)
    scales = np.array([float(np.abs(t).max(initial=0.0)) / _TOP for t in clipped], np.float32)
    tensors = {
        name: np.rint(tensor / (scale or np.float32(1.0))).astype(np.int8)
        for name, tensor, scale in zip(Weights._fields, clipped, scales, strict=True)
    }
    return pack_tensors(header, {**tensors, _SCALES: scales}, limits=limits)


def decode_update(
    data: bytes, *, layout: Layout, limits: Limits = DEFAULT_LIMITS
) -> tuple[Header, Weights]:
    """Decode and check a weight update.

    Parameters
    ----------
    data : bytes
        The payload.
    layout : Layout
        Of the bundle that it changes; shapes and masks are held against it.
    limits : Limits
        Sizes accepted.

    Returns
    -------
    header : Header
        Of kind `update`.
    delta : Weights
        The change, float32, at most as long as `header.extra["clip_norm"]`: what rounding, or an
        untrue sender, made longer is scaled down.

    Raises
    ------
    SizeError, VersionError, ShapeError, RangeError, MessageError
        Too large; of another version; other tensors, also in masked places; numbers that are not
        finite; damaged.
    """
    header, tensors = unpack_tensors(data, limits=limits)
    if header.kind != "update":
        raise ShapeError(f"update: header of kind {header.kind!r}")
    clip_norm = _clip_norm(header)
    if set(tensors) != {*Weights._fields, _SCALES}:
        raise ShapeError(f"update: tensors {sorted(tensors)} are not those of an update")
    scales = tensors[_SCALES]
    if scales.dtype != np.float32 or scales.shape != (len(Weights._fields),):
        raise ShapeError(f"update: {_SCALES!r} is {scales.dtype}{list(scales.shape)}")
    if not (np.isfinite(scales).all() and (scales >= 0.0).all()):
        raise RangeError(f"update: scales {scales.tolist()} are not all finite and at least 0")
    for name in Weights._fields:
        if tensors[name].dtype != np.int8:
            raise ShapeError(f"update: {name} is {tensors[name].dtype}, not int8")
    delta = Weights(
        *(tensors[n].astype(np.float32) * s for n, s in zip(Weights._fields, scales, strict=True))
    )
    try:
        layout.check(delta)
    except EngineError as error:
        raise ShapeError(f"update: {error}") from error
    for name, mask in zip(("w1", "w2", "w3"), layout.masks, strict=True):
        if tensors[name][mask == 0].any():
            raise RangeError(f"update: {name} changes weights that the layout masks")
    if not math.isfinite(update_norm(delta)):
        raise RangeError("update: a change of weights is not finite")
    return header, clip_update(delta, clip_norm)


def _clip_norm(header: Header) -> float:
    value = header.extra.get("clip_norm")
    if not isinstance(value, int | float) or not (math.isfinite(value) and value > 0.0):
        raise RangeError(f"update: extra['clip_norm'] is {value!r}, not a usable number")
    return float(value)
