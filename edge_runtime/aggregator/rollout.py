"""Staged rollout: a round's plan goes to a part of the fleet first, and on by what comes of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from edge_runtime.messages import Plan, in_rollout

__all__ = ["STOPPED", "Decision", "decide"]

#: how the reason of a round begins whose plan goes no further
STOPPED = "rollout stopped"


class Decision(NamedTuple):
    """`share` of the fleet from now on, or None: as before; `stop`: why never further."""

    share: float | None = None
    stop: str = ""


def decide(
    plan: Plan,
    *,
    steps: Sequence[float],
    most_failures: float,
    known: Collection[str],
    answered: Collection[str],
    declined: Collection[str],
    late: bool,
) -> Decision:
    """Widen, stop, or wait.

    Parameters
    ----------
    plan : Plan
        As it is in force, with the share that it has reached.
    steps : sequence of float
        Shares to go through, ascending, the last is 1.
    most_failures : float
        Share of the reports that may be failures; of the first devices as long as most of them
        have yet to report, as failures come sooner than successes.
    known : collection of str
        All devices that were ever heard of, also those that are away: a device that the plan has
        brought down says nothing.
    answered, declined : collection of str
        Devices that have carried the plan out, and that have not: it failed there, or they refused.
    late : bool
        Whether the round's deadline has passed since the plan reached this share.
    """
    first = {device for device in known if in_rollout(plan, device)}
    failed, done = first & set(declined), first & set(answered)
    reports = len(failed) + len(done)
    half = 2 * reports >= len(first)
    if len(failed) > most_failures * (reports if half or late else len(first)):
        names = ", ".join(sorted(failed)[:5])
        return Decision(
            stop=f"{STOPPED} at {plan.rollout:.2g} of the fleet: {len(failed)} of {reports} "
            f"reports are failures ({names})"
        )
    # Half of them: a few boards are always away. Nobody in a small share: nothing to wait for.
    enough = half or (late and done)
    wider = [step for step in steps if step > plan.rollout]
    return Decision(share=wider[0]) if enough and wider else Decision()
