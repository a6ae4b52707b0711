"""The guard: a candidate generator is held against the anchor before it is published.

Judging a generator by its own pool alone can itself cause collapse; the anchor comes from real
rows of the whole fleet. A column is out of bounds when its total variation from the anchor exceeds
what is always allowed, or the published generator's plus a margin, plus what the anchor's noise
and the finite sample explain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.aggregator.anchor import Anchor
from edge_runtime.aggregator.config import GuardSettings

__all__ = ["Verdict", "judge"]


class Verdict(NamedTuple):
    """What the guard found.

    `total_variation` and `allowed` are per column that the anchor has; `pairs` is the mean over the
    anchor's tables of several columns (None without any); `nll` the mean held-out negative
    log-likelihood in nats per row, `current_nll` that of the generator in force.
    """

    accepted: bool
    reason: str
    total_variation: dict[str, float]
    allowed: dict[str, float]
    pairs: float | None
    nll: float
    current_nll: float

    def figures(self) -> dict[str, float]:
        """Return the same as flat figures for the status and the bundle."""
        flat = {f"total_variation.{name}": value for name, value in self.total_variation.items()}
        flat["total_variation.mean"] = float(np.mean(list(self.total_variation.values())))
        flat["total_variation.max"] = max(self.total_variation.values())
        if self.pairs is not None:
            flat["total_variation.pairs"] = self.pairs
        flat["validation_nll"] = self.nll
        flat["validation_nll.before"] = self.current_nll
        return flat


def judge(
    *,
    candidate: npt.NDArray[np.int32],
    current: npt.NDArray[np.int32],
    anchor: Anchor,
    names: Sequence[str],
    settings: GuardSettings,
    nll: float,
    current_nll: float,
) -> Verdict:
    """Judge a candidate.

    Parameters
    ----------
    candidate, current : int32 [n, D]
        Rows sampled from the candidate and from the generator in force, by the engine that
        devices run.
    anchor : Anchor
        The reference.
    names : sequence of str
        Column names.
    settings : GuardSettings
        [guard].
    nll, current_nll : float
        Of both on held-out pooled rows, in nats per row.

    Returns
    -------
    Verdict
    """
    found, allowed, out = {}, {}, []
    for column, name in enumerate(names):
        table = anchor.one_way(column)
        if table is None:
            continue
        error = table.error + table.sampling_error(len(candidate))
        before = table.total_variation(current)
        found[name] = table.total_variation(candidate)
        allowed[name] = max(settings.limit, before + settings.margin) + error
        if found[name] > allowed[name]:
            out.append(f"{name} is {found[name]:.3f} from the anchor, allowed {allowed[name]:.3f}")
    if not math.isfinite(nll):
        out.append("its held-out likelihood is not finite")
    elif nll > current_nll + settings.nll_margin:
        out.append(
            f"held-out rows are less likely than before: {nll:.3f} against {current_nll:.3f} "
            "nats per row"
        )
    pairs = [
        table.total_variation(candidate)
        for table in anchor.tables.values()
        if len(table.columns) > 1
    ]
    return Verdict(
        accepted=not out,
        reason="; ".join(out),
        total_variation=found,
        allowed=allowed,
        pairs=float(np.mean(pairs)) if pairs else None,
        nll=nll,
        current_nll=current_nll,
    )
