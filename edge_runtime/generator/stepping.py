"""The integer network in numpy, one column after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edge_runtime.generator.layout import F32, I32, Layout
from edge_runtime.generator.quantize import to_activation

__all__ = ["step_through"]


def step_through(
    tensors: Mapping[str, F32], layout: Layout, rows: int, choose: Callable[[int, F32], I32]
) -> I32:
    """Choose the codes of rows column by column, each unit being computed once per row.

    Parameters
    ----------
    tensors : mapping
        The quantised weights as float32, see `edge_runtime.generator.quantize.TENSORS`.
    layout : Layout
    rows : int
    choose : callable
        Gets a column and its logits given the codes so far, float32 [rows, K]; returns the
        column's codes, int32 [rows].

    Returns
    -------
    int32 [rows, D]
    """
    t = tensors
    codes = np.zeros((rows, layout.columns), np.int32)
    acc = np.zeros((rows, layout.hidden), np.float32)
    h1 = np.zeros((rows, layout.hidden), np.float32)
    h2 = np.zeros_like(h1)
    for column, (a, b) in enumerate(zip(layout.offsets, layout.offsets[1:], strict=False)):
        first, end = layout.units(column - 1) if column else (0, 0)
        new = slice(first, end)
        if end > first:
            h1[:, new] = to_activation(acc[:, new] * t["rescale1"][new] + t["shift1"][new])
            inner = h1[:, :end] @ t["w2"][:end, new] + t["b2"][new]
            inner = np.maximum(inner * t["rescale2"][new], 0)
            skip = h1[:, new] * t["skip2"][new]
            h2[:, new] = to_activation(inner + skip + np.float32(0.5))
        scores = (h2[:, :end] @ t["w3"][:end, a:b] + t["b3"][a:b]) * t["scale3"][a:b]
        codes[:, column] = choose(column, scores)
        acc += t["w1"][codes[:, column] + a]
    return codes
