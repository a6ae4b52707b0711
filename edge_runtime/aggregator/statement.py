"""What is stated about privacy, as values; `privacy_page` puts it into words."""

from __future__ import annotations

from typing import Any

from edge_runtime.schema import Schema

__all__ = ["privacy_facts"]


def privacy_facts(
    *, epsilon_limit: float | None, epsilon: float, delta: float, schema: Schema
) -> dict[str, Any]:
    """Return what a lineage or release states about privacy, as plain values.

    Parameters
    ----------
    epsilon_limit : float or None
        The fleet's ceiling; None: without privacy.
    epsilon : float
        The largest cumulative epsilon that any device stated so far.
    delta : float
        Of both.
    schema : Schema
        Names the protected unit.
    """
    if epsilon_limit is None:
        return {
            "private": False,
            "epsilon": None,
            "statement": "WITHOUT PRIVACY: no noise was added, real rows may be recognisable",
        }
    return {
        "private": True,
        "epsilon": epsilon,
        "epsilon_limit": epsilon_limit,
        "delta": delta,
        "unit": schema.privacy_unit,
        "accountant": "rdp",
        "statement": (
            f"no device spent more than epsilon {epsilon_limit:g} at delta {delta:g} "
            f"per {schema.privacy_unit}"
        ),
    }
