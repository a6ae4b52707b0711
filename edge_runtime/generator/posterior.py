"""What codes of a row could be, given the others: before and behind them.

Where the missing cells of a row have few combinations, each is tried and the distribution is exact.
Else candidates are drawn forward, missing cells from the network and known ones as they are, and
weighted by the likelihood of the known ones (self-normalised importance sampling; Owen 2013, Monte
Carlo theory, section 9.2). Where few candidates carry all the weight, Gibbs sweeps over the missing
cells follow, each cell from its exact distribution given all others (Geman and Geman 1984).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.generator.bundle import Bundle
from edge_runtime.generator.conditional import every_combination, log_probabilities
from edge_runtime.generator.layout import F32, F64, I32
from edge_runtime.generator.stepping import step_through
from edge_runtime.kernel import fill_uniform

__all__ = ["Posterior", "RowPosterior"]

Mask = npt.NDArray[np.bool_]

#: combinations of missing cells that are all tried
_MOST_COMBINATIONS = 1024
#: candidates of a row beyond that
_CANDIDATES = 512
#: a row whose weights are worth fewer equal ones is swept
_LEAST_EFFECTIVE = 16.0
#: least chains of a swept row, and sweeps of each; the first does not count
_CHAINS, _SWEEPS = 8, 3
#: rows of codes held at a time
_PART_ROWS = 8192
#: streams of a row's key
_FORWARD, _CHOICE, _SWEEP = 0, 1, 2


class RowPosterior(NamedTuple):
    """What the missing cells of one row could be.

    `draws` int32 [draws, D] are whole rows, `best` int32 [D] the likeliest of the candidates;
    `shares` has float64 [K] of each missing column;
    `effective` is the number of equally weighted candidates that the weights are worth, infinite
    where the distribution is exact; `possible` whether any candidate can keep the constraints.
    """

    draws: I32
    best: I32
    shares: dict[int, F64]
    effective: float
    possible: bool


class Posterior:
    """Distributions of missing cells.

    Parameters
    ----------
    bundle : Bundle
        Its quantised weights are the model: the same that engines draw from.
    possible : callable
        Says of codes int32 [n, D] which can keep the constraints.
    """

    def __init__(self, bundle: Bundle, *, possible: Callable[[I32], Mask]) -> None:
        self._layout = bundle.layout
        tensors = bundle.quantised.tensors
        self._float: dict[str, F32] = {
            name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()
        }
        self._possible = possible
        #: codes that a filled cell may have: not that of a missing value
        self._choices = [
            np.arange(k - column.nullable, dtype=np.int32)
            for column, k in zip(bundle.schema.columns, self._layout.cardinalities, strict=True)
        ]

    def of(
        self, codes: I32, missing: Mask, *, draws: int, key: bytes, first: int = 0
    ) -> Iterator[RowPosterior]:
        """Yield one result per row, in order.

        Parameters
        ----------
        codes : int32 [n, D]
            What stands in missing cells does not matter.
        missing : bool [n, D]
        draws : int
            Rows to draw of each, possibly none.
        key : bytes
            32 public bytes; a row's draws depend on it, the row and its number alone.
        first : int
            Number of the first row.
        """
        for row in range(len(codes)):
            own = hashlib.sha256(key + (first + row).to_bytes(8, "little")).digest()
            columns = np.flatnonzero(missing[row])
            combinations = np.prod([float(len(self._choices[c])) for c in columns])
            if not len(columns):
                same = np.repeat(codes[row][None], draws, 0)
                yield RowPosterior(same, codes[row], {}, np.inf, True)
            elif combinations <= _MOST_COMBINATIONS:
                yield self._tried(codes[row], columns, draws=draws, key=own)
            else:
                yield self._sampled(codes[row], columns, draws=draws, key=own)

    def _tried(
        self, row: I32, columns: npt.NDArray[np.intp], *, draws: int, key: bytes
    ) -> RowPosterior:
        """Try all combinations."""
        cells = every_combination([self._choices[column] for column in columns])
        codes = np.repeat(row[None], len(cells), axis=0)
        codes[:, columns] = cells
        # Columns before the first missing one have no say in the comparison.
        likelihood = log_probabilities(self._float, self._layout, codes)[:, columns[0] :]
        weights, possible = self._weights(codes, likelihood.sum(axis=1))
        chosen = _choose(weights, _uniform(draws, key, _CHOICE))
        shares = self._shares(codes, weights, columns)
        return RowPosterior(codes[chosen], codes[weights.argmax()], shares, np.inf, possible)

    def _sampled(
        self, row: I32, columns: npt.NDArray[np.intp], *, draws: int, key: bytes
    ) -> RowPosterior:
        """Draw candidates, weigh them and sweep where they are too few."""
        codes, likelihood = self._forward(row, columns, key=key)
        weights, possible = self._weights(codes, likelihood)
        effective = float(1.0 / (weights**2).sum())
        swept = effective < _LEAST_EFFECTIVE
        chains = max(draws, _CHAINS) if swept else draws
        drawn = codes[_choose(weights, _uniform(chains, key, _CHOICE))]
        shares = self._shares(codes, weights, columns)
        best: I32 = codes[weights.argmax()]
        if swept:
            drawn, shares = self._swept(drawn, columns, key=key)
            possible_now = self._possible(drawn)
            if not possible and possible_now.any():
                best, possible = drawn[possible_now.argmax()], True
        return RowPosterior(drawn[:draws], best, shares, effective, possible)

    def _forward(self, row: I32, columns: npt.NDArray[np.intp], *, key: bytes) -> tuple[I32, F64]:
        """Draw candidates, int32 [n, D], and the logarithms of their weights, float64 [n]."""
        missing = np.zeros(self._layout.columns, np.bool_)
        missing[columns] = True
        uniform = _uniform(_CANDIDATES * self._layout.columns, key, _FORWARD)
        uniform = uniform.reshape(_CANDIDATES, self._layout.columns)
        likelihood = np.zeros(_CANDIDATES)

        def choose(column: int, scores: F32) -> I32:
            nonlocal likelihood
            if column < columns[0]:
                return np.full(_CANDIDATES, row[column], np.int32)
            logs = _log_softmax(scores)
            if not missing[column]:
                likelihood = likelihood + logs[:, row[column]]
                return np.full(_CANDIDATES, row[column], np.int32)
            allowed = np.exp(logs[:, : len(self._choices[column])])
            total = allowed.sum(axis=1)
            # A value is asked for: how likely it was that there is one is part of the weight.
            likelihood = likelihood + np.log(np.maximum(total, 1e-300))
            edges = np.cumsum(allowed, axis=1)
            drawn = (edges[:, :-1] <= (uniform[:, column] * edges[:, -1])[:, None]).sum(axis=1)
            return np.asarray(drawn, np.int32)

        codes = step_through(self._float, self._layout, _CANDIDATES, choose)
        return codes, likelihood

    def _swept(
        self, chains: I32, columns: npt.NDArray[np.intp], *, key: bytes
    ) -> tuple[I32, dict[int, F64]]:
        """Sweep over the missing cells of all chains; the chains, and shares averaged over them."""
        chains = chains.copy()
        number = len(chains)
        uniform = _uniform(_SWEEPS * len(columns) * number, key, _SWEEP)
        uniform = uniform.reshape(_SWEEPS, len(columns), number)
        shares = {int(column): np.zeros(self._layout.cardinalities[column]) for column in columns}
        for sweep in range(_SWEEPS):
            for index, column in enumerate(columns):
                choices = self._choices[column]
                weights = np.empty((number, len(choices)))
                step = max(1, _PART_ROWS // len(choices))
                for start in range(0, number, step):
                    part = chains[start : start + step]
                    tried = np.repeat(part, len(choices), axis=0)
                    tried[:, column] = np.tile(choices, len(part))
                    logs = log_probabilities(self._float, self._layout, tried)[:, column:]
                    likelihood = logs.sum(axis=1)
                    likelihood[~self._possible(tried)] = -np.inf
                    weights[start : start + step] = likelihood.reshape(len(part), -1)
                top = weights.max(axis=1, keepdims=True)
                stuck = ~np.isfinite(top[:, 0])  # no code is possible beside the others: stay
                weights = np.exp(weights - np.where(np.isfinite(top), top, 0.0))
                weights[stuck, chains[stuck, column]] = 1.0
                weights /= weights.sum(axis=1, keepdims=True)
                edges = np.cumsum(weights, axis=1)
                drawn = (edges[:, :-1] <= uniform[sweep, index][:, None]).sum(axis=1)
                chains[:, column] = drawn
                if sweep:
                    shares[int(column)][: len(choices)] += weights.sum(axis=0)
        return chains, {column: share / share.sum() for column, share in shares.items()}

    def _weights(self, codes: I32, likelihood: F64) -> tuple[F64, bool]:
        """Weights that sum to 1, of what is possible if anything is."""
        possible = self._possible(codes)
        if possible.any():
            likelihood = np.where(possible, likelihood, -np.inf)
        weights = np.exp(likelihood - likelihood.max())
        return weights / weights.sum(), bool(possible.any())

    def _shares(self, codes: I32, weights: F64, columns: npt.NDArray[np.intp]) -> dict[int, F64]:
        return {
            int(c): np.asarray(
                np.bincount(codes[:, c], weights, minlength=self._layout.cardinalities[c]),
                np.float64,
            )
            for c in columns
        }


def _log_softmax(scores: F32) -> F64:
    shifted = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    logs: F64 = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


def _choose(weights: F64, uniform: F64) -> npt.NDArray[np.intp]:
    edges = np.cumsum(weights)
    found = np.searchsorted(edges, uniform * edges[-1], side="right")
    return np.asarray(np.minimum(found, len(weights) - 1), np.intp)


def _uniform(count: int, key: bytes, stream: int) -> F64:
    out = np.empty(count, np.float32)
    fill_uniform(out, key=key, stream=stream)
    return out.astype(np.float64)
