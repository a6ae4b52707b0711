"""The privacy statement of a release, for a data-protection officer who knows no source code."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["privacy_page"]


#: what the unit does not say of single readings and of what lasts
_WINDOWS = (
    "- **Single rows and long series.** A window with another row in it is one window less and one "
    "more: a single reading is protected as two windows are (twice the epsilon). A series of many "
    "windows, such as all that one person recorded, is many units.\n"
)


def privacy_page(
    *,
    title: str,
    privacy: Mapping[str, Any],
    rounds: Sequence[Mapping[str, Any]],
    release: str,
    windows: bool = False,
) -> str:
    """Return the statement in Markdown.

    Parameters
    ----------
    title : str
        Names the release.
    privacy : mapping
        From `statement.privacy_facts`.
    rounds : sequence of mapping
        From `composition.composition`.
    release : str
        A sentence or two on what the release holds.
    windows : bool
        Whether the unit is a window, of rows that follow each other.

    Returns
    -------
    str
    """
    parts = [f"# Privacy statement: {_text(title)}", release]
    parts += _private(privacy, rounds, windows) if privacy["private"] else _open(rounds)
    return "\n\n".join(parts) + "\n"


def _private(
    privacy: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]], windows: bool
) -> list[str]:
    epsilon, limit, delta = privacy["epsilon"], privacy["epsilon_limit"], privacy["delta"]
    unit = _text(privacy["unit"])
    return [
        "## The guarantee",
        "Differential privacy, by each device itself, over everything that it has ever sent to "
        "this fleet.",
        _table(
            ("what", "value"),
            [
                ("protected unit", f"one {unit}: added or removed"),
                ("epsilon spent, worst device", f"{epsilon:.4g}"),
                ("epsilon allowed in this fleet", f"{limit:g}"),
                ("delta", f"{delta:g}"),
                ("accounting", "Renyi differential privacy, in a ledger on each device"),
            ],
        ),
        "## What the figures mean",
        f"Take any one {unit}, and someone who sees all that its device has ever sent, knows every "
        f"other {unit} on it, and knows this software. Whatever they conclude, they would have "
        f"concluded with nearly the same probability had the {unit} not been there: the two "
        f"probabilities differ by a factor of at most e^{epsilon:.4g} ({_factor(epsilon)}), but "
        f"for a chance of {delta:g}. Someone who held its presence for as likely as not can "
        f"become {_belief(epsilon)} sure of it, delta aside. These are bounds for the "
        "worst case; they hold whatever else becomes known later, and no further use of the "
        "release weakens them.",
        _strength(epsilon),
        "## What was done, round by round",
        "A device enters every release into its ledger, with its cost, before anything of it "
        "leaves; it declines what would exceed its own limit. Costs add up as in the table.",
        _rounds(rounds),
        "Noise is drawn on the device from the operating system's secure random numbers, in "
        "exact integer arithmetic; it is never stored and has no seed. Everything after it, such "
        "as merging counts, training the fleet's generator on synthetic rows and drawing this "
        "release, uses what was already released and costs nothing more.",
        "## What is protected",
        f"- Whether any one {unit} was on a device, and every value in it.\n"
        "- Exact numbers: how many rows a device has, how often a value occurs. All counts here "
        "carry noise.\n"
        "- Against everyone who sees the messages or this release, the operator of the broker "
        "and of the aggregator included. No real row was sent by any device.",
        "## What is not protected",
        f"- **Several rows of one person.** The unit is one {unit}. Who is behind k of them on a "
        "device is protected k times less (k times epsilon, and delta grows faster still); who is "
        "on several devices has the epsilon of each.\n"
        f"{_WINDOWS if windows else ''}"
        "- **Patterns that many rows share.** Keeping them is the purpose. If a group's habits "
        "are to stay unknown, do not release them.\n"
        "- **The declaration of the table**: column names, bounds and categories are public and "
        "must not have been read off the rows.\n"
        "- **Taking part.** Which devices answered which round, when, and how many bytes they "
        "sent, is visible.\n"
        "- **The device itself.** Whoever has access to it has the real rows. The figures here are "
        "what devices state from their ledgers: the guarantee is each device's own, and rests on "
        "its running this software unaltered.",
        _law(),
    ]


def _open(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        "## WITHOUT PRIVACY",
        "**There is no guarantee.** This fleet was configured to run without noise: devices "
        "counted exactly and trained without protection. Synthetic rows can repeat real rows or "
        "reveal them, and the counts in the report are exact counts of real rows. Treat this "
        "release, its report and its generator like the real rows, and show them to nobody who "
        "may not see those.",
        "## What was done, round by round",
        _rounds(rounds),
        "## What this is not",
        "- **Not anonymous.** A device replaces synthetic rows that lie closer to one of its real "
        "rows than real rows lie to each other. That avoids copies; it is no protection against "
        "someone who tries to find out.\n"
        "- **Not repairable.** Noise added afterwards does not help what has already been sent.\n"
        "- No real row was sent as such by any device; that alone says little.",
        _law(),
    ]


def _law() -> str:
    return (
        "## For the decision\n\n"
        "Whether these rows may be shared, and whether they count as anonymous in law, is for the "
        "controller to decide; this page states facts for that decision. `SHA256SUMS` shows that "
        "no file was changed since (`edge-runtime release DIRECTORY --verify`), `lineage.json` "
        "which devices and rounds the rows are from."
    )


def _strength(epsilon: float) -> str:
    if epsilon <= 1:
        return "As commonly read, epsilon up to 1 is a strong guarantee."
    if epsilon <= 10:
        return (
            "As commonly read, epsilon between 1 and 10 is a formal guarantee of moderate "
            "strength: attacks known today usually achieve far less than the bound, but the "
            "bound itself no longer excludes them."
        )
    return (
        "**As commonly read, epsilon above 10 is a weak guarantee**: the bound hardly excludes "
        "anything. Rely on it only together with other safeguards."
    )


def _factor(epsilon: float) -> str:
    # Beyond a million the number says no more than its power does.
    factor = math.exp(min(epsilon, 50.0))
    if factor >= 1e6:
        return "over a million"
    return f"{factor:,.0f}" if factor >= 100 else f"{factor:.3g}"


def _belief(epsilon: float) -> str:
    belief = 1 / (1 + math.exp(-epsilon))
    digits = 1 if belief < 0.99 else 3
    return f"at most {belief:.{digits}%}" if belief < 0.9999 else "practically"


def _rounds(rounds: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for entry in rounds:
        stated, ceiling = entry["stated"], entry["ceiling"]
        rows.append(
            (
                str(entry["round"]),
                entry["kind"],
                str(entry["devices"]),
                " ".join(entry["mechanisms"]),
                "-" if stated is None else f"{stated:.4g}",
                "none: WITHOUT PRIVACY" if ceiling is None else f"{ceiling:.4g}",
            )
        )
    head = (
        "round",
        "kind",
        "devices",
        "released, and how",
        "epsilon so far",
        "epsilon allowed so far",
    )
    return _table(head, rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(_text(cell) for cell in line) + " |" for line in lines)


def _text(value: object) -> str:
    """Free text on one line that cannot break out of its place in a table."""
    return " ".join(str(value).split()).replace("|", "\\|")
