"""What is stated about privacy: as values for lineages, in words for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_runtime.schema import Schema

__all__ = ["privacy_facts", "privacy_text"]


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


def privacy_text(facts: Mapping[str, Any]) -> str:
    """Return the statement as a Markdown section."""
    if not facts["private"]:
        return (
            "## Privacy\n\n"
            "**WITHOUT PRIVACY.** Devices trained and counted without any noise. Synthetic rows "
            "can repeat or reveal real rows. Do not publish this outside the circle that may see "
            "the real rows.\n"
        )
    epsilon, limit, delta = facts["epsilon"], facts["epsilon_limit"], facts["delta"]
    return (
        "## Privacy\n\n"
        f"Differential privacy per {facts['unit']} (one more or less): the most that any device "
        f"states to have spent is epsilon {epsilon:.4g} of {limit:g}, at delta {delta:g}, over "
        "the census and all rounds together (Renyi accountant, exact composition in each "
        "device's own ledger). What one person contributes in several rows or on several devices "
        "is protected that many times less.\n"
    )
