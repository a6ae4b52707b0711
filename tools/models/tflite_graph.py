"""The integer network as a .tflite file: noise float32 [B, N] -> logits float32 [B, V].

The same whole numbers as the ONNX graph: int8 weights with scale 1 pass DEQUANTIZE and enter a
FULLY_CONNECTED of floats. Operators and versions are those of tflite-runtime 2.14.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edge_runtime.generator.tflite_file import ModelWriter
from tools.models.network import GRAIN, TOP, Network, Perceptron

__all__ = ["write_tflite"]


def write_tflite(network: Network, *, about: str) -> bytes:
    """Return the file; equal arguments give equal bytes.

    Parameters
    ----------
    network : Network
    about : str
        Stands in the file as its description.

    Raises
    ------
    MissingExtraError
        If the tflite package is not installed.
    """
    return _Builder(network).build(about)


class _Builder:
    """Adds the operators of one layer after the other; an array that is used twice stands once."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._file = ModelWriter()
        self._vectors: dict[int, int] = {}
        self._weights: dict[int, int] = {}
        self._grain, self._half, self._zero, self._top, self._bottom = (
            self._file.constant(np.array([[value]], np.float32))
            for value in (GRAIN, 0.5, 0, TOP, -TOP)
        )

    def _op(
        self,
        kind: str,
        inputs: Sequence[int],
        width: int,
        options: str = "",
        **fields: float | Sequence[int],
    ) -> int:
        out = self._file.tensor([-1, width])
        self._file.operator(kind, inputs, [out], version=1, options=options, **fields)
        return out

    def _pair(self, kind: str, a: int, b: int, width: int) -> int:
        return self._op(kind.upper(), [a, b], width, f"{kind.title()}Options")

    def _vector(self, value: npt.NDArray[np.float32]) -> int:
        if id(value) not in self._vectors:
            self._vectors[id(value)] = self._file.constant(value)
        return self._vectors[id(value)]

    def _weight(self, value: npt.NDArray[np.int8]) -> int:
        if id(value) not in self._weights:
            # FULLY_CONNECTED wants [outputs, inputs].
            upright = np.ascontiguousarray(value.T)
            floats = self._file.tensor(upright.shape)
            self._file.operator("DEQUANTIZE", [self._file.constant(upright)], [floats], version=2)
            self._weights[id(value)] = floats
        return self._weights[id(value)]

    def _whole(self, x: int, bottom: int, width: int) -> int:
        x = self._op("FLOOR", [self._pair("add", x, self._half, width)], width)
        x = self._op("MAXIMUM", [x, bottom], width, "MaximumMinimumOptions")
        return self._op("MINIMUM", [x, self._top], width, "MaximumMinimumOptions")

    def _perceptron(self, x: int, perceptron: Perceptron) -> int:
        inputs = len(perceptron.layers[0].weight)
        x = self._whole(self._pair("mul", x, self._grain, inputs), self._bottom, inputs)
        last = perceptron.layers[-1]
        for layer in perceptron.layers:
            width = len(layer.bias)
            weight, bias = self._weight(layer.weight), self._vector(layer.bias)
            sums = self._op(
                "FULLY_CONNECTED",
                [x, weight, bias],
                width,
                "FullyConnectedOptions",
                KeepNumDims=True,
            )
            x = self._pair("mul", sums, self._vector(layer.scale), width)
            if layer is not last:
                x = self._whole(x, self._zero, width)
        return x

    def build(self, about: str) -> bytes:
        network = self._network
        noise = x = self._file.tensor([-1, network.inputs], name="noise")
        for step in network.steps:
            x = self._pair("add", x, self._perceptron(x, step), network.inputs)
        logits = self._perceptron(x, network.decoder)
        segments = json.dumps([{"kind": "normal", "width": network.inputs}])
        data, _ = self._file.finish(
            [noise], [logits], description=about, metadata={"noise": segments.encode()}
        )
        return data
