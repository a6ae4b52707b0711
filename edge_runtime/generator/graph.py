"""The sampler of a layout as one ONNX graph: noise float32 [B, D] -> codes int32 [B, D].

The autoregressive loop is unrolled, and each hidden unit is computed once, when the last column it
sees is known, so that a row costs one pass through the network. The graph holds no weights: the
tensors of `edge_runtime.generator.quantize.TENSORS` are external initializers, bound when a
session is made, so that a device can run weights it trained itself without any ONNX tool. They
refer to `quantised.safetensors` of the bundle, so that both files side by side are a whole model.

Inside, rows lie along the last axis: every operation on a column of K codes then runs over
contiguous rows, and values per row (the threshold, the maximum) spread without copying. A drawn
code enters the next layer as a thermometer (1 for every code below it), which is what comparing
the cumulative sum with the threshold yields anyway; the first layer's weights become differences
of neighbouring codes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy

from edge_runtime.errors import MissingExtraError
from edge_runtime.generator.layout import Layout
from edge_runtime.generator.quantize import TENSORS

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["build_sampler"]

#: Old enough for every onnxruntime since 1.12.
_OPSET = 17
_IR_VERSION = 8


def build_sampler(layout: Layout) -> bytes:
    """Build the graph of a layout.

    Parameters
    ----------
    layout : Layout

    Returns
    -------
    bytes
        A serialised ONNX model; the same layout gives the same bytes.

    Raises
    ------
    MissingExtraError
        If the onnx package is not installed.
    """
    try:
        import onnx  # noqa: PLC0415 - only where graphs are built, never on a device
    except ImportError as error:
        raise MissingExtraError("onnx", "aggregator") from error
    return _Builder(layout, onnx).build()


class _Builder:
    """Collects nodes and constants; names count up, so that equal layouts give equal bytes."""

    def __init__(self, layout: Layout, onnx: Any) -> None:
        self._layout = layout
        self._onnx = onnx
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    # -- pieces -------------------------------------------------------------------------------

    def _constant(self, value: npt.ArrayLike, dtype: type[np.generic] = np.int64) -> str:
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            name = f"constant{len(self._known)}"
            self._constants.append(self._onnx.numpy_helper.from_array(array, name))
            self._known[key] = name
        return self._known[key]

    def _float(self, value: float) -> str:
        return self._constant(value, np.float32)

    def _op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"{kind.lower()}{len(self._nodes)}_{i}" for i in range(outputs)]
        self._nodes.append(
            self._onnx.helper.make_node(kind, list(inputs), names, name=names[0], **attributes)
        )
        return names[0] if outputs == 1 else names

    def _slice(self, x: str, start: tuple[int, ...], end: tuple[int, ...]) -> str:
        axes = self._constant(list(range(len(start))))
        name: str = self._op("Slice", x, self._constant(start), self._constant(end), axes)
        return name

    def _rows(self, x: str, sizes: list[int]) -> list[str]:
        if len(sizes) == 1:
            return [x]
        parts: list[str] = self._op("Split", x, self._constant(sizes), outputs=len(sizes), axis=0)
        return parts

    def _join(self, old: str, new: str) -> str:
        name: str = self._op("Concat", old, new, axis=0)
        return name

    def _float_tensor(self, name: str) -> str:
        cast: str = self._op("Cast", name, to=self._onnx.TensorProto.FLOAT)
        return cast

    def _upright(self, x: str) -> str:
        """Turn a vector into a column [n, 1]."""
        column: str = self._op("Reshape", x, self._constant([-1, 1]))
        return column

    def _activation(self, x: str) -> str:
        """Round down to one of 0..127."""
        name: str = self._op("Clip", self._op("Floor", x), self._float(0.0), self._float(127.0))
        return name

    # -- the network --------------------------------------------------------------------------

    def build(self) -> bytes:
        layout, proto = self._layout, self._onnx.TensorProto
        columns = layout.columns
        self._bind_weights()
        noise = self._op("Transpose", "noise", perm=[1, 0])
        live = self._op("Less", noise, self._float(1.0))
        # A forced code c: all codes get equal weight below, and the threshold falls between c
        # and c + 1 of the K steps, so that rounding cannot move it.
        size = self._constant(np.asarray(layout.cardinalities)[:, None], np.float32)
        between = self._op("Div", self._op("Sub", noise, self._float(0.5)), size)
        level = self._op("Where", live, noise, between)
        levels = self._rows(level, [1] * columns)
        lives = self._rows(self._op("Cast", live, to=proto.FLOAT), [1] * columns)
        ones = self._op(
            "Cast", self._op("GreaterOrEqual", levels[0], self._float(0.0)), to=proto.FLOAT
        )

        z1 = z2 = ones
        waiting = ""
        codes = []
        for column, cardinality in enumerate(layout.cardinalities):
            if column:
                first, end = layout.units(column - 1)
                if end > first:
                    new = waiting
                    if layout.hidden > end:
                        new, waiting = self._rows(waiting, [end - first, layout.hidden - end])
                    z1, h2 = self._hidden(new, z1, first, end)
                    z2 = self._join(z2, h2)
            logits = self._logits(column, z2)
            steps = self._draw(logits, levels[column], lives[column])
            count = self._op("ReduceSum", steps, self._constant([0]), keepdims=1)
            codes.append(self._op("Min", count, self._float(cardinality - 1)))
            if column < columns - 1 and layout.units(column)[0] < layout.hidden:
                waiting = self._push(column, steps, waiting)
        table = self._rows_to_table(codes)
        self._op("Cast", table, to=proto.INT32)
        self._nodes[-1].output[0] = "codes"
        return self._model()

    def _bind_weights(self) -> None:
        """Turn the bound tensors once into the shapes the steps slice from (folded at load)."""
        layout = self._layout
        v = layout.width
        w1 = self._float_tensor("w1")
        following = self._op(
            "Concat", self._slice(w1, (1,), (v,)), self._slice(w1, (0,), (1,)), axis=0
        )
        inner = np.ones((v, 1), np.float32)
        inner[np.asarray(layout.offsets[1:]) - 1] = 0
        steps = self._op("Mul", self._op("Sub", following, w1), self._constant(inner, np.float32))
        self._w1 = self._op("Transpose", steps, perm=[1, 0])
        start = self._op("Gather", w1, self._constant(list(layout.offsets[:-1])), axis=0)
        self._start = self._upright(self._op("ReduceSum", start, self._constant([0]), keepdims=0))
        self._w2, self._w3 = (
            self._op(
                "Concat",
                self._upright(self._float_tensor(f"b{i}")),
                self._op("Transpose", self._float_tensor(f"w{i}"), perm=[1, 0]),
                axis=1,
            )
            for i in (2, 3)
        )
        self._rescale1, self._shift1, self._rescale2, self._skip2, self._scale3 = (
            self._upright(name) for name in ("rescale1", "shift1", "rescale2", "skip2", "scale3")
        )

    def _hidden(self, new: str, z1: str, first: int, end: int) -> tuple[str, str]:
        """First layer so far with the new units, and the second layer's new units."""

        def part(x: str) -> str:
            return self._slice(x, (first,), (end,))

        scaled = self._op("Mul", new, part(self._rescale1))
        h1 = self._activation(self._op("Add", scaled, part(self._shift1)))
        z1 = self._join(z1, h1)
        inner = self._op("MatMul", self._slice(self._w2, (first, 0), (end, 1 + end)), z1)
        inner = self._op("Relu", self._op("Mul", inner, part(self._rescale2)))
        skip = self._op("Mul", h1, part(self._skip2))
        both = self._op("Add", self._op("Add", inner, skip), self._float(0.5))
        return z1, self._activation(both)

    def _logits(self, column: int, z2: str) -> str:
        a, b = self._layout.offsets[column : column + 2]
        end = self._layout.units(column - 1)[1] if column else 0
        scale = self._slice(self._scale3, (a,), (b,))
        weight = self._slice(self._w3, (a, 0), (b, 1 + end))
        product = self._op("MatMul", weight, z2) if end else weight
        name: str = self._op("Mul", product, scale)
        return name

    def _draw(self, logits: str, level: str, live: str) -> str:
        """Thermometer of the drawn code, [K, B]: 1 for every code below it."""
        top = self._op("ReduceMax", logits, axes=[0], keepdims=1)
        shifted = self._op("Mul", self._op("Sub", logits, top), live)
        total = self._op("CumSum", self._op("Exp", shifted), self._constant(0))
        last = self._slice(total, (-1,), (np.iinfo(np.int64).max,))
        below = self._op("LessOrEqual", total, self._op("Mul", last, level))
        name: str = self._op("Cast", below, to=self._onnx.TensorProto.FLOAT)
        return name

    def _push(self, column: int, steps: str, waiting: str) -> str:
        """Add a drawn column to the inputs of all units that see it."""
        layout = self._layout
        first = layout.units(column)[0]
        a, b = layout.offsets[column : column + 2]
        weight = self._slice(self._w1, (first, a), (layout.hidden, b))
        base = waiting or self._slice(self._start, (first,), (layout.hidden,))
        name: str = self._op("Gemm", weight, steps, base)
        return name

    def _rows_to_table(self, rows: list[str]) -> str:
        table = rows[0] if len(rows) == 1 else self._op("Concat", *rows, axis=0)
        name: str = self._op("Transpose", table, perm=[1, 0])
        return name

    def _model(self) -> bytes:
        helper, proto = self._onnx.helper, self._onnx.TensorProto
        layout = self._layout
        types = {np.int8: proto.INT8, np.int32: proto.INT32, np.float32: proto.FLOAT}
        size = {"V": layout.width, "H": layout.hidden}
        outside = []
        places = _places(layout)
        for name, (dtype, dims) in TENSORS.items():
            tensor = proto(name=name, data_type=types[dtype], dims=[size[d] for d in dims])
            tensor.data_location = proto.EXTERNAL
            for key, value in zip(("location", "offset", "length"), places[name], strict=True):
                tensor.external_data.add(key=key, value=str(value))
            outside.append(tensor)
        graph = helper.make_graph(
            self._nodes,
            "sampler",
            [helper.make_tensor_value_info("noise", proto.FLOAT, ["B", layout.columns])],
            [helper.make_tensor_value_info("codes", proto.INT32, ["B", layout.columns])],
            [*outside, *self._constants],
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION
        )
        model.producer_name = "edge-runtime"
        segments = json.dumps([{"kind": "uniform", "width": layout.columns}])
        helper.set_model_props(model, {"noise": segments})
        data: bytes = model.SerializeToString(deterministic=True)
        return data


def _places(layout: Layout) -> dict[str, tuple[str, int, int]]:
    """File, first byte and bytes of every tensor: the graph runs beside the file it names."""
    size = {"V": layout.width, "H": layout.hidden}
    zeros = {
        name: np.zeros([size[d] for d in dims], dtype) for name, (dtype, dims) in TENSORS.items()
    }
    data = safetensors.numpy.save(zeros)
    # A little-endian 64-bit length, the header in JSON, then the tensors.
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    ranges = {name: header[name]["data_offsets"] for name in TENSORS}
    return {name: ("quantised.safetensors", begin + a, b - a) for name, (a, b) in ranges.items()}
