"""Whether a message is what its plan asked for, by its header, names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping

from edge_runtime.messages import Header, Plan, name_of_table

__all__ = ["privacy_problem", "unasked"]

#: relative slack of an epsilon that was computed elsewhere from the same orders
_EPSILON_SLACK = 1e-6


def unasked(header: Header, shapes: Mapping[str, tuple[int, ...]], plan: Plan) -> str:
    """Say in which way a summary is not what its plan asked for; empty if it is.

    Parameters
    ----------
    header : Header
        Of a summary.
    shapes : mapping of str to tuple of int
        Of its tensors, by name.
    plan : Plan
        The one that it answers.
    """
    kind = header.kind
    if kind in ("score", "update") and header.bundle_digest != plan.bundle_digest:
        return f"it is about bundle {header.bundle_digest[:12]}, its plan about another"
    problem = ""
    match kind:
        case "anchor" if plan.anchor is not None:
            if set(shapes) != {name_of_table(table) for table in plan.anchor.tables}:
                problem = "it counts other tables than its plan asks for"
            else:
                problem = _other(header, "holdout", plan.holdout)
        case "moments" if plan.moments is not None:
            asked = plan.moments
            if shapes["moments"] != (asked.groups, asked.width):
                problem = "its sums are not those that its plan asks for"
            else:
                problem = _other(header, "holdout", plan.holdout)
        case "score" if plan.score is not None:
            problem = _other(header, "clip_nats", plan.score.clip_nats)
        case "update" if plan.update is not None:
            problem = _other(header, "clip_norm", plan.update.clip_norm)
        case "census":
            pass
        case _:
            problem = f"its plan asks for no {kind}"
    return problem


def privacy_problem(header: Header, plan: Plan) -> str:
    """Say why a message's privacy statement does not keep its plan's ceiling; empty if it does."""
    if plan.epsilon_after is None:
        return ""
    statement = header.privacy
    if statement.epsilon is None:
        return "it was made WITHOUT PRIVACY, this fleet asks for privacy"
    if statement.epsilon > plan.epsilon_after * (1 + _EPSILON_SLACK):
        return f"its epsilon {statement.epsilon:.6g} exceeds the plan's {plan.epsilon_after:.6g}"
    if statement.delta > plan.delta * (1 + _EPSILON_SLACK):
        return f"its delta {statement.delta:.3g} exceeds the plan's {plan.delta:.3g}"
    return ""


def _other(header: Header, key: str, asked: float) -> str:
    found = header.extra.get(key, 0.0)
    return "" if found == asked else f"its {key} is {found}, its plan asks for {asked:g}"
