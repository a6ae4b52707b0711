"""Going back to the best generator when the fleet's scores say that a later one is worse."""

from __future__ import annotations

from typing import NamedTuple

from edge_runtime.aggregator.guard.alarms import likelihood_alarm
from edge_runtime.aggregator.guard.curve import (
    Comparison,
    CurvePoint,
    best_point,
    score_curve,
    worsened,
)
from edge_runtime.aggregator.records import BundleRecord
from edge_runtime.aggregator.summaries import DeviceScore, read_scores
from edge_runtime.aggregator.workspace import Workspace
from edge_runtime.messages import Alarm

__all__ = ["Rollback", "curve", "rollback"]


class Rollback(NamedTuple):
    """Bundles that are taken back, and why; `best` is in force afterwards."""

    best: str
    withdrawn: tuple[str, ...]
    reason: str
    alarms: tuple[Alarm, ...]


def curve(workspace: Workspace) -> list[CurvePoint]:
    """Return the fleet's score of every bundle that was scored since the last drift."""
    return score_curve(_scores(workspace), since_round=workspace.drift_round)


def rollback(workspace: Workspace, *, round_number: int, rejected: bool = False) -> Rollback | None:
    """Take back bundles that are significantly worse than the best one, if there are any.

    Parameters
    ----------
    workspace : Workspace
        The aggregator's data.
    round_number : int
        Now.
    rejected : bool
        Whether a candidate has just been rejected; when that is the last of as many in a row as
        [guard] rejections says, the best bundle is returned to even where the difference is not
        significant.

    Returns
    -------
    Rollback or None
        None when the generator in force stays. What it says is done already.
    """
    published = workspace.catalogue.bundles()
    if len(published) < 2:
        return _stuck(workspace, round_number) if rejected else None
    scores, current = _scores(workspace), published[-1]
    settings = workspace.config.guard
    found = worsened(
        scores,
        bundle=current.digest,
        among=[b.digest for b in published[:-1]],
        margin=settings.score_margin,
        false_alarms=settings.false_alarms,
        since_round=workspace.drift_round,
    )
    if found is not None:
        return _go_back(workspace, published, found, round_number)
    return _stuck(workspace, round_number) if rejected else None


def _go_back(
    workspace: Workspace,
    published: list[BundleRecord],
    found: tuple[CurvePoint, Comparison],
    round_number: int,
) -> Rollback:
    best, worse = found
    place = [b.digest for b in published].index(best.bundle)
    gone = tuple(b.digest for b in published[place + 1 :])
    reason = (
        f"held-out real rows are {worse.difference:.3f} nats per row less likely (error "
        f"{worse.error:.3f}) than under bundle {best.bundle[:12]} of round {published[place].round}"
    )
    workspace.catalogue.withdraw(gone, reason=f"withdrawn in round {round_number}: {reason}")
    alarms = likelihood_alarm(found, bundle=published[-1].digest, round_number=round_number)
    return Rollback(
        best.bundle,
        gone,
        reason,
        (*alarms, _rolled(best.bundle, gone, reason, round_number)),
    )


def _stuck(workspace: Workspace, round_number: int) -> Rollback | None:
    """After repeated rejections go back to the best score, or say that there is none better."""
    settings = workspace.config.guard
    failures = _failures(workspace)
    if failures < settings.rejections:
        return None
    published = workspace.catalogue.bundles()
    names = [b.digest for b in published]
    best = best_point([p for p in curve(workspace) if p.bundle in names])
    reason = f"{failures} candidates in a row were rejected"
    gone: tuple[str, ...] = ()
    if best is not None and best.bundle != names[-1]:
        gone = tuple(names[names.index(best.bundle) + 1 :])
        workspace.catalogue.withdraw(gone, reason=f"withdrawn in round {round_number}: {reason}")
    force = best.bundle if best is not None else (names[-1] if names else "")
    alarm = Alarm(
        kind="rejections",
        severity="critical",
        subject="candidates",
        value=float(failures),
        expected=0.0,
        since_round=round_number,
        text=f"{reason}; see the reasons of rejected candidates. The fleet goes on from bundle "
        f"{force[:12]}.",
    )
    rolled = (_rolled(force, gone, reason, round_number),) if gone else ()
    return Rollback(force, gone, reason, (alarm, *rolled))


def _failures(workspace: Workspace) -> int:
    count = 0
    for record in reversed(workspace.catalogue.bundles(status=None)):
        if record.status != "rejected":
            break
        count += 1
    return count


def _rolled(best: str, gone: tuple[str, ...], reason: str, round_number: int) -> Alarm:
    return Alarm(
        kind="rollback",
        severity="critical",
        subject=f"bundle {best[:12]}",
        since_round=round_number,
        text=f"The fleet was rolled back to bundle {best[:12]}, {len(gone)} later ones "
        f"({', '.join(d[:12] for d in gone[:5])}) were withdrawn: {reason}.",
    )


def _scores(workspace: Workspace) -> list[DeviceScore]:
    records = workspace.catalogue.messages(kind="score")
    return read_scores(workspace.data_dir, records)
