"""Distributions that the network states exactly, by the integer weights that engines run.

An engine draws each column given those before it. What a column is given LATER ones follows from
Bayes' theorem: the likelihood of whole rows, for every code that could stand there. The logits are
exact integers times a scale, so that every machine finds the same distribution.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.generator.layout import F64, I32, Layout
from edge_runtime.generator.quantize import quantised_logits
from edge_runtime.kernel import fill_uniform

__all__ = ["Leading", "every_combination", "leading_given", "log_probabilities", "no_leading"]

Tensors = Mapping[str, npt.NDArray[np.generic]]

#: combinations of leading columns that are worth the time: 4,096 rows through numpy take some 50 ms
_MOST_LEADING = 4096
#: rows of logits held at a time: 1 MB at 300 codes
_PART_ROWS = 1024


def log_probabilities(tensors: Tensors, layout: Layout, codes: I32) -> F64:
    """Logarithm of the probability of each code given the codes before it, float64 [n, D].

    Parameters
    ----------
    tensors : mapping
        The quantised weights.
    layout : Layout
    codes : int32 [n, D]

    Raises
    ------
    EngineError
        If the codes do not fit the layout.
    """
    found = np.empty(codes.shape)
    for start in range(0, len(codes), _PART_ROWS):
        part = codes[start : start + _PART_ROWS]
        scores = quantised_logits(tensors, layout, part).astype(np.float64)
        rows = np.arange(len(part))
        for column, (a, b) in enumerate(zip(layout.offsets, layout.offsets[1:], strict=False)):
            block = scores[:, a:b]
            top = block.max(axis=1)
            total = top + np.log(np.exp(block - top[:, None]).sum(axis=1))
            found[start : start + len(part), column] = block[rows, part[:, column]] - total
    return found


def every_combination(choices: list[npt.NDArray[np.int32]]) -> I32:
    """Every combination of one code per column, int32 [product, columns], the last one fastest."""
    grids = np.meshgrid(*choices, indexing="ij")
    return np.stack([grid.reshape(-1) for grid in grids], axis=1).astype(np.int32)


class Leading(NamedTuple):
    """Codes of the first columns given what is wished for among them.

    `codes` is int32 [n, columns], one row per combination; `shares` float64 [n] sums to 1;
    `probability` is that of the wish.
    """

    codes: I32
    shares: F64
    probability: float

    def draw(self, rows: int, *, key: bytes, stream: int, offset: int = 0) -> dict[int, I32]:
        """Draw codes for so many rows, int32 [rows] by column; parameters as `fill_uniform`."""
        if not self.codes.shape[1]:
            return {}
        uniform = np.empty(rows, np.float32)
        fill_uniform(uniform, key=key, stream=stream, offset=offset)
        edges = np.cumsum(self.shares)
        chosen = np.searchsorted(edges / edges[-1], uniform.astype(np.float64), side="right")
        return {
            column: np.ascontiguousarray(self.codes[chosen, column])
            for column in range(self.codes.shape[1])
        }


def no_leading() -> Leading:
    """Return the distribution of no columns: nothing is forced."""
    return Leading(np.zeros((1, 0), np.int32), np.ones(1), 1.0)


def leading_given(
    tensors: Tensors, layout: Layout, wished: Mapping[int, int], *, reach: Collection[int] = ()
) -> Leading:
    """Distribution of the leading columns up to the last wished one that can be reached.

    A wished column is reached while the columns before it have few enough combinations to try them
    all; wishes behind that are left to the caller.

    Parameters
    ----------
    tensors : mapping
        The quantised weights.
    layout : Layout
    wished : mapping of int to int
        Codes by column.
    reach : collection of int
        Columns that are to be among the leading ones as well, if they can be reached.

    Returns
    -------
    Leading
        Of no columns where none is reached.

    Raises
    ------
    EngineError
        If a wished code does not exist.
    """
    reached, combinations = 0, 1
    for column, cardinality in enumerate(layout.cardinalities):
        combinations *= 1 if column in wished else cardinality
        if combinations > _MOST_LEADING:
            break
        if column in wished or column in reach:
            reached = column + 1
    choices = [
        np.array([wished[c]], np.int32) if c in wished else np.arange(k, dtype=np.int32)
        for c, k in enumerate(layout.cardinalities[:reached])
    ]
    if not reached:
        return no_leading()
    leading = every_combination(choices)
    codes = np.zeros((len(leading), layout.columns), np.int32)
    codes[:, :reached] = leading
    # Later columns have no say in the earlier ones, whatever code stands there.
    likelihood = log_probabilities(tensors, layout, codes)[:, :reached].sum(axis=1)
    shares = np.exp(likelihood - likelihood.max())
    total = float(shares.sum())
    return Leading(leading, shares / total, float(total * np.exp(likelihood.max())))
