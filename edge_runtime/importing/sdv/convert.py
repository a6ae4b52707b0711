"""From the description of a model to a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edge_runtime.errors import ModelImportError
from edge_runtime.generator import GraphBundle, Lineage, pack_graph
from edge_runtime.importing.sdv.columns import Coding, code_output
from edge_runtime.importing.sdv.description import F64, Description
from edge_runtime.importing.sdv.graph import build_graph
from edge_runtime.importing.sdv.network import Network, draw_inputs, fold, rounded
from edge_runtime.importing.sdv.plan import Plan
from edge_runtime.importing.sdv.reference import codes_of, draw, draw_noise
from edge_runtime.schema import Codec, Schema

__all__ = ["convert"]

#: rows that the network draws to find where the bins of its numeric columns lie
_ROWS = 1 << 16
#: rows of these at a time: at 1,000 outputs a part takes 33 MB
_PART = 1 << 13
#: rows on which the int8 weights are compared with the float ones
_COMPARED = 1 << 12


def convert(
    description: Description, *, source: Mapping[str, Any] | None = None, seed: int = 0
) -> GraphBundle:
    """Make a bundle of a described model.

    Parameters
    ----------
    description : Description
    source : mapping, optional
        What is known of the file, for metrics and card: ``file``, ``sha256``.
    seed : int
        Of the rows that batch statistics and bins are measured on. Same description, source and
        seed, same graph and codec.

    Returns
    -------
    GraphBundle
        Without a statement on privacy; its metrics have an entry ``import``.

    Raises
    ------
    ModelImportError
        The description contradicts itself.
    SchemaError
        A column cannot be declared by our schema.
    EngineError
        The graph does not honour the contract.
    MissingExtraError
        onnx or onnxruntime is not installed.
    """
    words, plan = description.words, Plan(description.words)
    network = fold(description, seed=seed)
    values = _own_values(network, plan, seed)
    heads = {head.name: head for head in words.heads}
    codings = [
        code_output(output, heads[output.name], values.get(output.name)) for output in words.outputs
    ]
    schema = Schema(name=words.table, columns=tuple(coding.column for coding in codings))
    codec = Codec(
        schema=schema,
        bins={coding.column.name: coding.bins for coding in codings if coding.bins is not None},
    )
    integers = rounded(network, words, seed=seed)
    origin = {
        "model": words.model,
        "sdv_version": words.sdv_version,
        "fitted": words.fitted,
        "rows": words.rows,
        **(source or {}),
    }
    figures = {
        **origin,
        "left_out": words.left_out or None,
        **_int8_error(network, integers, plan, codings, seed),
    }
    return pack_graph(
        build_graph(integers, plan, codings),
        codec,
        noise=plan.segments,
        output="codes",
        lineage=Lineage(
            parent=None, depth=0, round=0, devices=0, rows=float(words.rows or 0), privacy={}
        ),
        about=_about(origin),
        metrics={"import": {key: value for key, value in figures.items() if value is not None}},
    )


def _own_values(network: Network, plan: Plan, seed: int) -> dict[str, F64]:
    """Values of every continuous head, drawn by the float network."""
    parts: dict[str, list[F64]] = {}
    for number in range(_ROWS // _PART):
        noise = draw_noise(plan, _PART, seed=seed + 1 + number)
        for name, values in draw(network, plan, noise).values.items():
            if not np.isfinite(values).all():
                raise ModelImportError(f"the network gives {name!r} values that are not numbers")
            parts.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in parts.items()}


def _int8_error(
    network: Network, integers: Network, plan: Plan, codings: list[Coding], seed: int
) -> dict[str, float]:
    """Measure what int8 weights change: outputs, and codes drawn from the same noise."""
    inputs = draw_inputs(plan.words, _COMPARED, np.random.default_rng(seed))
    worst = np.abs(network.outputs(*inputs) - integers.outputs(*inputs)).max()
    noise = draw_noise(plan, _COMPARED, seed=seed)
    exact, near = (
        codes_of(draw(own, plan, noise), plan, codings, noise) for own in (network, integers)
    )
    return {"worst_error": float(worst), "changed_codes": float((exact != near).mean())}


def _about(origin: Mapping[str, Any]) -> str:
    text = f"{origin['model']}Synthesizer of SDV"
    if origin["sdv_version"]:
        text += f" {origin['sdv_version']}"
    if origin["fitted"]:
        text += f", fitted on {origin['fitted']}"
    if origin["rows"]:
        text += f" to {origin['rows']:,} rows"
    if "sha256" in origin:
        text += f", imported from {origin['file']} (SHA-256 {origin['sha256']})"
    return f"{text}; int8 weights"
