"""One row of the doctor's report."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Finding"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One row of the report.

    Parameters
    ----------
    check : str
        What was looked at.
    found : str
        What is there. Never a password, a real row or how many there are.
    problem : str
        What is wrong, empty if nothing is.
    fix : str
        The way out, empty if there is no problem.
    """

    check: str
    found: str
    problem: str = ""
    fix: str = ""
