"""Alarms: what has declined, or needs a person, after a round.

An alarm about a generator needs two things: it keeps clearly less of the anchor than is allowed,
and clearly less than an earlier generator did. A shortfall without a decline (a weak generator
under a small budget) is a notice. So is one that the population's drift explains: the figure that
the generator is short of was not there before, and held against the anchor from before the drift
nothing is missing. Every limit is beyond the statistical error, with the probability of a false
alarm shared out over all measures (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import msgspec

from edge_runtime.aggregator.guard.curve import Comparison, CurvePoint
from edge_runtime.aggregator.guard.drift import Drift
from edge_runtime.aggregator.guard.measures import Measure
from edge_runtime.messages import Alarm

__all__ = [
    "AlarmLimits",
    "budget_alarms",
    "drift_alarms",
    "kept_figures",
    "likelihood_alarm",
    "measure_alarms",
    "ordered",
]

_ORDER = {"critical": 0, "warning": 1, "notice": 2}

_WHAT = {
    "tails": "Generated rows have only {value:.2%} where real rows have {expected:.2%} "
    "(error {error:.2%}): the tail is vanishing",
    "rare": "Only {value:.2%} of generated rows have it, {expected:.2%} of real rows do "
    "(error {error:.2%}): a rare category is vanishing",
    "pairs": "Generated rows keep {value:.0%} of the dependence that real rows have "
    "(error {error:.0%})",
}


class AlarmLimits(NamedTuple):
    """When a measure is an alarm.

    Parameters
    ----------
    kept : float
        Share of the anchor's tail, rare category or dependence that must be kept.
    subgroup : float
        Difference of a rate within a group from the anchor's that is allowed.
    decline : float
        How much less than an earlier generator is a decline.
    false_alarms : float
        Probability of any false alarm in one round.
    budget : float
        Share of the privacy budget from which a device's epsilon is reported.
    """

    kept: float = 0.6
    subgroup: float = 0.1
    decline: float = 0.1
    false_alarms: float = 1e-3
    budget: float = 0.9


def kept_figures(measures: Iterable[Measure]) -> dict[str, float]:
    """Return what a generator keeps, by "kind/subject", to hold later generators against."""
    return {f"{m.kind}/{m.subject}": min(1.0, m.kept) for m in measures}


def measure_alarms(
    measures: Sequence[Measure],
    *,
    best: Mapping[str, float],
    round_number: int,
    limits: AlarmLimits | None = None,
    before_drift: Sequence[Measure] | None = None,
) -> list[Alarm]:
    """Turn measures of the generator in force into alarms.

    Parameters
    ----------
    measures : sequence of Measure
        Against the anchor.
    best : mapping of str to float
        The most that earlier generators kept, by the keys of `kept_figures`; what is missing
        never was there, so falling short of it is a notice.
    round_number : int
        Now.
    limits : AlarmLimits, optional
        When a measure is an alarm.
    before_drift : sequence of Measure, optional
        Of the same rows against the anchor as it was before a drift.

    Returns
    -------
    list of Alarm
    """
    limits = limits or AlarmLimits()
    z = _z(limits.false_alarms, len(measures))
    lagging = {f"{m.kind}/{m.subject}" for m in before_drift or () if not _short(m, z, limits)}
    alarms = []
    for one in _worst(one for one in measures if _short(one, z, limits)):
        key = f"{one.kind}/{one.subject}"
        declined = one.kept + z * one.kept_error < best.get(key, 0.0) - limits.decline
        follows = key in lagging
        text = _text(one)
        if follows:
            text += ". The population has changed and the generator has not followed yet"
        elif not declined:
            text += ". No earlier generator kept more"
        alarms.append(
            Alarm(
                kind=one.kind,  # type: ignore[arg-type]
                severity="warning" if declined and not follows else "notice",
                subject=one.subject,
                value=one.value,
                expected=one.expected,
                error=one.error,
                since_round=round_number,
                text=text + ".",
            )
        )
    return alarms


def _worst(measures: Iterable[Measure]) -> list[Measure]:
    """Of the categories or groups of one column only the worst: one cause, one alarm."""
    found: dict[str, Measure] = {}
    for one in measures:
        key = f"{one.kind}/{one.subject.rpartition('=')[0] or one.subject}"
        if key not in found or one.kept < found[key].kept:
            found[key] = one
    return list(found.values())


def likelihood_alarm(
    found: tuple[CurvePoint, Comparison] | None, *, bundle: str, round_number: int
) -> list[Alarm]:
    """Return the alarm of a bundle that is worse than an earlier one (see `curve.worsened`)."""
    if found is None:
        return []
    best, worse = found
    where = f"{worse.paired} devices that scored both" if worse.paired else "the fleet"
    return [
        Alarm(
            kind="likelihood",
            severity="critical",
            subject=f"bundle {bundle[:12]}",
            value=best.nll + worse.difference,
            expected=best.nll,
            error=worse.error,
            since_round=round_number,
            text=f"Held-out real rows are less likely under it than under bundle "
            f"{best.bundle[:12]} of round {best.round}: {worse.difference:.3f} nats per row more "
            f"(error {worse.error:.3f}, {where}) on {best.nll:.3f}. The generator is collapsing.",
        )
    ]


def budget_alarms(
    spent: Mapping[str, float],
    *,
    limit: float | None,
    round_number: int,
    limits: AlarmLimits | None = None,
) -> list[Alarm]:
    """Return one alarm for all devices whose stated epsilon nears the limit.

    Parameters
    ----------
    spent : mapping of str to float
        Cumulative epsilon by device.
    limit : float or None
        The fleet's ceiling; None without privacy.
    round_number : int
        Now.
    limits : AlarmLimits, optional
        Names the share.
    """
    limits = limits or AlarmLimits()
    if limit is None:
        return []
    near = {d: e for d, e in spent.items() if e >= limits.budget * limit}
    if not near:
        return []
    worst = max(near, key=lambda device: near[device])
    shown = ", ".join(sorted(near)[:5]) + (", ..." if len(near) > 5 else "")
    over = near[worst] > limit * (1 + 1e-6)
    return [
        Alarm(
            kind="budget",
            severity="critical" if over else "notice",
            subject="privacy budget",
            value=near[worst],
            expected=limit,
            since_round=round_number,
            text=f"{len(near)} of {len(spent)} devices ({shown}) have spent at least "
            f"{limits.budget:.0%} of their privacy budget; the most is epsilon "
            f"{near[worst]:.3g} of {limit:.3g}. "
            + (
                "A device states more than the fleet's ceiling."
                if over
                else "They will decline plans that cost more."
            ),
        )
    ]


def drift_alarms(found: Sequence[Drift], *, names: Sequence[str]) -> list[Alarm]:
    """Return one notice for a drift of the population, however many tables show it."""
    if not found:
        return []
    worst = found[0]
    tables = [" and ".join(names[d] for d in drift.columns) for drift in found]
    shown = "; ".join(tables[:5]) + ("; ..." if len(tables) > 5 else "")
    return [
        Alarm(
            kind="drift",
            severity="notice",
            subject=tables[0],
            value=worst.value,
            expected=0.0,
            since_round=worst.round,
            text=f"The real rows have changed in round {worst.round}: {worst.value:.1%} of them in "
            f"{tables[0]} beyond noise and sampling ({worst.devices} devices compared with "
            f"themselves; {len(found)} tables changed: {shown}). The anchor starts anew from this "
            "round; scores of earlier rounds are about other rows.",
        )
    ]


def ordered(alarms: Iterable[Alarm], before: Iterable[Alarm] = ()) -> tuple[Alarm, ...]:
    """Sort by severity and keep the round in which each was first raised.

    Parameters
    ----------
    alarms : iterable of Alarm
        In force now.
    before : iterable of Alarm
        In force after the last round.
    """
    since = {(a.kind, a.subject, a.severity): a.since_round for a in before}
    kept = [
        msgspec.structs.replace(
            a, since_round=since.get((a.kind, a.subject, a.severity), a.since_round)
        )
        for a in alarms
    ]
    return tuple(sorted(kept, key=lambda a: (_ORDER[a.severity], a.kind, a.subject)))


def _z(false_alarms: float, tests: int) -> float:
    return NormalDist().inv_cdf(1 - false_alarms / (2 * max(1, tests)))


def _short(one: Measure, z: float, limits: AlarmLimits) -> bool:
    if one.kind == "subgroup":
        return abs(one.value - one.expected) - z * one.error > limits.subgroup
    return one.kept + z * one.kept_error < limits.kept


def _text(one: Measure) -> str:
    if one.kind != "subgroup":
        return _WHAT[one.kind].format(value=one.value, expected=one.expected, error=one.error)
    further = (one.value - one.expected) * (one.expected - one.overall) > 0
    what = "amplified" if further else "flattened"
    return (
        f"It is {one.value:.1%} in generated rows and {one.expected:.1%} in real ones (error "
        f"{one.error:.1%}; {one.overall:.1%} over all groups): the group's difference is {what}"
    )
