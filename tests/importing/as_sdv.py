"""Rows as ctgan 0.12, RDT 2.0 and SDV 2.0 draw them, step by step, from a description.

Written after their sources and without this project's converter: batches of 500 that are
normalised by their own statistics, Gumbel noise and softmax, one-hot conditions, then the reverse
transforms column by column. Values in SDV's units: moments in nanoseconds.
"""

from __future__ import annotations

import numpy as np

from edge_runtime.importing.sdv import Description, Head, Output

_BATCH = 500


def sample(description: Description, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Values by column: float64 with NaN missing, or objects with None missing."""
    rng = np.random.default_rng(seed)
    raw = np.concatenate([_batch(description, rng) for _ in range(rows // _BATCH + 1)])[:rows]
    values: dict[str, np.ndarray] = {}
    start = 0
    for head in description.words.heads:
        own = raw[:, start : start + head.outputs]
        start += head.outputs
        values[head.name] = own.argmax(axis=1) if head.categories else _value(head, own, rng)
    return {output.name: _reversed(output, values, rng) for output in description.words.outputs}


def _batch(description: Description, rng: np.random.Generator) -> np.ndarray:
    words = description.words
    x = rng.standard_normal((_BATCH, words.embedding)).astype(np.float32)
    if words.condition:
        asked = rng.choice(len(words.condition), _BATCH, p=words.condition)
        x = np.concatenate([x, np.eye(len(words.condition), dtype=np.float32)[asked]], axis=1)
    *hidden, last = description.layers
    for layer in hidden:
        made = x @ layer.weight + layer.bias
        own = layer.normalisation
        if own is not None:
            batch = words.batch_statistics
            mean = made.mean(axis=0) if batch else own.mean
            variance = made.var(axis=0) if batch else own.variance
            made = (made - mean) / np.sqrt(variance + own.eps) * own.scale + own.shift
        made = np.maximum(made, 0)
        x = np.concatenate([made, x], axis=1) if words.model == "CTGAN" else made
    out = x @ last.weight + last.bias
    if words.model == "TVAE":
        # torch's tanh of float32 is rounded correctly, numpy's is not
        return np.tanh(out.astype(np.float64)).astype(np.float32)
    start = 0
    for head in words.heads:
        place = 0 if head.categories else 1
        out[:, start : start + place] = np.tanh(out[:, start : start + place])
        span = slice(start + place, start + head.outputs)
        soft = (out[:, span] + rng.gumbel(size=out[:, span].shape)) / 0.2
        soft = np.exp(soft - soft.max(axis=1, keepdims=True))
        out[:, span] = soft / soft.sum(axis=1, keepdims=True)
        start += head.outputs
    return out


def _value(head: Head, own: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    mode = own[:, 1:].argmax(axis=1)
    place = own[:, 0].astype(np.float64)
    if head.sigma:
        place = rng.normal(place, head.sigma)
    return np.clip(place, -1, 1) * 4 * np.array(head.stds)[mode] + np.array(head.means)[mode]


def _reversed(
    output: Output, values: dict[str, np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    made = values[output.name]
    if output.values is not None:
        if output.ends is not None:
            made = np.searchsorted(output.ends, made)
        return np.array(output.values, object)[made]
    if output.low is not None:
        made = np.clip(made, output.low, output.high)
    if output.decimals is not None:
        made = np.round(made, output.decimals)
    if output.unit is not None:
        step = {"D": 86_400e9, "s": 1e9}[output.unit]
        made = np.floor(np.round(made) / step) * step
    gone = np.zeros(len(made), bool)
    if output.gone is not None:
        gone = np.array(output.absent)[values[output.gone]]
    if output.missing:
        gone = rng.random(len(made)) < output.missing
    return np.where(gone, np.nan, made)
