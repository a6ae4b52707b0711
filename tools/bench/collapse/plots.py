"""The plots: a table's generations, and the score curve that sees the collapse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["draw_alarms", "draw_generations"]

#: colour, line style and width by regime
_STYLES: dict[str, tuple[str, str, float]] = {
    "replace": ("#b2182b", "-", 1.5),
    "10 % real": ("#ef8a62", "-", 1.5),
    "local filter": ("#998ec3", "-", 1.5),
    "accumulate": ("#67a9cf", "-", 1.5),
    "ours": ("#1b7837", "-", 2.4),
    "ours, epsilon 8": ("#1b7837", "--", 1.8),
    "ours, a fifth poisoned": ("#7f7f00", ":", 1.8),
}
_PANELS = (
    ("nll", "held-out NLL, nats per row"),
    ("tails", "tail mass, real = 1"),
    ("dependence", "error of Cramer's V over pairs"),
    ("rare", "rare codes kept"),
    ("coverage", "category and range coverage (does not see it)"),
    ("local_quality", "quality by devices' own models (does not see it)"),
)


def draw_generations(name: str, runs: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw every figure against the generation; `runs` by regime, as in the JSON."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(14, 7.6), layout="constrained")
    for axis, (key, label) in zip(axes.flat, _PANELS, strict=True):
        for regime, run in runs.items():
            values = [generation[key] for generation in run["generations"]]
            colour, style, width = _STYLES[regime]
            axis.plot(values, style, color=colour, lw=width, label=regime)
        if key == "tails":
            axis.axhline(1.0, color="0.8", lw=0.8, zorder=0)
        axis.set_title(label, fontsize=10, loc="left")
        axis.set_xlabel("generation")
        axis.spines[["top", "right"]].set_visible(False)
    lines, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(f"{name}: ten generations", x=0.01, ha="left")
    figure.savefig(path, dpi=90)
    plt.close(figure)


def draw_alarms(name: str, runs: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw the fleet's noisy score of every generation, with the first alarm."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.4, 4.4), layout="constrained")
    for regime, run in runs.items():
        curve = run.get("curve")
        if not curve:
            continue
        colour = _STYLES[regime][0]
        axis.errorbar(
            range(len(curve["nll"])),
            curve["nll"],
            yerr=curve["error"],
            color=colour,
            capsize=2,
            lw=1.5,
            label=regime,
        )
        if curve["alarm"] is not None:
            at = curve["alarm"]
            axis.plot(at, curve["nll"][at], "o", ms=11, mfc="none", mec=colour, mew=2)
    axis.set_xlabel("generation")
    axis.set_ylabel("fleet's noisy score, nats per row")
    axis.set_title(
        f"{name}: what devices release about each generation (ring: first alarm)",
        fontsize=10,
        loc="left",
    )
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=90)
    plt.close(figure)
