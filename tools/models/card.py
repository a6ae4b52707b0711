"""The model card of an example: every figure in it stands in metrics.json beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tools.models.data import Data

__all__ = ["NAMES", "utility_name", "write_card"]

NAMES = {
    "vae": "variational decoder",
    "gan": "adversarial generator",
    "flow": "few-step diffusion (rectified flow)",
}


def utility_name(data: str) -> str:
    """Say what a table's utility is."""
    return {"digits": "accuracy for `label`", "flights": "AUC for `late`"}[data]


def write_card(data: Data, metrics: Mapping[str, Any], *, method: str) -> str:
    """Return the card in Markdown.

    Parameters
    ----------
    data : Data
    metrics : mapping
        As in metrics.json.
    method : str
        How it was trained, for people.
    """
    kind, rows, folder = metrics["kind"], metrics["rows"], f"models/{data.name}-{metrics['kind']}"
    quality, reference = metrics["quality"], metrics["reference"]
    sizes = ", ".join(f"`{name}` {size:,} bytes" for name, size in metrics["bytes"].items())
    training = metrics["training"]
    settings = ", ".join(
        f"{name.replace('_', ' ')} {value}"
        for name, value in training.items()
        if name not in ("seconds", "processor", "torch", "seed")
    )
    columns = [
        ("shapes", "shapes"),
        ("pairs", "pairs"),
        ("utility", utility_name(data.name)),
        ("closer_to_training", "closer to a training row than to a held-out one (.5 is ideal)"),
        ("copies", "copies of a training row"),
        ("codes_missing", "codes missing"),
    ]
    sources = {
        "**this model**": quality,
        "the project's autoregressive generator": reference["autoregressive"],
        "real rows": reference["real"],
    }
    head = ["", *(title for _, title in columns)]
    table = [head, ["---"] * len(head)]
    for name, figures in sources.items():
        table.append([name, *(figure(figures.get(key)) for key, _ in columns)])
    labels = [["", *(f"`{label}`" for label in quality["labels"])]]
    labels.append(["---"] * len(labels[0]))
    for name, figures in sources.items():
        labels.append([name, *(f"{share:.3f}" for share in figures["labels"].values())])
    return f"""# {data.name}-{kind}

{metrics["about"]} {metrics["parameters"]:,} weights, {NAMES[kind]}, as ONNX and as TFLite.

    edge-runtime sample {folder}/onnx.bundle --rows 10

**WITHOUT PRIVACY**: it learnt from public rows, without noise. Do not train one like it on rows
that must not be told. An example of the format, not a benchmark entry.

## Data
{data.source} {rows["training"]:,} rows were trained on, {rows["held_out"]:,} held out.

## Licence
Of the data: {data.licence} Of the model and the code that made it: Apache-2.0, like this project.

## Size
{sizes}; weights are int8, activations whole numbers up to 127, so that both files compute the same
numbers: {metrics["agreement"]:.2%} of the codes are equal under the same noise.

## Quality
{rows["synthetic"]:,} rows of the ONNX bundle (seed 1), judged by `edge_runtime.evaluation` against the
training rows: SDMetrics shapes and pairs on {rows["held_out"]:,} rows of each side; a classifier that
learnt from the synthetic rows alone, on the held-out real ones (mean of three trainings). Codes
missing: of those that a thousandth of the training rows have.

{_markdown(table)}

Shares of `{data.target}`:

{_markdown(labels)}

## How it was made
{method}

`python -m tools.models.{kind} --data {data.name} --out models`: seed {training["seed"]}, one thread, torch
{training["torch"]}, {training["seconds"]} s of training on a busy {training["processor"]} core. Settings: {settings}. Then, without torch
(`tools/models/build.py`): int8 weights by output channel, static scales from noise; and a shift per
logit, so that every code is as likely as among the training rows.
"""


def figure(value: float | None) -> str:
    """Write a figure as the tables do."""
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _markdown(table: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in table)
