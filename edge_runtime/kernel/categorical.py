"""Codes from logits: the softmax of each column's block, drawn by its inverse CDF."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import KernelError
from edge_runtime.kernel._call import check, ffi, lib, matrix
from edge_runtime.kernel._threads import in_parts

__all__ = ["categorical"]

_LEAST_ROWS = 1024
_TEMPERATURES = (2.0**-20, 2.0**20)


def categorical(
    logits: NDArray[np.float32],
    u: NDArray[np.float32],
    widths: Sequence[int],
    *,
    temperature: float = 1.0,
    out: NDArray[np.int32] | None = None,
    threads: int = 1,
) -> NDArray[np.int32]:
    """Draw one code per column from the softmax of the column's logits.

    Parameters
    ----------
    logits : float32 [n, V]
        The columns' blocks side by side, V = sum of `widths`. -inf rules a category out; it is
        never drawn, not even by rounding.
    u : float32 [n, D]
        Uniforms in [0, 1). A value >= 1 forces the code int(u) - 1.
    widths : sequence of int
        [D], number of categories of each column.
    temperature : float
        Logits are divided by it: 2^-20 to 2^20. Below 1 favours likely categories.
    out : int32 [n, D], optional
        Written and returned; its rows may be strided.
    threads : int
        Most threads over rows; the codes do not depend on it.

    Returns
    -------
    int32 [n, D]

    Raises
    ------
    KernelError
        For a NaN or +inf logit, a block of nothing but -inf, a negative or NaN u, a forced code
        outside its column, or sizes that do not match; `out` is then worthless.

    Notes
    -----
    Code k is the number of cumulative weights at or below u times their sum, in float32, added
    from first to last; weights exp((logit - maximum) / temperature) below exp(-87) count as 0.
    `edge_runtime.kernel.reference_rows.categorical` repeats every bit.
    """
    name = "categorical"
    sizes = np.asarray(widths)
    if sizes.ndim != 1 or sizes.dtype.kind not in "iu" or sizes.size == 0 or sizes.min() < 1:
        raise KernelError(f"{name}: widths must be positive integers, one per column")
    if sizes.max() > lib.ER_CATEGORIES_MAX:
        raise KernelError(f"{name}: a column of {sizes.max()} categories is too wide")
    if not _TEMPERATURES[0] <= temperature <= _TEMPERATURES[1]:
        raise KernelError(f"{name}: temperature {temperature} is outside 2^-20..2^20")
    columns, total = int(sizes.size), int(sizes.sum())
    logit_pointer, logit_stride, logits = matrix(logits, name, np.float32, total)
    u_pointer, u_stride, u = matrix(u, name, np.float32, columns, rows=logits.shape[0])
    rows = logits.shape[0]
    if out is None:
        out = np.empty((rows, columns), np.int32)
    code_pointer, code_stride, target = matrix(out, name, np.int32, columns, rows=rows)
    if target is not out or not out.flags.writeable:
        raise KernelError(f"{name}: the codes of a row must be writable, side by side")
    blocks: Any = ffi.new("uint32_t[]", sizes.tolist())

    def work(first: int, end: int) -> int:
        code: int = lib.er_categorical(
            code_pointer + first * code_stride,
            code_stride,
            end - first,
            logit_pointer + first * logit_stride,
            logit_stride,
            u_pointer + first * u_stride,
            u_stride,
            blocks,
            columns,
            temperature,
        )
        return code

    check(in_parts(work, rows, threads=threads, least=_LEAST_ROWS, function=name), name)
    return out
