"""The sampler of a layout as a .tflite file: noise float32 [B, D] -> codes int32 [B, D].

The integer network of `edge_runtime.generator.quantize`, exactly: weights are int8 with scale 1,
so that DEQUANTIZE turns them into the same integers as floats, and FULLY_CONNECTED on activations
0..127 adds up integers below 2**24, which float32 counts exactly in any order. Only SOFTMAX may
round differently from other engines.

The operators and their versions are those that tflite-runtime 2.14 knows. Rows are the first axis,
as FULLY_CONNECTED wants them. Each hidden unit is computed once, when the last column it sees is
drawn; what a drawn code adds to the units after it is looked up in a table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edge_runtime.generator.layout import Layout
from edge_runtime.generator.quantize import check_quantised
from edge_runtime.generator.tflite_file import ModelWriter
from edge_runtime.generator.tflite_weights import Place, TfliteGraph, places_to_json

__all__ = ["build_tflite"]

#: ActivationFunctionType of the schema
_NONE, _RELU = 0, 1
#: TensorType of the schema
_FLOAT32, _INT32, _BOOL = 0, 2, 6
_TOP = 127


def build_tflite(tensors: Mapping[str, npt.NDArray[np.generic]], layout: Layout) -> TfliteGraph:
    """Build the file.

    Parameters
    ----------
    tensors : mapping of str to ndarray
        As in `edge_runtime.generator.quantize.TENSORS`.
    layout : Layout

    Returns
    -------
    TfliteGraph
        Equal arguments give equal bytes.

    Raises
    ------
    EngineError
        If the tensors do not fit the layout.
    MissingExtraError
        If the tflite package is not installed.
    """
    check_quantised(tensors, layout)
    return _Builder(tensors, layout).build()


class _Builder:
    """Adds the operators of one column after the other."""

    def __init__(self, tensors: Mapping[str, npt.NDArray[np.generic]], layout: Layout) -> None:
        self._tensors = tensors
        self._layout = layout
        self._file = ModelWriter()
        self._places: list[tuple[Place, int]] = []
        self._axis = self._file.constant(np.array(1, np.int32))
        self._axes = self._file.constant(np.array([1], np.int32))
        self._flat = self._file.constant(np.array([-1], np.int32))
        self._zero, self._half, self._one, self._top = (
            self._file.constant(np.array([[value]], np.float32)) for value in (0, 0.5, 1, _TOP)
        )

    # -- pieces -------------------------------------------------------------------------------

    def _op(
        self,
        kind: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        *,
        dtype: str = "float32",
        version: int = 1,
        options: str = "",
        **fields: float | Sequence[int],
    ) -> int:
        out = self._file.tensor(shape, dtype=dtype)
        self._file.operator(kind, inputs, [out], version=version, options=options, **fields)
        return out

    def _pair(self, kind: str, a: int, b: int, width: int, activation: int = _NONE) -> int:
        """ADD, SUB or MUL of two tensors that spread over [B, width]."""
        return self._op(
            kind.upper(),
            [a, b],
            [-1, width],
            options=f"{kind.title()}Options",
            FusedActivationFunction=activation,
        )

    def _least(self, x: int, bound: int, width: int) -> int:
        return self._op("MINIMUM", [x, bound], [-1, width], options="MaximumMinimumOptions")

    def _cast(self, x: int, shape: Sequence[int], source: int, target: int) -> int:
        return self._op(
            "CAST",
            [x],
            shape,
            dtype="int32" if target == _INT32 else "float32",
            options="CastOptions",
            InDataType=source,
            OutDataType=target,
        )

    def _columns(self, x: int) -> list[int]:
        """Cut [B, D] into D tensors [B, 1]."""
        count = self._layout.columns
        if count == 1:
            return [x]
        parts = [self._file.tensor([-1, 1]) for _ in range(count)]
        self._file.operator(
            "SPLIT", [self._axis, x], parts, options="SplitOptions", NumSplits=count
        )
        return parts

    def _cut(self, x: int, first: int, rest: int) -> tuple[int, int]:
        """Cut [B, first + rest] in two."""
        parts = [self._file.tensor([-1, first]), self._file.tensor([-1, rest])]
        sizes = self._file.constant(np.array([first, rest], np.int32))
        self._file.operator(
            "SPLIT_V", [x, sizes, self._axis], parts, options="SplitVOptions", NumSplits=2
        )
        return parts[0], parts[1]

    def _join(self, parts: Sequence[int], width: int) -> int:
        if len(parts) == 1:
            return parts[0]
        return self._op("CONCATENATION", parts, [-1, width], options="ConcatenationOptions", Axis=1)

    def _part(
        self, name: str, columns: tuple[int, int], rows: tuple[int, int] | None = None
    ) -> tuple[npt.NDArray[np.generic], Place]:
        a, b = rows or (0, 1)
        place = Place(name, a, b, *columns, transposed=False, offset=0)
        return np.atleast_2d(self._tensors[name])[a:b, columns[0] : columns[1]], place

    def _vector(self, name: str, a: int, b: int, *, upright: bool = False) -> int:
        """Values a to b of a vector as float32: [1, n], or [n] where FULLY_CONNECTED takes it."""
        value, place = self._part(name, (a, b))
        index = self._file.constant((value[0] if upright else value).astype(np.float32))
        self._places.append((place, index))
        return index

    def _matrix(
        self, name: str, rows: tuple[int, int], columns: tuple[int, int], *, transposed: bool
    ) -> int:
        """Block of an int8 matrix, as floats."""
        value, place = self._part(name, columns, rows)
        value = np.ascontiguousarray(value.T if transposed else value)
        index = self._file.constant(value)
        self._places.append((place._replace(transposed=transposed), index))
        return self._op("DEQUANTIZE", [index], value.shape, version=2)

    def _product(self, x: int, weight: int, bias: int, width: int) -> int:
        return self._op(
            "FULLY_CONNECTED",
            [x, weight, bias],
            [-1, width],
            options="FullyConnectedOptions",
            KeepNumDims=True,
        )

    def _activation(self, x: int, width: int) -> int:
        """Round down to one of 0..127 what is not negative."""
        return self._op("FLOOR", [self._least(x, self._top, width)], [-1, width])

    # -- the network --------------------------------------------------------------------------

    def build(self) -> TfliteGraph:
        layout = self._layout
        count = layout.columns
        noise = self._file.tensor([-1, count], name="noise")
        whole = self._op("FLOOR", [noise], [-1, count])
        live = self._pair("sub", self._one, self._least(whole, self._one, count), count)
        forced = self._pair("sub", whole, self._one, count, _RELU)
        levels, lives, forces = map(self._columns, (noise, live, forced))
        z1 = z2 = waiting = -1
        codes = []
        for column in range(count):
            first, end = layout.units(column - 1) if column else (0, 0)
            if end > first:
                new = waiting
                if layout.hidden > end:
                    new, waiting = self._cut(waiting, end - first, layout.hidden - end)
                h1 = self._first(new, first, end)
                z1 = self._join([z1, h1] if first else [h1], end)
                h2 = self._second(h1, z1, first, end)
                z2 = self._join([z2, h2] if first else [h2], end)
            code = self._draw(self._logits(column, z2, levels[column]), column, levels[column])
            code = self._pair("mul", code, lives[column], 1)
            codes.append(self._pair("add", code, forces[column], 1))
            if column < count - 1 and layout.units(column)[0] < layout.hidden:
                waiting = self._push(column, codes[-1], waiting)
        out = self._file.tensor([-1, count], dtype="int32", name="codes")
        self._file.operator(
            "CAST",
            [self._join(codes, count)],
            [out],
            options="CastOptions",
            InDataType=_FLOAT32,
            OutDataType=_INT32,
        )
        segments = json.dumps([{"kind": "uniform", "width": count}])
        graph, offsets = self._file.finish(
            [noise], [out], description="edge-runtime", metadata={"noise": segments.encode()}
        )
        places = [place._replace(offset=offsets[tensor]) for place, tensor in self._places]
        return TfliteGraph(graph=graph, table=places_to_json(graph, places))

    def _first(self, new: int, first: int, end: int) -> int:
        """First layer's units from their sums."""
        n = end - first
        scaled = self._pair("mul", new, self._vector("rescale1", first, end, upright=True), n)
        shift = self._vector("shift1", first, end, upright=True)
        return self._activation(self._pair("add", scaled, shift, n, _RELU), n)

    def _second(self, h1: int, z1: int, first: int, end: int) -> int:
        """Second layer's units from the first layer so far."""
        n = end - first
        weight = self._matrix("w2", (0, end), (first, end), transposed=True)
        inner = self._product(z1, weight, self._vector("b2", first, end), n)
        rescale = self._vector("rescale2", first, end, upright=True)
        inner = self._pair("mul", inner, rescale, n, _RELU)
        skip = self._pair("mul", h1, self._vector("skip2", first, end, upright=True), n)
        both = self._pair("add", inner, skip, n)
        return self._activation(self._pair("add", both, self._half, n), n)

    def _logits(self, column: int, z2: int, level: int) -> int:
        a, b = self._layout.offsets[column : column + 2]
        end = self._layout.units(column - 1)[1] if column else 0
        if end:
            weight = self._matrix("w3", (0, end), (a, b), transposed=True)
        else:
            # The bias alone, once per row: the product needs an input and gets one that is finite.
            z2, weight = level, self._file.constant(np.zeros((b - a, 1), np.float32))
        product = self._product(z2, weight, self._vector("b3", a, b), b - a)
        return self._pair("mul", product, self._vector("scale3", a, b, upright=True), b - a)

    def _draw(self, logits: int, column: int, level: int) -> int:
        """Count of the codes below the drawn one, [B, 1] float32."""
        size = self._layout.cardinalities[column]
        if size == 1:
            return self._pair("mul", level, self._zero, 1)
        chance = self._op("SOFTMAX", [logits], [-1, size], options="SoftmaxOptions", Beta=1.0)
        total = self._op(
            "CUMSUM",
            [chance, self._axis],
            [-1, size],
            options="CumsumOptions",
            Exclusive=False,
            Reverse=False,
        )
        inner, last = self._cut(total, size - 1, 1)
        threshold = self._pair("mul", last, level, 1)
        below = self._op(
            "LESS_EQUAL",
            [inner, threshold],
            [-1, size - 1],
            dtype="bool",
            options="LessEqualOptions",
        )
        steps = self._cast(below, [-1, size - 1], _BOOL, _FLOAT32)
        return self._op(
            "SUM", [steps, self._axes], [-1, 1], options="ReducerOptions", KeepDims=True
        )

    def _push(self, column: int, code: int, waiting: int) -> int:
        """Add a drawn column to the sums of all units that see it."""
        layout = self._layout
        first = layout.units(column)[0]
        rows = (layout.offsets[column], layout.offsets[column + 1])
        table = self._matrix("w1", rows, (first, layout.hidden), transposed=False)
        whole = self._cast(code, [-1, 1], _FLOAT32, _INT32)
        flat = self._op(
            "RESHAPE",
            [whole, self._flat],
            [-1],
            dtype="int32",
            options="ReshapeOptions",
            NewShape=[-1],
        )
        width = layout.hidden - first
        row = self._op("EMBEDDING_LOOKUP", [flat, table], [-1, width])
        return row if waiting < 0 else self._pair("add", waiting, row, width)
