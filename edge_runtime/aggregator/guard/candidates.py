"""A candidate generator is held against the anchor before it is published.

Judging a generator by its own pool alone can itself cause collapse; the anchor comes from real
rows of the whole fleet. A candidate is published only when it is no worse than the generator in
force beyond the statistical error: in every measured table its total variation from the anchor is
within what is always allowed, or within the current generator's plus a margin, each with what the
anchor's noise and the finite samples explain; and pooled rows that neither was trained on are no
less likely.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.aggregator.anchor import Anchor
from edge_runtime.aggregator.config import GuardSettings
from edge_runtime.aggregator.guard.distance import (
    compare,
    counts_of,
    rows_of,
)

__all__ = ["Verdict", "judge", "paired_error"]

I32 = npt.NDArray[np.int32]


class Verdict(NamedTuple):
    """What the guard found.

    `total_variation` and `allowed` are per table, by the names of its columns joined with " x ";
    `pairs` is the mean over tables of two and more columns (None without them); `nll` the mean
    held-out negative log-likelihood in nats per row, `current_nll` that of the generator in force.
    """

    accepted: bool
    reason: str
    total_variation: dict[str, float]
    allowed: dict[str, float]
    pairs: float | None
    nll: float
    current_nll: float

    def figures(self) -> dict[str, float]:
        """Return the same as flat figures for the status and the bundle.

        Of tables over several columns only their mean, as their number grows with the square of
        the columns'.
        """
        single = {k: v for k, v in self.total_variation.items() if _JOIN not in k}
        flat = {f"total_variation.{name}": value for name, value in single.items()}
        if single:
            flat["total_variation.mean"] = float(np.mean(list(single.values())))
            flat["total_variation.max"] = max(single.values())
        if self.pairs is not None:
            flat["total_variation.pairs"] = self.pairs
        flat["validation_nll"] = self.nll
        flat["validation_nll.before"] = self.current_nll
        return flat


_JOIN = " x "


def judge(
    *,
    candidate: I32,
    current: I32,
    anchor: Anchor,
    names: Sequence[str],
    settings: GuardSettings,
    nll: float,
    current_nll: float,
    nll_error: float = 0.0,
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
    nll_error : float
        Standard error of their difference, from `paired_error`.

    Returns
    -------
    Verdict
    """
    singles = [anchor.one_way(d) for d in range(len(names))]
    tables = [table for table in singles if table is not None]
    tables += [table for table in anchor.tables.values() if len(table.columns) > 1]
    rows, rows_variance = rows_of(tables)
    p = settings.false_alarms / max(1, len(tables) + 2)
    found: dict[str, float] = {}
    allowed: dict[str, float] = {}
    out: list[tuple[float, str]] = []
    several: list[float] = []
    for table in tables:
        name = _JOIN.join(names[d] for d in table.columns)
        counts = counts_of(candidate, table)
        before = counts_of(current, table)
        made, made_before = (
            compare(
                one,
                table,
                sample=len(sampled),
                rows=rows,
                rows_variance=rows_variance,
                beside=other,
            )
            for one, other, sampled in ((counts, before, candidate), (before, counts, current))
        )
        single = len(table.columns) == 1
        if not single:
            several.append(made.value)
        limit = settings.limit if single else settings.table_limit
        found[name] = made.value
        allowed[name] = max(
            limit + made.explained(p),
            # The difference of two distances is Lipschitz with the sum of both constants.
            made_before.value
            + settings.margin
            + (made.reach + made_before.reach) * math.sqrt(2 * math.log(1 / p)),
        )
        if made.value > allowed[name]:
            out.append(
                (
                    made.value - allowed[name],
                    f"{name} is {made.value:.3f} from the anchor, allowed {allowed[name]:.3f}",
                )
            )
    reasons = [text for _, text in sorted(out, reverse=True)]
    z = NormalDist().inv_cdf(1 - p)
    if not math.isfinite(nll):
        reasons.append("its held-out likelihood is not finite")
    elif nll > current_nll + settings.nll_margin + z * nll_error:
        reasons.append(
            f"held-out rows are less likely than before: {nll:.3f} against {current_nll:.3f} "
            f"nats per row, {settings.nll_margin + z * nll_error:.3f} more are allowed"
        )
    return Verdict(
        accepted=not reasons,
        reason=_shown(reasons),
        total_variation=found,
        allowed=allowed,
        pairs=float(np.mean(several)) if several else None,
        nll=nll,
        current_nll=current_nll,
    )


def paired_error(nll: npt.NDArray[np.floating], current_nll: npt.NDArray[np.floating]) -> float:
    """Return the standard error of the difference of two generators' mean NLL on the same rows.

    Parameters
    ----------
    nll, current_nll : float [n]
        Per row, in nats.
    """
    if len(nll) < 2:
        return math.inf
    difference = np.asarray(nll, np.float64) - np.asarray(current_nll, np.float64)
    return float(difference.std(ddof=1)) / math.sqrt(len(difference))


#: more reasons than this are counted, not listed
_MOST_REASONS = 6


def _shown(reasons: Sequence[str]) -> str:
    text = "; ".join(reasons[:_MOST_REASONS])
    return text + (
        f"; and {len(reasons) - _MOST_REASONS} more" if len(reasons) > _MOST_REASONS else ""
    )
