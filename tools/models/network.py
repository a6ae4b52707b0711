"""The integer network that every example becomes: what both graph writers write, in numpy.

Weights are int8, sums are integers below 2**24 (float32 counts them exactly, in any order), and
what remains are single float32 operations that round in one way only. So ONNX Runtime, TFLite and
this file give the same bits, whatever they multiply with.

A network is a chain of small perceptrons: first those whose output is added to the noise vector
(the steps of a flow; none in a decoder), then the decoder that turns the vector into logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = [
    "GRAIN",
    "TOP",
    "FloatLayer",
    "Layer",
    "Network",
    "Perceptron",
    "quantise",
    "run",
    "run_perceptron",
]

F32 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]

#: Activations are whole numbers up to this.
TOP = 127
#: Steps per unit of a perceptron's input, which is about standard normal: it reaches 127 / 32.
GRAIN = 32
#: Integers that float32 counts exactly.
_EXACT = 1 << 24


@dataclass(frozen=True, kw_only=True)
class FloatLayer:
    """A layer as it was trained: ``x @ weight + bias``.

    Parameters
    ----------
    weight : F32[inputs, outputs]
    bias : F32[outputs]
    """

    weight: F32
    bias: F32


@dataclass(frozen=True, kw_only=True)
class Layer:
    """``(x @ weight + bias) * scale`` for whole numbers x.

    Parameters
    ----------
    weight : int8[inputs, outputs]
    bias : F32[outputs]
        Whole numbers.
    scale : F32[outputs]
    """

    weight: I8
    bias: F32
    scale: F32

    def __post_init__(self) -> None:
        most = TOP * np.abs(self.weight.astype(np.int64)).sum(axis=0) + np.abs(self.bias)
        if most.max() >= _EXACT:
            raise ValueError(f"sums reach {most.max():.0f}; float32 counts to {_EXACT} only")


@dataclass(frozen=True, kw_only=True)
class Perceptron:
    """Layers one after the other; all but the last end in whole numbers 0..127.

    Its input x becomes ``clip(floor(x * 32 + 1/2), -127, 127)``, a hidden layer's output
    ``clip(floor((x @ weight + bias) * scale + 1/2), 0, 127)``.
    """

    layers: tuple[Layer, ...]


@dataclass(frozen=True, kw_only=True)
class Network:
    """Noise to logits.

    Parameters
    ----------
    steps : tuple of Perceptron
        Each adds its output to the vector. Arrays that steps share are written once.
    decoder : Perceptron
    """

    steps: tuple[Perceptron, ...]
    decoder: Perceptron

    @property
    def inputs(self) -> int:
        """Numbers of standard normal noise per row."""
        return len(self.decoder.layers[0].weight)

    @property
    def outputs(self) -> int:
        """Logits per row."""
        return len(self.decoder.layers[-1].bias)


def run(network: Network, noise: F32) -> F32:
    """Return the logits, F32[rows, outputs], of noise F32[rows, inputs]."""
    x = noise
    for step in network.steps:
        x = x + run_perceptron(step, x)
    return run_perceptron(network.decoder, x)


def run_perceptron(perceptron: Perceptron, x: F32) -> F32:
    """Return the last layer's output, F32[rows, outputs]."""
    half = np.float32(0.5)
    x = np.clip(np.floor(x * np.float32(GRAIN) + half), -TOP, TOP)
    *hidden, last = perceptron.layers
    for layer in hidden:
        x = np.clip(np.floor(_sums(layer, x) * layer.scale + half), 0, TOP)
    return _sums(last, x) * last.scale


def _sums(layer: Layer, x: F32) -> F32:
    sums: F32 = x @ layer.weight.astype(np.float32) + layer.bias
    return sums


def quantise(
    layers: Sequence[FloatLayer], inputs: Sequence[F32], *, first_biases: Sequence[F32] = ()
) -> tuple[Perceptron, ...]:
    """Turn trained layers into whole numbers; rectified units lie between them.

    Every unit gets the static scale that puts its largest calibration value at 127, every output
    channel the weight scale that puts its largest weight there.

    Parameters
    ----------
    layers : sequence of FloatLayer
    inputs : sequence of F32[rows, inputs]
        What the perceptron sees: rows to calibrate on, one array per perceptron returned.
    first_biases : sequence of F32[outputs], optional
        The first layer's bias in each of them (the time of a flow's step); the rest is shared.

    Returns
    -------
    tuple of Perceptron
        As many as `inputs`; they share all arrays but those biases.
    """
    biases = list(first_biases) or [layers[0].bias] * len(inputs)
    seen = [np.clip(x, -TOP / GRAIN, TOP / GRAIN) for x in inputs]
    made: list[list[Layer]] = [[] for _ in inputs]
    # What a whole number of the layer's input stands for.
    grains = np.full(len(layers[0].weight), 1 / GRAIN, np.float32)
    for number, layer in enumerate(layers):
        own = biases if number == 0 else [layer.bias] * len(inputs)
        seen = [x @ layer.weight + bias for x, bias in zip(seen, own, strict=True)]
        weight, scale = _int8(layer.weight * grains[:, None])
        after = scale
        if number < len(layers) - 1:
            seen = [np.maximum(x, 0) for x in seen]
            most = np.max([x.max(axis=0) for x in seen], axis=0)
            grains = np.maximum(most, np.float32(1e-6)) / np.float32(TOP)
            after = (scale / grains).astype(np.float32)
        whole: dict[int, F32] = {}
        for layers_made, bias in zip(made, own, strict=True):
            rounded = whole.setdefault(id(bias), np.round(bias / scale).astype(np.float32))
            layers_made.append(Layer(weight=weight, bias=rounded, scale=after))
    return tuple(Perceptron(layers=tuple(chain)) for chain in made)


def _int8(weight: F32) -> tuple[I8, F32]:
    scale = np.maximum(np.abs(weight).max(axis=0), np.float32(1e-12)) / np.float32(TOP)
    return np.round(weight / scale).astype(np.int8), scale.astype(np.float32)
