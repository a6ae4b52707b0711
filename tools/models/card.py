"""The model card of an example: every figure in it stands in metrics.json beside it.

``python -m tools.models.card`` writes all cards again from those.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.models.data import TABLES, Data, load_data

__all__ = ["NAMES", "utility_name", "write_card"]

NAMES = {
    "vae": "variational decoder",
    "gan": "adversarial generator",
    "flow": "few-step diffusion (rectified flow)",
}


#: How each kind was trained, and after whom.
METHODS = {
    "vae": (
        "A variational autoencoder ([Kingma and Welling 2014](https://arxiv.org/abs/1312.6114)) of "
        "one-hot rows; its loss is the cross-entropy of every column plus beta times the "
        "divergence from a standard normal prior ([Higgins et al. 2017]"
        "(https://openreview.net/forum?id=Sy2fzU9gl)). The decoder alone is here: standard normal "
        "latents, two rectified layers, logits, from which the kernel draws each column on its own."
    ),
    "gan": (
        "In the latents of a variational autoencoder with a weak prior, trained first. A generator "
        "makes latents of noise, and a critic tells them from those of real rows, which the "
        "encoder draws with its own noise: a Wasserstein GAN with gradient penalty ([Gulrajani et "
        "al. 2017](https://arxiv.org/abs/1704.00028)) over a few continuous numbers, so that no "
        "gradient has to pass the draw of a code (latents and critic as in the adversarially "
        "regularised autoencoder of [Zhao et al. 2018](https://arxiv.org/abs/1706.04223), whose "
        "encoder plays along). The generator's weights are averaged over the last steps. The "
        "autoencoder's decoder follows it: standard normal noise, four rectified layers, logits, "
        "from which the kernel draws each column on its own."
    ),
    "flow": (
        "In the latents of a variational autoencoder with a weak prior. A teacher learns the "
        "velocity from noise to latents by flow matching ([Lipman et al. 2023]"
        "(https://arxiv.org/abs/2210.02747)) and is integrated by Heun's method; the small network "
        "here learns the straight line between each noise and where the teacher took it (the "
        "reflow of [Liu, Gong and Liu 2023](https://arxiv.org/abs/2209.03003)), at the times of "
        "its own Euler steps only. These steps stand in the graph one after the other, over one "
        "set of weights; the autoencoder's decoder follows them, and the kernel draws each column "
        "from its logits."
    ),
}
#: Of the training's settings, those that the text names.
_NAMED = ("seconds", "processor", "torch", "seed")


def utility_name(data: str) -> str:
    """Say what a table's utility is."""
    return {"digits": "accuracy for `label`", "flights": "AUC for `late`"}[data]


def write_card(data: Data, metrics: Mapping[str, Any]) -> str:
    """Return the card in Markdown.

    Parameters
    ----------
    data : Data
    metrics : mapping
        As in metrics.json.
    """
    kind, rows, training = metrics["kind"], metrics["rows"], metrics["training"]
    sizes = ", ".join(f"`{name}` {size:,} bytes" for name, size in metrics["bytes"].items())
    settings = ", ".join(
        f"{name.replace('_', ' ')} {value}"
        for name, value in training.items()
        if name not in _NAMED
    )
    parts = [
        f"# {data.name}-{kind}",
        f"{metrics['about']} {metrics['parameters']:,} weights, as ONNX and as TFLite:",
        f"    edge-runtime sample models/{data.name}-{kind}/onnx.bundle --rows 10",
        "**WITHOUT PRIVACY**: it learnt from public rows, without noise. Do not train one like it "
        "on rows that must not be told.",
        "## Data",
        f"{data.source} {rows['training']:,} rows were trained on, {rows['held_out']:,} held out.",
        "## Licence",
        f"Of the data: {data.licence} Of the model and the code that made it: Apache-2.0, like "
        "this project.",
        "## Size",
        f"{sizes}. Weights are int8 and activations whole numbers up to 127, so that both files "
        f"compute the same numbers: {metrics['agreement']:.2%} of the codes are equal under the "
        "same noise.",
        "## Quality",
        f"{rows['synthetic']:,} rows of the ONNX bundle (seed 1), judged by "
        "`edge_runtime.evaluation` against the training rows: SDMetrics shapes and pairs on "
        f"{rows['held_out']:,} rows of each side; a classifier that learnt from the synthetic rows "
        "alone, on the held-out real ones (mean of three trainings). Codes missing: of those that "
        "a thousandth of the training rows have.",
        _quality(data, metrics),
        f"Shares of `{data.target}`:",
        _labels(metrics),
        "## How it was made",
        METHODS[kind],
        f"`python -m tools.models.{kind} --data {data.name} --out models`: seed "
        f"{training['seed']}, one thread, torch {training['torch']}, {training['seconds']} s of "
        f"training on a busy {training['processor']} core. Settings: {settings}.",
        "Then, without torch (`tools/models/build.py`): int8 weights with a scale per output "
        "channel, static scales of the activations from noise, and a shift per logit, so that "
        "every code is as likely as among the training rows.",
    ]
    return "\n\n".join(parts) + "\n"


def _sources(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {
        "**this model**": metrics["quality"],
        "the project's own autoregressive generator": metrics["reference"]["autoregressive"],
        "real rows": metrics["reference"]["real"],
    }


def _quality(data: Data, metrics: Mapping[str, Any]) -> str:
    columns = {
        "shapes": "shapes",
        "pairs": "pairs",
        "utility": utility_name(data.name),
        "closer_to_training": "closer to a training row than to a held-out one (.5 is ideal)",
        "copies": "copies of a training row",
        "codes_missing": "codes missing",
    }
    table = [["", *columns.values()]]
    for name, figures in _sources(metrics).items():
        table.append([name, *(figure(figures.get(key)) for key in columns)])
    return _markdown(table)


def _labels(metrics: Mapping[str, Any]) -> str:
    table = [["", *(f"`{label}`" for label in metrics["quality"]["labels"])]]
    for name, figures in _sources(metrics).items():
        table.append([name, *(f"{share:.3f}" for share in figures["labels"].values())])
    return _markdown(table)


def figure(value: float | None) -> str:
    """Write a figure as the tables do."""
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _markdown(table: list[list[str]]) -> str:
    lines = [table[0], ["---"] * len(table[0]), *table[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Write the card of every example that is there."""
    for data in map(load_data, sorted(TABLES)):
        for kind in NAMES:
            folder = Path("models") / f"{data.name}-{kind}"
            if folder.is_dir():
                metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
                (folder / "README.md").write_text(write_card(data, metrics), encoding="utf-8")


if __name__ == "__main__":
    main()
