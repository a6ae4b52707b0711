"""All examples in one table, as docs/models.md has it: `python -m tools.models.table`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tools.models.card import NAMES, figure, utility_name

__all__ = ["example_folders", "table"]

_TABLES = ("digits", "flights")
_RUNTIMES = ("onnx", "tflite")
_FIGURES = ("shapes", "pairs", "utility", "closer_to_training", "codes_missing")


def example_folders(models: Path) -> list[Path]:
    """Return the folders of all examples, by table and kind."""
    return [models / f"{data}-{kind}" for data in _TABLES for kind in NAMES]


def table(models: Path) -> str:
    """Return the Markdown of both tables, from the metrics.json of every example."""
    return "\n\n".join(_of(models, data) for data in _TABLES)


def _of(models: Path, data: str) -> str:
    found: list[dict[str, Any]] = [
        json.loads((models / f"{data}-{kind}" / "metrics.json").read_text()) for kind in NAMES
    ]
    head = (
        "",
        "shapes",
        "pairs",
        utility_name(data),
        "closer to training",
        "codes missing",
        "weights",
        "kB, ONNX",
        "kB, TFLite",
        "seconds of training",
    )
    lines = [head, ("---",) * len(head)]
    for metrics in found:
        sizes = [f"{metrics['bytes'][f'{runtime}.bundle'] / 1e3:.0f}" for runtime in _RUNTIMES]
        lines.append(
            (
                f"[{NAMES[metrics['kind']]}](../models/{data}-{metrics['kind']}/README.md)",
                *(figure(metrics["quality"][name]) for name in _FIGURES),
                f"{metrics['parameters']:,}",
                *sizes,
                str(metrics["training"]["seconds"]),
            )
        )
    for name, title in (("autoregressive", "the project's own generator"), ("real", "real rows")):
        reference = found[0]["reference"][name]
        size = f"{reference['bytes'] / 1e3:.0f}" if "bytes" in reference else ""
        figures = (figure(reference.get(key)) for key in _FIGURES)
        lines.append((title, *figures, "", size, "", str(reference.get("training_s", ""))))
    rows = ("| " + " | ".join(line) + " |" for line in lines)
    title = f"{data}: {found[0]['rows']['training']:,} rows learnt from"
    held = f"{found[0]['rows']['held_out']:,} held out"
    return f"**{title}, {held}**\n\n" + "\n".join(rows)


if __name__ == "__main__":
    print(table(Path("models")))
