"""The generator in plain numpy: what the network means, without any engine.

`sample` is the float network and the yardstick of the quality tests; the quantised network has its
own reference in `edge_runtime.generator.quantize`.
"""

from __future__ import annotations

import numpy as np

from edge_runtime.errors import EngineError
from edge_runtime.generator.layout import F32, F64, I32, Layout, Weights

__all__ = ["check_codes", "check_noise", "draw", "forward", "logits", "nll", "sample"]


def check_codes(codes: I32, layout: Layout) -> None:
    """Refuse codes of another shape or outside the cardinalities.

    Raises
    ------
    EngineError
        Naming the column.
    """
    if codes.ndim != 2 or codes.shape[1] != layout.columns or codes.dtype != np.int32:
        raise EngineError(
            f"codes must be int32 [rows, {layout.columns}], not {codes.dtype} {list(codes.shape)}"
        )
    if codes.size == 0:
        return
    limits = np.asarray(layout.cardinalities)
    wrong = (codes.min(axis=0) < 0) | (codes.max(axis=0) >= limits)
    if wrong.any():
        column = int(np.flatnonzero(wrong)[0])
        raise EngineError(
            f"column {column} has codes outside 0..{layout.cardinalities[column] - 1}"
        )


def check_noise(noise: F32, layout: Layout) -> None:
    """Refuse noise that does not follow the contract of `sample`.

    Raises
    ------
    EngineError
        For another shape or type, NaN, negative values, or a forced code outside its column.
    """
    if noise.ndim != 2 or noise.shape[1] != layout.columns or noise.dtype != np.float32:
        raise EngineError(
            f"noise must be float32 [rows, {layout.columns}], not {noise.dtype} {list(noise.shape)}"
        )
    if noise.shape[0] == 0:
        return
    limits = np.asarray(layout.cardinalities, np.float32) + 1.0
    # NaN fails both comparisons, so their negation catches it.
    fine = (noise.min(axis=0) >= 0.0) & (noise.max(axis=0) < limits)
    if not fine.all():
        column = int(np.flatnonzero(~fine)[0])
        raise EngineError(
            f"noise of column {column} must be a uniform in [0, 1), or 1 + code for a code below "
            f"{layout.cardinalities[column]}"
        )


def _embed(weights: Weights, layout: Layout, codes: I32) -> F32:
    hidden = np.tile(weights.b1, (codes.shape[0], 1))
    for column, offset in enumerate(layout.offsets[:-1]):
        hidden += weights.w1[codes[:, column] + offset]
    return hidden


def forward(weights: Weights, layout: Layout, codes: I32) -> tuple[F32, F32, F32]:
    """Both hidden layers, F32[n, H] each, and all logits, F32[n, V], of given rows.

    Raises
    ------
    EngineError
        If the codes do not fit the layout.
    """
    check_codes(codes, layout)
    h1: F32 = np.maximum(_embed(weights, layout, codes), 0)
    h2: F32 = np.maximum(h1 @ weights.w2 + weights.b2, 0) + h1
    return h1, h2, h2 @ weights.w3 + weights.b3


def logits(weights: Weights, layout: Layout, codes: I32) -> F32:
    """All logits of given rows, F32[n, V].

    Parameters
    ----------
    weights : Weights
    layout : Layout
    codes : I32[n, D]

    Raises
    ------
    EngineError
        If the codes do not fit the layout.
    """
    return forward(weights, layout, codes)[2]


def nll(weights: Weights, layout: Layout, codes: I32) -> F64:
    """Negative log-likelihood of every row in nats, F64[n].

    Raises
    ------
    EngineError
        If the codes do not fit the layout.
    """
    scores = logits(weights, layout, codes).astype(np.float64)
    rows = np.arange(codes.shape[0])
    total = np.zeros(codes.shape[0])
    for column, (a, b) in enumerate(zip(layout.offsets, layout.offsets[1:], strict=False)):
        block = scores[:, a:b]
        # The maximum of each block, not of the row: a row maximum underflows a whole column.
        top = block.max(axis=1)
        total += top + np.log(np.exp(block - top[:, None]).sum(axis=1))
        total -= block[rows, codes[:, column]]
    return total


def draw(scores: F32, u: F32) -> I32:
    """Draw codes from unnormalised logits by the inverse of the cumulative distribution.

    Parameters
    ----------
    scores : F32[n, K] or F32[1, K]
    u : F32[n]
        Uniforms in [0, 1); a value >= 1 forces the code int(u) - 1.

    Returns
    -------
    I32[n]
    """
    forced = u >= 1
    cumulative = np.cumsum(np.exp(scores - scores.max(axis=1, keepdims=True)), axis=1)
    threshold = u * cumulative[:, -1]
    drawn = (cumulative[:, :-1] <= threshold[:, None]).sum(axis=1, dtype=np.int32)
    clamped: I32 = np.where(forced, u.astype(np.int32) - 1, drawn).astype(np.int32)
    return clamped


def sample(weights: Weights, layout: Layout, noise: F32) -> I32:
    """Draw rows with the float network.

    Parameters
    ----------
    weights : Weights
    layout : Layout
    noise : F32[n, D]
        Uniforms in [0, 1), one per column; 1 + code forces that code.

    Returns
    -------
    I32[n, D]
        Codes.

    Raises
    ------
    EngineError
        If the noise breaks the contract.
    """
    check_noise(noise, layout)
    rows = noise.shape[0]
    codes = np.zeros((rows, layout.columns), np.int32)
    embedded = np.tile(weights.b1, (rows, 1))
    h1 = np.zeros((rows, layout.hidden), np.float32)
    h2 = np.zeros_like(h1)
    for column, (a, b) in enumerate(zip(layout.offsets, layout.offsets[1:], strict=False)):
        first, end = layout.units(column - 1) if column else (0, 0)
        if end > first:
            h1[:, first:end] = np.maximum(embedded[:, first:end], 0)
            inner = h1[:, :end] @ weights.w2[:end, first:end] + weights.b2[first:end]
            h2[:, first:end] = np.maximum(inner, 0) + h1[:, first:end]
        scores = h2[:, :end] @ weights.w3[:end, a:b] + weights.b3[a:b]
        codes[:, column] = draw(scores, noise[:, column])
        embedded += weights.w1[codes[:, column] + a]
    return codes
