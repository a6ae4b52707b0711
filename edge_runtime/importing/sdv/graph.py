"""The imported network as one ONNX graph: noise float32 [B, N] -> codes int32 [B, D].

Weights stand in the file as int8; an engine turns them into float32 once, when it loads the graph.
The conditional vector of CTGAN is one-hot: instead of a product with it, its row of the weights is
looked up. All heads of about the same size are drawn together, padded with outputs that can never
be drawn; all columns are cut into bins by one comparison.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import MissingExtraError
from edge_runtime.importing.sdv.columns import Coding
from edge_runtime.importing.sdv.description import F64, Head
from edge_runtime.importing.sdv.network import Dense, Network
from edge_runtime.importing.sdv.plan import Plan, choices

__all__ = ["build_graph"]


#: as the project's own sampler
_OPSET = 17
_IR_VERSION = 8
#: a logit that is never drawn, and finite, so that no product of it is not a number
_NEVER = np.float32(-1e30)


def build_graph(network: Network, plan: Plan, codings: Sequence[Coding]) -> bytes:
    """Build the graph.

    Parameters
    ----------
    network : Network
        With whole weights, see `network.rounded`.
    plan : Plan
    codings : sequence of Coding
        One per output of the description.

    Returns
    -------
    bytes
        A serialised ONNX model; equal inputs give equal bytes.

    Raises
    ------
    MissingExtraError
        If the onnx package is not installed.
    """
    try:
        import onnx  # noqa: PLC0415 - only where graphs are built, never on a device
    except ImportError as error:
        raise MissingExtraError("onnx", "aggregator") from error
    return _Builder(network, plan, codings, onnx).build()


class _Builder:
    def __init__(self, network: Network, plan: Plan, codings: Sequence[Coding], onnx: Any) -> None:
        self._network = network
        self._plan = plan
        self._codings = codings
        self._onnx = onnx
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        #: What is cut into intervals: a continuous head, counted among those, and its cuts.
        self._cut: list[tuple[int, F64]] = []
        #: Where each output's category or interval stands: the picks come first.
        self._source: list[int] = []
        names = [plan.words.heads[number].name for number in plan.continuous]
        picked = [plan.words.heads[number].name for number in plan.picked]
        for output, coding in zip(plan.words.outputs, codings, strict=True):
            if coding.cuts is None:
                self._source.append(picked.index(output.name))
            else:
                self._source.append(len(picked) + len(self._cut))
                self._cut.append((names.index(output.name), coding.cuts))
        #: Outputs that a head makes missing, and where its category stands.
        self._flags = {
            number: picked.index(output.gone)
            for number, output in enumerate(plan.words.outputs)
            if output.gone is not None
        }

    # -- pieces -------------------------------------------------------------------------------

    def _constant(self, value: npt.ArrayLike, dtype: type[np.generic] = np.int64) -> str:
        name = f"constant{len(self._constants)}"
        array = np.ascontiguousarray(np.asarray(value, dtype))
        self._constants.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def _float(self, value: npt.ArrayLike) -> str:
        return self._constant(value, np.float32)

    def _op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"{kind.lower()}{len(self._nodes)}_{i}" for i in range(outputs)]
        self._nodes.append(
            self._onnx.helper.make_node(kind, list(inputs), names, name=names[0], **attributes)
        )
        return names[0] if outputs == 1 else names

    def _cast(self, x: str, kind: str) -> str:
        name: str = self._op("Cast", x, to=getattr(self._onnx.TensorProto, kind))
        return name

    def _split(self, x: str, sizes: Sequence[int]) -> list[str]:
        if len(sizes) == 1:
            return [x]
        parts: list[str] = self._op("Split", x, self._constant(sizes), outputs=len(sizes), axis=1)
        return parts

    def _join(self, *parts: str) -> str:
        name: str = parts[0] if len(parts) == 1 else self._op("Concat", *parts, axis=1)
        return name

    def _columns(self, x: str, numbers: Sequence[int]) -> str:
        name: str = self._op("Gather", x, self._constant(numbers), axis=1)
        return name

    def _count(self, below: str) -> str:
        """How many of the last axis are true, as int64 without that axis."""
        ones = self._cast(below, "FLOAT")
        return self._cast(self._op("ReduceSum", ones, self._constant([-1]), keepdims=0), "INT64")

    # -- the network --------------------------------------------------------------------------

    def build(self) -> bytes:
        plan = self._plan
        sizes = {name: place.stop - place.start for name, place in plan.parts.items()}
        used = [name for name, size in sizes.items() if size]
        noise = dict(zip(used, self._split("noise", [sizes[name] for name in used]), strict=True))
        places, *groups = self._outputs(noise)
        picks = self._picks(groups, noise.get("pick", ""))
        drawn = [picks]
        if self._cut:
            drawn.append(self._intervals(self._values(places, picks, noise.get("shake", ""))))
        self._codes(self._join(*drawn), noise)
        return self._model()

    def _outputs(self, noise: dict[str, str]) -> list[str]:
        """Name the network's outputs: places of the continuous heads, then groups of choices."""
        *hidden, last = self._network.layers
        condition = self._condition(noise["condition"]) if "condition" in noise else ""
        x = noise["embedding"]
        for layer in hidden:
            activated = self._op("Relu", self._dense(layer, x, condition))
            x = self._join(activated, x) if self._network.residual else activated
        plan = self._plan
        made = self._dense(self._arranged(last), x, condition)
        sizes = [width * len(heads) for width, heads in plan.groups]
        if not plan.continuous:
            return ["", *self._split(made, sizes)]
        return self._split(made, [len(plan.continuous), *sizes])

    def _condition(self, uniform: str) -> str:
        """Category that each row is asked for, [B]."""
        ends = np.cumsum(self._plan.words.condition)[:-1]
        if not len(ends):
            ends = np.array([2.0])  # one category: no uniform number reaches this
        return self._count(self._op("GreaterOrEqual", uniform, self._float(ends[None, :])))

    def _dense(self, layer: Dense, x: str, condition: str) -> str:
        weight = layer.weight.astype(np.int8)
        inputs = len(weight) - self._network.categories
        product = self._op("MatMul", x, self._weight(weight[:inputs]))
        if condition:
            asked = self._op("Gather", self._weight(weight[inputs:]), condition, axis=0)
            product = self._op("Add", product, asked)
        scaled = self._op("Mul", product, self._float(layer.scale))
        name: str = self._op("Add", scaled, self._float(layer.bias))
        return name

    def _weight(self, weight: npt.NDArray[np.int8]) -> str:
        return self._cast(self._constant(weight, np.int8), "FLOAT")

    def _arranged(self, last: Dense) -> Dense:
        """Put the outputs of the last layer in the order that `_outputs` splits."""
        plan = self._plan
        columns = [plan.offsets[head] for head in plan.continuous]
        for width, heads in plan.groups:
            for head in heads:
                own = plan.words.heads[head]
                end = plan.offsets[head] + own.outputs
                used = choices(own)
                columns += [*range(end - used, end), *[-1] * (width - used)]
        index = np.array(columns)
        padded = index < 0
        return Dense(
            np.where(padded, 0, last.weight[:, index]),
            last.scale[index],
            np.where(padded, _NEVER, last.bias[index]),
        )

    # -- drawing ------------------------------------------------------------------------------

    def _picks(self, groups: list[str], uniform: str) -> str:
        """Category or mode of every head, int64 [B, heads], in the order of `Plan.picked`."""
        plan = self._plan
        sizes = [len(heads) for _, heads in plan.groups]
        levels = [""] * len(sizes) if plan.tvae else self._split(uniform, sizes)
        picks = []
        for (width, heads), logits, level in zip(plan.groups, groups, levels, strict=True):
            shaped = self._op("Reshape", logits, self._constant([0, len(heads), width]))
            if plan.tvae:
                picks.append(self._op("ArgMin", self._below_one(shaped), axis=2, keepdims=0))
                continue
            top = self._op("ReduceMax", shaped, axes=[2], keepdims=1)
            total = self._op(
                "CumSum", self._op("Exp", self._op("Sub", shaped, top)), self._constant(2)
            )
            last = self._op("Gather", total, self._constant([width - 1]), axis=2)
            upright = self._op("Unsqueeze", level, self._constant([2]))
            below = self._op("LessOrEqual", total, self._op("Mul", last, upright))
            most = [choices(plan.words.heads[head]) - 1 for head in heads]
            picks.append(self._op("Min", self._count(below), self._constant(most)))
        return self._join(*picks)

    def _below_one(self, x: str) -> str:
        """Count the steps of float32 from tanh(x) up to 1.

        ctgan compares values of tanh, where outputs above 9.01 are equal and the first one wins.
        onnxruntime's Tanh is an approximation that is 1 from 8.09 on, hence by its definition:
        1 - tanh(x) = 2 e / (1 + e) with e = exp(-2 x), in steps of 2^-24.
        """
        bounded = self._op("Clip", x, self._float(-20.0), self._float(20.0))
        power = self._op("Exp", self._op("Mul", bounded, self._float(-2.0)))
        steps = self._op("Mul", power, self._float(2.0**25))
        share = self._op("Div", steps, self._op("Add", power, self._float(1.0)))
        name: str = self._op("Round", share)
        return name

    def _values(self, places: str, picks: str, shake: str) -> str:
        """Values of the continuous heads, [B, heads], each in -1 .. 1 over its own reach."""
        plan = self._plan
        heads = [plan.words.heads[number] for number in plan.continuous]
        place = self._op("Tanh", places)
        if shake:
            noise = self._op("Mul", shake, self._float([head.sigma for head in heads]))
            place = self._op("Add", place, noise)
        place = self._op("Clip", place, self._float(-1.0), self._float(1.0))
        first = np.cumsum([0, *(choices(head) for head in heads)])[:-1]
        mode = self._columns(picks, [plan.picked.index(number) for number in plan.continuous])
        mode = self._op("Add", mode, self._constant(first))
        spread, centre = (
            np.concatenate([_scaled(head)[part] for head in heads]) for part in (0, 1)
        )
        scaled = self._op("Mul", place, self._op("Gather", self._float(spread), mode))
        name: str = self._op("Add", scaled, self._op("Gather", self._float(centre), mode))
        return name

    def _intervals(self, values: str) -> str:
        """Interval that each value falls in, int64 [B, columns that are cut]."""
        longest = max(1, *(len(cuts) for _, cuts in self._cut))
        table = np.full((len(self._cut), longest), np.inf, np.float32)
        for row, (head, cuts) in enumerate(self._cut):
            own = self._plan.words.heads[self._plan.continuous[head]]
            middle, half = _range(own)
            table[row, : len(cuts)] = (cuts - middle) / half
        each = self._op(
            "Unsqueeze", self._columns(values, [head for head, _ in self._cut]), self._constant([2])
        )
        return self._count(self._op("GreaterOrEqual", each, self._float(table)))

    def _codes(self, drawn: str, noise: dict[str, str]) -> None:
        """Look up the code of every category and interval, and put in the missing ones."""
        plan, tables = self._plan, [coding.table for coding in self._codings]
        first = np.cumsum([0, *map(len, tables)])[:-1]
        own = self._op("Add", self._columns(drawn, self._source), self._constant(first))
        code = self._op("Gather", self._constant(np.concatenate(tables)), own)
        if plan.lots or self._flags:
            last = self._constant([coding.missing for coding in self._codings])
            code = self._op("Where", self._missing(drawn, noise.get("lot", "")), last, code)
        self._op("Cast", code, to=self._onnx.TensorProto.INT32)
        self._nodes[-1].output[0] = "codes"

    def _missing(self, drawn: str, lot: str) -> str:
        """Whether each output is missing, bool [B, D]."""
        plan = self._plan
        any_one = self._columns(drawn, [0])
        found = [self._op("Less", any_one, any_one)]  # never, for all other columns
        place = dict.fromkeys(range(len(plan.words.outputs)), 0)
        if lot:
            shares = [plan.words.outputs[number].missing for number in plan.lots]
            found.append(self._op("Less", lot, self._float(shares)))
            place |= {number: 1 + i for i, number in enumerate(plan.lots)}
        if self._flags:
            tables = [plan.words.outputs[number].absent for number in self._flags]
            first = np.cumsum([0, *map(len, tables)])[:-1]
            own = self._columns(drawn, list(self._flags.values()))
            own = self._op("Add", own, self._constant(first))
            found.append(self._op("Gather", self._constant(np.concatenate(tables), np.bool_), own))
            place |= {number: 1 + len(plan.lots) + i for i, number in enumerate(self._flags)}
        return self._columns(self._join(*found), list(place.values()))

    # -- the file -----------------------------------------------------------------------------

    def _model(self) -> bytes:
        helper, proto = self._onnx.helper, self._onnx.TensorProto
        width = sum(segment.width for segment in self._plan.segments)
        graph = helper.make_graph(
            self._nodes,
            "imported",
            [helper.make_tensor_value_info("noise", proto.FLOAT, ["B", width])],
            [helper.make_tensor_value_info("codes", proto.INT32, ["B", len(self._codings)])],
            self._constants,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION
        )
        model.producer_name = "edge-runtime"
        segments = [{"kind": part.kind, "width": part.width} for part in self._plan.segments]
        helper.set_model_props(model, {"noise": json.dumps(segments)})
        data: bytes = model.SerializeToString(deterministic=True)
        return data


def _range(head: Head) -> tuple[float, float]:
    """Middle and half of what a head can reach: float32 is finest relative to these."""
    means, reach = np.array(head.means), 4 * np.array(head.stds)
    low, high = (means - reach).min(), (means + reach).max()
    return float(low + high) / 2, float(high - low) / 2


def _scaled(head: Head) -> tuple[F64, F64]:
    """Factor and centre of each mode, in units of `_range`."""
    middle, half = _range(head)
    return 4 * np.array(head.stds) / half, (np.array(head.means) - middle) / half
