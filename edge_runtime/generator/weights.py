"""First weights of a generator, before anything was trained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_runtime.errors import EngineError
from edge_runtime.generator.layout import F64, Layout, Weights

__all__ = ["initial_weights"]

#: A code never seen keeps half a row's worth of probability: its logit must stay finite, and one
#: real row must be able to bring it back.
_PSEUDO_COUNT = 0.5


def initial_weights(
    layout: Layout, *, seed: int, marginals: Sequence[F64] | None = None
) -> Weights:
    """Draw pre-masked first weights.

    Hidden layers keep the variance of their inputs (He et al. 2015, section 2.2, with the number
    of visible columns as fan-in of the one-hot layer). The output weights are small, so that the
    untrained generator draws its columns independently from `marginals`.

    Parameters
    ----------
    layout : Layout
        Shape of the network.
    seed : int
        Same seed, same weights.
    marginals : sequence of F64[K_d], optional
        Counts or probabilities per column; negative (noisy) entries count as zero. Uniform when
        absent.

    Raises
    ------
    EngineError
        If the marginals do not fit the layout.
    """
    rng = np.random.default_rng(seed)
    m1, m2, m3 = layout.masks
    seen = (layout.degrees + 1).astype(np.float32)
    feeding = np.maximum(m3.sum(axis=0), 1.0)

    def normal(rows: int, columns: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return rng.standard_normal((rows, columns), dtype=np.float32)

    v, h = layout.width, layout.hidden
    w1 = normal(v, h) * np.sqrt(2.0 / seen)[None, :] * m1
    w2 = normal(h, h) * np.sqrt(1.0 / m2.sum(axis=0))[None, :] * m2
    w3 = normal(h, v) * (0.1 / np.sqrt(feeding))[None, :] * m3
    return Weights(
        w1=w1.astype(np.float32),
        b1=np.zeros(h, np.float32),
        w2=w2.astype(np.float32),
        b2=np.zeros(h, np.float32),
        w3=w3.astype(np.float32),
        b3=_log_marginals(layout, marginals),
    )


def _log_marginals(
    layout: Layout, marginals: Sequence[F64] | None
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    if marginals is None:
        return np.zeros(layout.width, np.float32)
    if len(marginals) != layout.columns:
        raise EngineError(f"{len(marginals)} marginals for {layout.columns} columns")
    logs = []
    for column, (counts, cardinality) in enumerate(
        zip(marginals, layout.cardinalities, strict=True)
    ):
        counted = np.asarray(counts, np.float64)
        if counted.shape != (cardinality,) or not np.isfinite(counted).all():
            raise EngineError(
                f"marginal of column {column} must be {cardinality} finite numbers, "
                f"not shape {list(counted.shape)}"
            )
        positive = np.maximum(counted, 0.0)
        total = positive.sum()
        # Probabilities have no row count; a thousand rows stand in for it.
        rows = total if total > 1.5 else 1000.0
        share = positive / total if total > 0 else np.full(cardinality, 1.0 / cardinality)
        smoothed = (share * rows + _PSEUDO_COUNT) / (rows + _PSEUDO_COUNT * cardinality)
        logs.append(np.log(smoothed))
    return np.concatenate(logs).astype(np.float32)
