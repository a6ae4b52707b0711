"""The sampler graph under onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import EngineError, MissingExtraError
from edge_runtime.generator.layout import F32, I32, Layout
from edge_runtime.generator.quantize import check_quantised
from edge_runtime.generator.reference import check_noise

__all__ = ["OnnxEngine"]


class OnnxEngine:
    """Run the graph of `edge_runtime.generator.graph.build_sampler`.

    Needs onnxruntime only: the weights are bound as external initializers. (`add_initializer`
    would not do: constants folded at load would keep older values.)

    Parameters
    ----------
    graph : bytes
        Serialised ONNX model.
    tensors : mapping of str to ndarray
        As in `edge_runtime.generator.quantize.TENSORS`.
    layout : Layout
    threads : int
        Threads of one call.

    Raises
    ------
    EngineError
        If the graph or the tensors do not fit.
    MissingExtraError
        If onnxruntime is not installed.
    """

    name = "onnx"

    def __init__(
        self,
        graph: bytes,
        tensors: Mapping[str, npt.NDArray[np.generic]],
        *,
        layout: Layout,
        threads: int = 1,
    ) -> None:
        try:
            import onnxruntime as ort  # noqa: PLC0415 - optional, and 40 MB of memory
        except ImportError as error:
            raise MissingExtraError("onnxruntime", "onnx") from error
        check_quantised(tensors, layout)
        self.layout = layout
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Plans of memory reuse are kept per batch size; without them 4 MB less, equally fast.
        options.enable_mem_pattern = False
        options.log_severity_level = 4
        names = list(tensors)
        values = [ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(tensors[n])) for n in names]
        options.add_external_initializers(names, values)
        try:
            session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            ports = [(p.name, p.type, p.shape[1:]) for p in session.get_inputs()]
            ports += [(p.name, p.type, p.shape[1:]) for p in session.get_outputs()]
        # onnxruntime's exceptions have no common base but RuntimeError and Exception itself.
        except Exception as error:
            raise EngineError(f"onnxruntime refused the sampler graph: {error}") from error
        expected = [
            ("noise", "tensor(float)", [layout.columns]),
            ("codes", "tensor(int32)", [layout.columns]),
        ]
        if ports != expected:
            raise EngineError(f"the graph's inputs and outputs are {ports}, not {expected}")
        self._session: Any = session

    def generate(self, noise: F32) -> I32:
        """See `edge_runtime.generator.engine.Engine.generate`."""
        if self._session is None:
            raise EngineError("the engine is closed")
        check_noise(noise, self.layout)
        if noise.shape[0] == 0:
            return np.zeros(noise.shape, np.int32)
        codes: I32 = self._session.run(["codes"], {"noise": np.ascontiguousarray(noise)})[0]
        return codes

    def close(self) -> None:
        """Free the session."""
        self._session = None
