"""The int8 form of a generator: exact integer arithmetic with static scales.

Weights are int8 with one scale per output channel. Activations are unsigned 7-bit integers
(0..127) with one static scale per unit, calibrated on rows that the float network itself draws
from public noise, never on real rows. Sums of products stay below 2**24, so that float32 counts
them exactly: any engine, on any instruction set, with any batch size, number of threads or order
of summation computes the same integers, and no 16-bit intermediate can saturate (127 * 127 * 2 <
2**15).

The integer network, for a row with codes c::

    acc1 = sum over columns d of w1[offset_d + c_d]
    h1   = clip(floor(acc1 * rescale1 + shift1), 0, 127)
    acc2 = b2 + h1 @ w2
    h2   = clip(floor(max(acc2 * rescale2, 0) + h1 * skip2 + 1/2), 0, 127)
    logits = (b3 + h2 @ w3) * scale3

`shift1` is the first bias in steps of the activation plus the 1/2 that rounds; as an integer in
units of w1, which adds up only a few weights, it would be too coarse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import EngineError
from edge_runtime.generator import reference
from edge_runtime.generator.layout import F32, F64, I32, Layout, Weights
from edge_runtime.generator.public_noise import Uniforms

__all__ = ["TENSORS", "Quantised", "check_quantised", "quantised_logits", "quantize"]

#: Tensor names with their type and shape; V logits, H hidden units. External initializers of the
#: graph carry the same names.
TENSORS: Mapping[str, tuple[type[np.generic], str]] = {
    "w1": (np.int8, "VH"),
    "rescale1": (np.float32, "H"),
    "shift1": (np.float32, "H"),
    "w2": (np.int8, "HH"),
    "b2": (np.int32, "H"),
    "rescale2": (np.float32, "H"),
    "skip2": (np.float32, "H"),
    "w3": (np.int8, "HV"),
    "b3": (np.int32, "V"),
    "scale3": (np.float32, "V"),
}

_PAIRS = (("w1", None), ("w2", "b2"), ("w3", "b3"))
_TOP = 127
#: A unit that hardly fires in calibration gets at least this share of the median unit's range: it
#: may fire more in other rows.
_LEAST_RANGE = 0.05
#: Rows of one calibration part: at 300 codes a part's logits take 300 kB.
_PART_ROWS = 256
#: float32 represents every integer up to here.
_EXACT = 1 << 24
#: A bias may use this much of the exact range; it then keeps 22 bits of precision.
_BIAS_TOP = 1 << 22


@dataclass(frozen=True)
class Quantised:
    """Tensors of the integer network.

    Attributes
    ----------
    tensors : dict of str to ndarray
        Keys, types and shapes as in `TENSORS`.
    worst_error : float
        Largest absolute difference between a float and a quantised logit, in nats, over the
        calibration rows (each logit before the common shift that softmax ignores is removed).
    """

    tensors: dict[str, npt.NDArray[np.generic]]
    worst_error: float


def quantize(
    weights: Weights, layout: Layout, *, seed: int = 0, calibration_rows: int = 2048
) -> Quantised:
    """Quantise float weights.

    Parameters
    ----------
    weights : Weights
        Pre-masked float weights.
    layout : Layout
    seed : int
        Seeds the public calibration noise. Same weights and seed, same tensors.
    calibration_rows : int
        Rows drawn from the float network to find the range of every unit.

    Raises
    ------
    EngineError
        If a weight is not finite or the tensors do not fit the layout.
    """
    layout.check(weights)
    for name, tensor in zip(Weights._fields, weights, strict=True):
        if not np.isfinite(tensor).all():
            raise EngineError(f"{name} has values that are not finite")
    parts = _calibration_codes(weights, layout, seed, calibration_rows)
    top1 = np.zeros(layout.hidden, np.float32)
    top2 = np.zeros(layout.hidden, np.float32)
    for codes in parts:
        h1, h2, _ = reference.forward(weights, layout, codes)
        np.maximum(top1, h1.max(axis=0), out=top1)
        np.maximum(top2, h2.max(axis=0), out=top2)

    unit1, unit2 = _activation_scale(top1), _activation_scale(top2)
    # The skip adds a unit to itself, so the sum can only be wider than its first term.
    unit2 = np.maximum(unit2, unit1)
    w1, _, scale1 = _channels(weights.w1, np.zeros_like(weights.b1))
    w2, b2, scale2 = _channels(weights.w2 * unit1[:, None], weights.b2)
    w3, b3, scale3 = _channels(weights.w3 * unit2[:, None], weights.b3)
    tensors: dict[str, npt.NDArray[np.generic]] = {
        "w1": w1,
        "rescale1": (scale1 / unit1).astype(np.float32),
        "shift1": weights.b1 / unit1 + np.float32(0.5),
        "w2": w2,
        "b2": b2,
        "rescale2": (scale2 / unit2).astype(np.float32),
        "skip2": (unit1 / unit2).astype(np.float32),
        "w3": w3,
        "b3": b3,
        "scale3": scale3.astype(np.float32),
    }
    low, mean, high = _logit_errors(tensors, weights, layout, parts)
    # Rounding moves each logit by a little on average; the bias takes that back (Nagel et al.
    # 2019, section 4.2).
    shift = np.rint(mean / scale3)
    tensors["b3"] = b3 - shift.astype(np.int32)
    check_quantised(tensors, layout)
    worst = np.maximum(high - shift * scale3, shift * scale3 - low).max()
    return Quantised(tensors=tensors, worst_error=float(worst))


def _calibration_codes(weights: Weights, layout: Layout, seed: int, rows: int) -> list[I32]:
    """Rows of the float network in parts small enough for a device's memory."""
    uniforms = Uniforms(seed)
    parts = []
    for start in range(0, max(1, rows), _PART_ROWS):
        part = min(_PART_ROWS, max(1, rows) - start)
        noise = uniforms.draw(part, layout.columns)
        parts.append(reference.sample(weights, layout, noise))
    return parts


def _logit_errors(
    tensors: Mapping[str, npt.NDArray[np.generic]],
    weights: Weights,
    layout: Layout,
    parts: list[I32],
) -> tuple[F64, F64, F64]:
    """Lowest, mean and highest error of each quantised logit, F64[V] each."""
    low = np.full(layout.width, np.inf)
    high, total = -low, np.zeros(layout.width)
    for codes in parts:
        error = quantised_logits(tensors, layout, codes)
        error -= reference.logits(weights, layout, codes)
        np.minimum(low, error.min(axis=0), out=low)
        np.maximum(high, error.max(axis=0), out=high)
        total += error.sum(axis=0, dtype=np.float64)
    return low, total / sum(map(len, parts)), high


def quantised_logits(
    tensors: Mapping[str, npt.NDArray[np.generic]], layout: Layout, codes: I32
) -> F32:
    """All logits of the integer network for given rows, F32[n, V].

    Raises
    ------
    EngineError
        If the codes do not fit the layout.
    """
    reference.check_codes(codes, layout)
    t = {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}
    acc = np.zeros((codes.shape[0], layout.hidden), np.float32)
    for column, offset in enumerate(layout.offsets[:-1]):
        acc += t["w1"][codes[:, column] + offset]
    h1 = to_activation(acc * t["rescale1"] + t["shift1"])
    inner = np.maximum((h1 @ t["w2"] + t["b2"]) * t["rescale2"], 0)
    h2 = to_activation(inner + h1 * t["skip2"] + np.float32(0.5))
    result: F32 = (h2 @ t["w3"] + t["b3"]) * t["scale3"]
    return result


def to_activation(x: F32) -> F32:
    """Round down to one of 0..127; the result stays float32."""
    rounded: F32 = np.clip(np.floor(x), 0, _TOP)
    return rounded


def check_quantised(tensors: Mapping[str, npt.NDArray[np.generic]], layout: Layout) -> None:
    """Refuse tensors that are incomplete, of other types or shapes, not finite or not exact.

    Raises
    ------
    EngineError
        Naming the tensor.
    """
    if set(tensors) != set(TENSORS):
        odd = sorted(set(tensors) ^ set(TENSORS))
        raise EngineError(f"quantised tensors missing or unknown: {', '.join(odd)}")
    size = {"V": layout.width, "H": layout.hidden}
    for name, (dtype, dims) in TENSORS.items():
        tensor, shape = tensors[name], tuple(size[d] for d in dims)
        if tensor.dtype != dtype or tensor.shape != shape:
            raise EngineError(
                f"{name} must be {np.dtype(dtype)} {list(shape)}, "
                f"not {tensor.dtype} {list(tensor.shape)}"
            )
        if dtype is np.float32:
            values = np.asarray(tensor, np.float32)
            if not np.isfinite(values).all() or (name != "shift1" and values.min() < 0):
                raise EngineError(f"{name} must be finite and not negative")
    for (weight, bias), mask in zip(_PAIRS, layout.masks, strict=True):
        if (tensors[weight][mask == 0] != 0).any():
            raise EngineError(f"{weight} has weights that the layout masks")
        added = None if bias is None else tensors[bias]
        if (_largest_sum(tensors[weight], added, layout) > _EXACT).any():
            raise EngineError(f"sums of {weight} could leave the exact range of float32")


def _largest_sum(
    weight: npt.NDArray[np.generic], bias: npt.NDArray[np.generic] | None, layout: Layout
) -> npt.NDArray[np.int64]:
    """Bound on the magnitude of any partial sum per output channel."""
    w = weight.astype(np.int64)
    if bias is not None:
        bound: npt.NDArray[np.int64] = _TOP * np.abs(w).sum(axis=0) + np.abs(bias.astype(np.int64))
        return bound
    # An engine may add up either the rows of the codes themselves, or the first row of each
    # column and the differences between neighbouring codes below the drawn one.
    first = np.asarray(layout.offsets[:-1])
    steps = np.abs(np.diff(w, axis=0)).sum(axis=0)
    base: npt.NDArray[np.int64] = np.abs(w[first]).sum(axis=0) + steps
    return base


def _activation_scale(top: F32) -> F32:
    """Real value of one activation step per unit, F32[H], from the units' largest values."""
    firing = top[top > 0]
    # Not np.median: it loads all of numpy.ma, and leaves 1 MB less for the board.
    middle = np.sort(firing)[(firing.size - 1) // 2 : firing.size // 2 + 1]
    usual = float(middle.mean()) if firing.size else 1.0
    scale: F32 = np.maximum(top, _LEAST_RANGE * usual).astype(np.float32) / np.float32(_TOP)
    return scale


def _channels(weight: F32, bias: F32) -> tuple[npt.NDArray[np.int8], I32, F64]:
    """Quantise each output channel (axis 1) by its largest weight, its bias to the same unit."""
    w, b = weight.astype(np.float64), bias.astype(np.float64)
    scale = np.maximum(np.abs(w).max(axis=0, initial=0.0) / _TOP, np.abs(b) / _BIAS_TOP)
    scale = np.where(scale > 0, scale, 1.0)
    # A sum that could exceed 2**24 gets a coarser unit; only very wide networks get here.
    bound = (_TOP * np.abs(w).sum(axis=0) + np.abs(b)) / scale + _TOP * len(w)
    scale = scale * np.maximum(1.0, bound / _EXACT)
    integers = np.clip(np.rint(w / scale), -_TOP, _TOP).astype(np.int8)
    return integers, np.rint(b / scale).astype(np.int32), scale
