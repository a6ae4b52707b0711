"""What is measured of a generation, and the two figures that do not see a collapse."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from edge_runtime.generator import Layout, Weights
from edge_runtime.schema import Codec
from edge_runtime.training import GradientStep, make_step, mean_nll

__all__ = ["Figures", "Judge"]

I32 = npt.NDArray[np.int32]
F64 = npt.NDArray[np.float64]

#: the outer share of real rows of a numeric column, on each side, that counts as its tail
TAIL = 0.025
#: a code of a category or count that fewer real rows than this share have is rare
RARE = 0.02


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One generation.

    Parameters
    ----------
    nll : float
        Of held-out real rows, nats per row.
    tails : float
        Mass that synthetic rows put into the tails of numeric columns, over the held-out rows'.
    dependence : float
        Mean absolute difference of Cramer's V to held-out rows over all pairs of columns.
    rare : float
        Share of rare codes that keep at least half of their real share.
    coverage : float
        FAILING ALTERNATIVE: share of real categories that occur at all, and of a numeric column's
        real range that is spanned, mean over columns (as SDMetrics' CategoryCoverage and
        RangeCoverage).
    local_quality : float
        FAILING ALTERNATIVE: mean log-likelihood of synthetic rows under the models that devices
        have of their own rows; higher is "better".
    """

    nll: float
    tails: float
    dependence: float
    rare: float
    coverage: float
    local_quality: float

    def as_dict(self) -> dict[str, float]:
        """Return the figures by name."""
        return asdict(self)


class Judge:
    """Holds the held-out rows and the devices' models of their own rows.

    Parameters
    ----------
    codec : Codec
        Of the fleet.
    layout : Layout
        Of the network.
    held_out : int32 [rows, D]
        Real rows that are used nowhere else.
    local_models : list of Weights
        A model per device, trained on its own real rows alone.
    """

    def __init__(
        self, *, codec: Codec, layout: Layout, held_out: I32, local_models: list[Weights]
    ) -> None:
        self._cardinalities = codec.cardinalities
        self._numeric = [d for d, column in enumerate(codec.schema.columns) if column.numeric]
        self.layout = layout
        self.step: GradientStep = make_step(layout)
        self._held_out = held_out
        self._local_models = local_models
        self._shares = [_shares(held_out[:, d], k) for d, k in enumerate(self._cardinalities)]
        self._tail_codes = {d: _tails(self._shares[d]) for d in self._numeric}
        self._v = self._dependence(held_out)

    def figures(self, weights: Weights, rows: I32) -> Figures:
        """Judge a generator by its weights and rows that it has made."""
        shares = [_shares(rows[:, d], k) for d, k in enumerate(self._cardinalities)]
        tails = [
            shares[d][codes].sum() / self._shares[d][codes].sum()
            for d, codes in self._tail_codes.items()
        ]
        rare_real = np.concatenate([s[(s > 0) & (s < RARE)] for s in self._shares])
        rare_made = np.concatenate(
            [
                made[(real > 0) & (real < RARE)]
                for real, made in zip(self._shares, shares, strict=True)
            ]
        )
        return Figures(
            nll=mean_nll(weights, self._held_out, self.layout, self.step),
            tails=float(np.mean(tails)),
            dependence=float(np.abs(self._dependence(rows) - self._v).mean()),
            rare=float((rare_made >= 0.5 * rare_real).mean()),
            coverage=self._coverage(shares),
            local_quality=-float(
                np.mean([mean_nll(w, rows, self.layout, self.step) for w in self._local_models])
            ),
        )

    def likelihoods(self, rows: I32) -> list[F64]:
        """Log-likelihood of each row by each device's own model."""
        return [-self.step.nll(w, rows).astype(np.float64) for w in self._local_models]

    def _coverage(self, shares: list[F64]) -> float:
        found = []
        for d, (real, made) in enumerate(zip(self._shares, shares, strict=True)):
            if d in self._numeric:
                low, high = np.flatnonzero(real)[[0, -1]]
                first, last = np.clip(np.flatnonzero(made)[[0, -1]], low, high)
                found.append((last - first) / max(1, high - low))
            else:
                found.append((made[real > 0] > 0).mean())
        return float(np.mean(found))

    def _dependence(self, rows: I32) -> F64:
        """Cramer's V of every pair of columns, bias-corrected (Bergsma 2013)."""
        return np.array(
            [
                _cramers_v(rows[:, a], rows[:, b], self._cardinalities[a], self._cardinalities[b])
                for a, b in combinations(range(rows.shape[1]), 2)
            ]
        )


def _shares(codes: npt.NDArray[np.int32], cardinality: int) -> F64:
    return np.bincount(codes, minlength=cardinality) / max(1, len(codes))


def _tails(shares: F64) -> npt.NDArray[np.intp]:
    """Codes that lie wholly in the outer shares; at least the first and the last that occur."""
    below, above = np.cumsum(shares), np.cumsum(shares[::-1])[::-1]
    seen = np.flatnonzero(shares)
    low = np.flatnonzero((below <= TAIL) & (shares > 0))
    high = np.flatnonzero((above <= TAIL) & (shares > 0))
    return np.unique(np.concatenate([low, high, seen[[0, -1]]]))


def _cramers_v(a: I32, b: I32, rows: int, columns: int) -> float:
    n = len(a)
    table = np.bincount(a.astype(np.int64) * columns + b, minlength=rows * columns)
    table = table.reshape(rows, columns)
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    r, k = table.shape
    if min(r, k) < 2:
        return 0.0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / n
    phi2 = float((table**2 / expected).sum() / n - 1)
    phi2 = max(0.0, phi2 - (r - 1) * (k - 1) / (n - 1))
    size = min(r - (r - 1) ** 2 / (n - 1), k - (k - 1) ** 2 / (n - 1)) - 1
    return float(np.sqrt(phi2 / size)) if size > 0 else 0.0
