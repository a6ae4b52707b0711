"""[guard] and [metrics] of aggregator.toml."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["GuardSettings", "MetricsSettings", "guard_checks"]


class GuardSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[guard]: when batches are set aside, candidates rejected and alarms raised; docs/guard.md.

    Parameters
    ----------
    limit, table_limit : float
        A column's total variation from the anchor that is always allowed, beyond the statistical
        error; that of a table over several columns.
    margin : float
        How much worse than the published generator a column above `limit` may become.
    nll_margin : float
        Nats per row by which held-out pooled rows may become less likely.
    rows : int
        Rows sampled from a candidate to judge it.
    false_alarms : float
        Probability at which one honest batch, candidate or round is found wrong by chance.
    batches : bool
        Whether batches are judged by their device's own counts.
    misfit, mean_misfit : float
        Total variation by which an honest device's generator may miss one table of its own
        counts, and all of them on average.
    dependence : float
        Share of the dependence between conditions and other columns that a batch must keep.
    relations : float
        Share of the dependence among all columns, as the generator a device started from has it,
        that a batch must keep.
    diversity : float
        Factor by which rows of a batch may be alike more often than its device's counts allow.
    deviations : float
        Robust standard deviations by which a device may be out of line with its peers.
    score_margin : float
        Relative rise of the fleet's held-out NLL over the best bundle's that is no alarm yet.
    rejections : int
        Consecutive rejected candidates after which the fleet goes back to its best bundle.
    kept : float
        Share of the anchor's tails, rare categories and dependence that must be kept.
    subgroup : float
        Difference of a rate within a group from the anchor's that is allowed.
    drift : float
        Total variation between rounds from which the population is taken to have moved.
    budget : float
        Share of the privacy budget from which a device is reported.
    """

    limit: float = 0.1
    table_limit: float = 0.2
    margin: float = 0.05
    nll_margin: float = 0.1
    rows: int = 20_000
    false_alarms: float = 1e-4
    batches: bool = True
    misfit: float = 0.35
    mean_misfit: float = 0.2
    dependence: float = 0.2
    relations: float = 0.5
    diversity: float = 2.0
    deviations: float = 6.0
    score_margin: float = 0.01
    rejections: int = 3
    kept: float = 0.6
    subgroup: float = 0.1
    drift: float = 0.03
    budget: float = 0.9


class MetricsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[metrics]: figures for Prometheus.

    Parameters
    ----------
    port : int
        Where they are served, `http://<host>:<port>/metrics`; 0: nowhere.
    host : str
        The address to listen on. They name devices: only this machine by default.
    """

    port: int = 0
    host: str = "127.0.0.1"


def guard_checks(
    guard: GuardSettings, metrics: MetricsSettings
) -> tuple[tuple[bool, str, Any], ...]:
    """Return (holds, rule, value) for every rule about these settings."""
    shares = (
        "limit",
        "table_limit",
        "misfit",
        "mean_misfit",
        "dependence",
        "relations",
        "kept",
        "subgroup",
        "drift",
    )
    return (
        *(
            (0 <= getattr(guard, name) <= 1, f"guard.{name} must be 0 to 1", getattr(guard, name))
            for name in shares
        ),
        (
            0 < guard.false_alarms < 0.5,
            "guard.false_alarms must lie between 0 and 0.5",
            guard.false_alarms,
        ),
        (
            guard.rows >= 1 and guard.rejections >= 1,
            "guard.rows and guard.rejections must be at least 1",
            (guard.rows, guard.rejections),
        ),
        (
            guard.diversity >= 1 and guard.deviations > 0 and guard.budget > 0,
            "guard needs diversity >= 1, deviations > 0 and budget > 0",
            (guard.diversity, guard.deviations, guard.budget),
        ),
        (
            0 <= metrics.port < 65536,
            "metrics.port must be 0 (off) to 65535",
            metrics.port,
        ),
    )
