"""From trained layers to a folder of the repository: quantise, calibrate, pack, measure, describe.

Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime import Generator
from edge_runtime.generator import Lineage, open_graph, pack_graph, sample_codes
from tools.models.card import write_card
from tools.models.data import Data
from tools.models.network import FloatLayer, Network, quantise, run
from tools.models.onnx_graph import write_onnx
from tools.models.quality import draw, measure
from tools.models.reference import load_reference
from tools.models.tflite_graph import write_tflite

__all__ = ["Steps", "Trained", "build"]

F32 = npt.NDArray[np.float32]

_CALIBRATION_ROWS = 8_192
#: Enough that the mean chance of a code is known to a thousandth.
_MARGINAL_ROWS = 32_768
_MARGINAL_PASSES = 12
#: A code that no training row has.
_NEVER = 1e-6
_AGREEMENT_ROWS = 20_000
_KEY = bytes(range(32))


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The steps of a flow: one perceptron, its first layer's bias by the step.

    Parameters
    ----------
    layers : sequence of FloatLayer
    first_biases : sequence of F32[hidden]
    """

    layers: Sequence[FloatLayer]
    first_biases: Sequence[F32]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training script hands over.

    Parameters
    ----------
    kind : {"vae", "gan", "flow"}
    about : str
        One line: what it is.
    decoder : sequence of FloatLayer
    steps : Steps, optional
    settings : mapping
        Of the training, for metrics.json.
    seconds : float
        Of the training; measured by the command.
    """

    kind: str
    about: str
    decoder: Sequence[FloatLayer]
    steps: Steps | None = None
    settings: Mapping[str, Any]
    seconds: float = 0.0


def build(data: Data, trained: Trained, out: Path) -> None:
    """Write ``out/<data>-<kind>``: two bundles, metrics.json and README.md."""
    folder = out / f"{data.name}-{trained.kind}"
    folder.mkdir(parents=True, exist_ok=True)
    network = to_marginals(integer_network(trained), data)
    graphs = {
        "onnx": write_onnx(network, about=trained.about),
        "tflite": write_tflite(network, about=trained.about),
    }
    lineage = Lineage(
        parent=None,
        depth=1,
        round=0,
        devices=1,
        rows=float(data.train.rows),
        privacy={"epsilon": None, "delta": None, "unit": data.schema.privacy_unit},
    )
    packed = {
        runtime: pack_graph(graph, data.codec, lineage=lineage, about=trained.about)
        for runtime, graph in graphs.items()
    }
    made = draw(data, Generator(packed["onnx"]))
    codes = [sample_codes(open_graph(p), _AGREEMENT_ROWS, key=_KEY) for p in packed.values()]
    quality = measure(data, made)
    for runtime, bundle in packed.items():
        # The figures go in as well; the trial's stand there already.
        figures = {k: quality[k] for k in ("shapes", "pairs", "utility")}
        final = pack_graph(
            bundle.graph, data.codec, lineage=lineage, about=trained.about, metrics=figures
        )
        final.save(folder / f"{runtime}.bundle")
    metrics = {
        "data": data.name,
        "kind": trained.kind,
        "about": trained.about,
        "rows": {
            "training": data.train.rows,
            "held_out": data.test.rows,
            "synthetic": made.rows,
        },
        "parameters": _parameters(trained),
        "bytes": {
            f"{runtime}.bundle": (folder / f"{runtime}.bundle").stat().st_size for runtime in graphs
        },
        "graph_sha256": {k: hashlib.sha256(graph).hexdigest() for k, graph in graphs.items()},
        "agreement": float((codes[0] == codes[1]).mean()),
        "quality": quality,
        "reference": load_reference(data, out),
        "training": {
            **trained.settings,
            "seconds": round(trained.seconds),
            "processor": platform.machine(),
        },
    }
    text = json.dumps(metrics, indent=1, sort_keys=True)
    (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
    card = write_card(data, metrics)
    (folder / "README.md").write_text(card, encoding="utf-8")
    print(f"{folder}: {json.dumps(quality)} {metrics['bytes']} in {trained.seconds:.0f} s")


def _parameters(trained: Trained) -> int:
    layers = [*trained.decoder, *(trained.steps.layers if trained.steps else ())]
    return sum(layer.weight.size + layer.bias.size for layer in layers)


def integer_network(trained: Trained) -> Network:
    """Quantise, on noise of a seed of its own and never on a real row."""
    inputs = len(trained.decoder[0].weight)
    x = np.random.default_rng(7).standard_normal((_CALIBRATION_ROWS, inputs), dtype=np.float32)
    steps = trained.steps
    if steps is None:
        return Network(steps=(), decoder=quantise(trained.decoder, [x])[0])
    seen = []
    for bias in steps.first_biases:
        seen.append(x)
        x = x + _float_run([replace(steps.layers[0], bias=bias), *steps.layers[1:]], x)
    return Network(
        steps=quantise(steps.layers, seen, first_biases=steps.first_biases),
        decoder=quantise(trained.decoder, [x])[0],
    )


def _float_run(layers: Sequence[FloatLayer], x: F32) -> F32:
    for layer in layers[:-1]:
        x = np.maximum(x @ layer.weight + layer.bias, 0)
    last: F32 = x @ layers[-1].weight + layers[-1].bias
    return last


def to_marginals(network: Network, data: Data) -> Network:
    """Move the logits' biases until every code is as likely as among the training rows.

    Training leaves single columns a little off; a bias per code sets them right and leaves what
    columns have to do with each other to the network.
    """
    noise = np.random.default_rng(8).standard_normal(
        (_MARGINAL_ROWS, network.inputs), dtype=np.float32
    )
    logits = run(network, noise)
    last = network.decoder.layers[-1]
    bias = last.bias.copy()
    start = 0
    for column, size in enumerate(data.codec.cardinalities):
        block = slice(start, start + size)
        start += size
        wanted = np.bincount(data.codes[:, column], minlength=size) / len(data.codes)
        wanted = np.maximum(wanted, _NEVER)
        shift = np.zeros(size)
        for _ in range(_MARGINAL_PASSES):
            chance = logits[:, block] + shift
            chance = np.exp(chance - chance.max(axis=1, keepdims=True))
            chance /= chance.sum(axis=1, keepdims=True)
            shift += np.log(wanted / np.maximum(chance.mean(axis=0), _NEVER))
        bias[block] += np.round(shift / last.scale[block]).astype(np.float32)
    layers = (*network.decoder.layers[:-1], replace(last, bias=bias))
    return replace(network, decoder=replace(network.decoder, layers=layers))
