"""The integer network as an ONNX graph: noise float32 [B, N] -> logits float32 [B, V].

Weights stand as int8 and are cast to float once, when a session is made; the products then add up
whole numbers, exactly.
"""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from tools.models.network import GRAIN, TOP, Network, Perceptron

__all__ = ["write_onnx"]

#: As the project's own sampler: old enough for every onnxruntime since 1.12.
_OPSET = 17
_IR_VERSION = 8


def write_onnx(network: Network, *, about: str) -> bytes:
    """Return the file; equal arguments give equal bytes.

    Parameters
    ----------
    network : Network
    about : str
        Stands in the file as its description.
    """
    return _Builder(network).build(about)


class _Builder:
    """Collects nodes and constants; an array that is used twice stands once."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._known: dict[int, str] = {}
        self._grain, self._half, self._zero, self._top, self._bottom = (
            self._new(np.array(value, np.float32)) for value in (GRAIN, 0.5, 0, TOP, -TOP)
        )

    def _new(self, value: npt.NDArray[np.generic]) -> str:
        name = f"constant{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(value, name))
        return name

    def _constant(self, value: npt.NDArray[np.generic]) -> str:
        """Name of one of the network's own arrays, which outlive this builder."""
        if id(value) not in self._known:
            self._known[id(value)] = self._new(value)
        return self._known[id(value)]

    def _weight(self, value: npt.NDArray[np.int8]) -> str:
        name = f"{self._constant(value)}_float"
        if not any(name in node.output for node in self._nodes):
            cast = helper.make_node("Cast", [self._constant(value)], [name], to=TensorProto.FLOAT)
            self._nodes.append(cast)
        return name

    def _op(self, kind: str, *inputs: str) -> str:
        name = f"{kind.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name]))
        return name

    def _whole(self, x: str, bottom: str) -> str:
        return self._op(
            "Clip", self._op("Floor", self._op("Add", x, self._half)), bottom, self._top
        )

    def _perceptron(self, x: str, perceptron: Perceptron) -> str:
        x = self._whole(self._op("Mul", x, self._grain), self._bottom)
        last = perceptron.layers[-1]
        for layer in perceptron.layers:
            product = self._op("MatMul", x, self._weight(layer.weight))
            sums = self._op("Add", product, self._constant(layer.bias))
            x = self._op("Mul", sums, self._constant(layer.scale))
            if layer is not last:
                x = self._whole(x, self._zero)
        return x

    def build(self, about: str) -> bytes:
        network = self._network
        x = "noise"
        for step in network.steps:
            x = self._op("Add", x, self._perceptron(x, step))
        self._perceptron(x, network.decoder)
        self._nodes[-1].output[0] = "logits"
        graph = helper.make_graph(
            self._nodes,
            "generator",
            [helper.make_tensor_value_info("noise", TensorProto.FLOAT, ["B", network.inputs])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", network.outputs])],
            self._constants,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION
        )
        model.doc_string = about
        segments = [{"kind": "normal", "width": network.inputs}]
        helper.set_model_props(model, {"noise": json.dumps(segments)})
        data: bytes = model.SerializeToString(deterministic=True)
        return data
