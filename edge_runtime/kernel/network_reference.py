"""The integer network in numpy, operation by operation as native/src/generator_body.h has it.

`edge_runtime.generator.numpy_engine` says what an engine must compute up to the rounding of the
exponential; this says every bit of the kernel's, and the vectors of tests/kernel/kat/generator.txt
come from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_runtime.kernel import reference

__all__ = ["codes", "exp2_down", "vector_tensors"]

F32 = np.float32

#: coefficients of generator_body.h, highest power first
_POLYNOMIAL = (
    "0x1.5bba14p-10",
    "0x1.3cea88p-7",
    "0x1.c6b752p-5",
    "0x1.ebf9bcp-3",
    "0x1.62e42ap-1",
    "0x1p0",
)


def exp2_down(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """2^x for x <= 0, never quite zero."""
    x = np.maximum(x, F32(-126))
    shifted = x + F32(1.5 * 2**23)
    f = x - (shifted - F32(1.5 * 2**23))
    p = np.full_like(f, float.fromhex(_POLYNOMIAL[0]))
    for coefficient in _POLYNOMIAL[1:]:
        p = p * f + F32(float.fromhex(coefficient))
    result: NDArray[np.float32] = (p.view(np.uint32) + (shifted.view(np.uint32) << 23)).view(F32)
    return result


def _activation(x: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.clip(x, F32(0), F32(127)).astype(np.int64)


def codes(
    tensors: Mapping[str, NDArray[np.generic]],
    cardinalities: Sequence[int],
    hidden: int,
    noise: NDArray[np.float32],
) -> NDArray[np.int32]:
    """Codes that the kernel draws from noise, int32 [rows, columns]; masked weights are ignored.

    Parameters
    ----------
    tensors : mapping of str to ndarray
        The integer network of docs/bundle.md.
    cardinalities : sequence of int
    hidden : int
    noise : float32 [rows, columns]
    """
    columns = len(cardinalities)
    offsets = np.concatenate([[0], np.cumsum(cardinalities)])
    degree = np.arange(hidden) * max(1, columns - 1) // hidden
    owner = np.repeat(np.arange(columns), cardinalities)
    whole = {name: np.asarray(tensor) for name, tensor in tensors.items()}
    w1 = np.where(owner[:, None] <= degree, whole["w1"], 0).astype(np.int64)
    w2 = np.where(degree[:, None] <= degree, whole["w2"], 0).astype(np.int64)
    w3 = np.where(degree[:, None] < owner, whole["w3"], 0).astype(np.int64)
    scale3 = whole["scale3"] * F32(1.44269504)
    out = np.zeros(noise.shape, np.int32)
    sums = np.zeros((len(noise), hidden), np.int64)
    for column in range(columns):
        # Units that are not due yet meet only masked weights.
        h1 = _activation(sums.astype(F32) * whole["rescale1"] + whole["shift1"])
        inner = np.maximum((h1 @ w2 + whole["b2"]).astype(F32) * whole["rescale2"], F32(0))
        h2 = _activation(inner + h1.astype(F32) * whole["skip2"] + F32(0.5))
        own = slice(offsets[column], offsets[column + 1])
        logits = (h2 @ w3[:, own] + whole["b3"][own]).astype(F32) * scale3[own]
        weights = exp2_down(logits - logits.max(axis=1, keepdims=True))
        cumulative = np.cumsum(weights, axis=1, dtype=F32)
        u = noise[:, column]
        below = (cumulative[:, :-1] <= (u * cumulative[:, -1])[:, None]).sum(axis=1)
        out[:, column] = np.where(u >= 1, u.astype(np.int32) - 1, below)
        sums += w1[offsets[column] + out[:, column]]
    return out


def vector_tensors(
    cardinalities: Sequence[int], hidden: int, key: bytes
) -> dict[str, NDArray[np.generic]]:
    """Tensors made of the public stream, the same in Python and in native/test/generator.c.

    Parameters
    ----------
    cardinalities : sequence of int
    hidden : int
    key : bytes
        32 bytes.
    """
    v = sum(cardinalities)

    def uniform(stream: int, *shape: int) -> NDArray[np.float32]:
        return reference.uniform(key, stream, 0, int(np.prod(shape))).reshape(shape)

    def weights(stream: int, *shape: int) -> NDArray[np.int8]:
        # -128 too, which no bundle of this project holds: the products must stand it
        return ((uniform(stream, *shape) * F32(256)).astype(np.int32) - 128).astype(np.int8)

    def biases(stream: int, n: int) -> NDArray[np.int32]:
        return (uniform(stream, n) * F32(20000)).astype(np.int32) - 10000

    return {
        "w1": weights(1, v, hidden),
        "w2": weights(2, hidden, hidden),
        "w3": weights(3, hidden, v),
        "b2": biases(4, hidden),
        "b3": biases(5, v),
        "rescale1": uniform(6, hidden),
        "shift1": uniform(7, hidden) * F32(100),
        "rescale2": uniform(8, hidden) * F32(0.015625),
        "skip2": uniform(9, hidden),
        "scale3": uniform(10, v) * F32(0.0004),
    }
