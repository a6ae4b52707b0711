"""The step under onnxruntime: three packaged graphs that serve every layout.

tools/build_dpstep.py writes them and explains their inputs. `NumpyStep` is their reference. Inputs
and outputs are bound to memory once, so that a step allocates nothing; an object serves one thread.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import MissingExtraError
from edge_runtime.generator.layout import Layout, Weights
from edge_runtime.training.flat import F32, FlatWeights
from edge_runtime.training.step import CLIPPED_CHUNK, I32, PLAIN_CHUNK, ChunkedStep

__all__ = ["OnnxStep"]


class OnnxStep(ChunkedStep):
    """Forward, backward and clipping by onnxruntime.

    Parameters
    ----------
    layout : Layout
    threads : int

    Raises
    ------
    MissingExtraError
        If onnxruntime is not installed.
    """

    name = "onnx"

    def __init__(self, layout: Layout, *, threads: int = 1) -> None:
        super().__init__(layout)
        self._clipped_graph = _Graph("dpstep.onnx", layout, CLIPPED_CHUNK, threads)
        self._threads = threads
        self._plain_graph: _Graph | None = None
        self._nll_graph: _Graph | None = None

    def _clipped(
        self, weights: Weights, codes: I32, factors: F32, bound: float, out: FlatWeights
    ) -> F32:
        return self._clipped_graph.run(weights, codes, factors=factors, bound=bound, out=out)

    def _plain(self, weights: Weights, codes: I32, factors: F32, out: FlatWeights) -> F32:
        if self._plain_graph is None:
            self._plain_graph = _Graph("step.onnx", self.layout, PLAIN_CHUNK, self._threads)
        return self._plain_graph.run(weights, codes, factors=factors, out=out)

    def _nll(self, weights: Weights, codes: I32) -> F32:
        if self._nll_graph is None:
            self._nll_graph = _Graph("nll.onnx", self.layout, PLAIN_CHUNK, self._threads)
        return self._nll_graph.run(weights, codes)


class _Graph:
    """A session with all memory bound for a fixed number of rows."""

    def __init__(self, file: str, layout: Layout, rows: int, threads: int) -> None:
        runtime = _runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # The bound on rounding, which is charged as privacy, holds for float32 products only.
        options.add_session_config_entry("mlas.enable_gemm_fastmath_arm64_bfloat16", "0")
        from importlib import resources  # noqa: PLC0415 - brings what training with numpy spares

        graph = resources.files("edge_runtime.training").joinpath(file).read_bytes()
        self._session = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._rows = rows
        self._starts = np.array(layout.offsets[:-1], dtype=np.int64)
        self._x: F32 = np.zeros((layout.width, rows), dtype=np.float32)
        self._lines: NDArray[np.int64] = np.zeros((rows, layout.columns), dtype=np.int64)
        self._hot = self._lines.reshape(-1)
        self._places = np.arange(rows, dtype=np.int64)[:, None]
        self._weights: Weights | None = None
        self._held: list[F32] = []
        self._out: FlatWeights | None = None
        self._factors: F32 = np.zeros((1, rows), dtype=np.float32)
        self._bound: F32 = np.zeros(1, dtype=np.float32)
        self._result: F32 = np.zeros((1, rows), dtype=np.float32)
        self._binding: Any = self._session.io_binding()
        self._inputs = {node.name for node in self._session.get_inputs()}
        outputs = [node.name for node in self._session.get_outputs()]
        self._gradients = [name for name in outputs if name.startswith("g_")]
        # Kept alive: onnxruntime holds their addresses only.
        self._constants = _constants(layout) | {
            "x": self._x,
            "factors": self._factors,
            "bound": self._bound,
        }
        for name, array in self._constants.items():
            if name in self._inputs:
                self._binding.bind_cpu_input(name, array)
        self._bind_output(outputs[-1], self._result)

    def run(
        self,
        weights: Weights,
        codes: I32,
        *,
        factors: F32 | None = None,
        bound: float = 0.0,
        out: FlatWeights | None = None,
    ) -> F32:
        """Run on at most the fixed number of rows; return the last output for them."""
        count = codes.shape[0]
        self._fill(codes)
        self._factors[0, count:] = 0.0
        if factors is not None:
            self._factors[0, :count] = factors
        self._bound[0] = bound
        # A loop passes the same objects, changed in place, in every step: they stay bound.
        if weights is not self._weights:
            self._bind_weights(weights)
        if out is not self._out and out is not None:
            self._out = out
            for name, view in zip(self._gradients, out.weights, strict=True):
                self._bind_output(name, view)
        self._session.run_with_iobinding(self._binding)
        return self._result[0, :count].copy()

    def _fill(self, codes: I32) -> None:
        """Write the one-hot rows; those beyond `codes` repeat its first row, with factor 0."""
        flat = self._x.reshape(-1)
        flat[self._hot] = 0.0
        self._lines[:] = codes[0] + self._starts
        self._lines[: codes.shape[0]] = codes + self._starts
        self._lines *= self._rows
        self._lines += self._places
        flat[self._hot] = 1.0

    def _bind_weights(self, weights: Weights) -> None:
        shaped = [tensor if tensor.ndim == 2 else tensor[:, None] for tensor in weights]
        bound = [np.ascontiguousarray(tensor) for tensor in shaped]
        for name, tensor in zip(Weights._fields, bound, strict=True):
            self._binding.bind_cpu_input(name, tensor)
        self._held = bound
        # A copy would not see later changes of the original: bind anew the next time.
        copied = any(a is not b for a, b in zip(shaped, bound, strict=True))
        self._weights = None if copied else weights

    def _bind_output(self, name: str, array: F32) -> None:
        self._binding.bind_output(name, "cpu", 0, np.float32, list(array.shape), array.ctypes.data)


def _constants(layout: Layout) -> dict[str, NDArray[Any]]:
    columns = np.arange(layout.columns)
    sizes = np.array(layout.cardinalities)
    owner = np.repeat(columns, sizes)
    slot = np.arange(sizes.max())[None, :]
    starts = np.array(layout.offsets[:-1])[:, None]
    m1, m2, m3 = layout.masks
    return {
        "blocks": (owner[:, None] == columns[None, :]).astype(np.float32),
        "slots": (starts + np.where(slot < sizes[:, None], slot, 0)).astype(np.int64),
        "m1": m1,
        "m2": m2,
        "m3": m3,
        "seen": (layout.degrees + 2).astype(np.float32)[:, None],
        "visible": (layout.degrees[:, None] < columns[None, :]).astype(np.float32),
    }


def _runtime() -> Any:
    try:
        import onnxruntime  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "onnx") from error
    return onnxruntime
