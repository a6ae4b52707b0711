"""The .tflite sampler under ai-edge-litert or tflite-runtime, whichever is installed."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import BundleError, EngineError, MissingExtraError
from edge_runtime.generator.layout import F32, I32, Layout
from edge_runtime.generator.quantize import check_quantised
from edge_runtime.generator.reference import check_noise
from edge_runtime.generator.tflite_weights import TfliteGraph

__all__ = ["TfliteEngine", "find_runtime", "load_interpreter"]

#: Packages with the same `Interpreter`, the maintained one first.
_RUNTIMES = {"ai_edge_litert": "tflite", "tflite_runtime": "tflite-legacy"}

#: Rows of every call of the interpreter: shapes are planned once, which costs as much as some
#: thousand rows, and shorter calls are filled up. Fastest between 256 and 1,024, and a multiple of
#: every vector's length, so that a row's place in the block cannot change its arithmetic.
_BLOCK_ROWS = 256


def find_runtime() -> str | None:
    """Name of the module that would run a .tflite file here, None where there is none.

    tflite-runtime was built against numpy 1: with numpy 2 it imports and then fails.
    """
    for module in _RUNTIMES:
        if find_spec(module) is not None and not _too_old(module):
            return module
    return None


def _too_old(module: str) -> bool:
    return module == "tflite_runtime" and int(np.__version__.split(".")[0]) >= 2


def load_interpreter(graph: bytes, *, threads: int) -> Any:
    """Open a .tflite file.

    Raises
    ------
    MissingExtraError
        If no runtime is installed.
    EngineError
        If the runtime cannot run here, or refuses the file.
    """
    module = find_runtime()
    if module is None:
        if find_spec("tflite_runtime") is not None:
            raise EngineError(
                f"tflite-runtime needs numpy below 2 and numpy {np.__version__} is installed; "
                "pip install 'edge-runtime[tflite]' brings its successor, which runs with both, "
                "'edge-runtime[tflite-legacy]' an older numpy (Python 3.11)"
            )
        raise MissingExtraError("ai-edge-litert", "tflite")
    runtime = import_module(f"{module}.interpreter")
    resolvers = runtime.OpResolverType
    # The old runtime's XNNPACK delegate keeps a copy of the weights for each of its operators: at
    # 100 columns 97 MB more and five times the load time, for a fifth more rows a second.
    resolver = (
        resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        if module == "tflite_runtime"
        else resolvers.AUTO
    )
    try:
        return runtime.Interpreter(
            model_content=graph, num_threads=threads, experimental_op_resolver_type=resolver
        )
    except (ValueError, RuntimeError) as error:
        raise EngineError(f"{module} refused the .tflite file: {error}") from error


class TfliteEngine:
    """Run the file of `edge_runtime.generator.tflite_graph.build_tflite`.

    Needs a TFLite runtime only: the weights are written into the file at their recorded places.

    Parameters
    ----------
    graph : TfliteGraph
    tensors : mapping of str to ndarray
        As in `edge_runtime.generator.quantize.TENSORS`.
    layout : Layout
    threads : int
        Threads of one call.

    Raises
    ------
    EngineError
        If the file or the tensors do not fit.
    MissingExtraError
        If no runtime is installed.
    """

    name = "tflite"

    def __init__(
        self,
        graph: TfliteGraph,
        tensors: Mapping[str, npt.NDArray[np.generic]],
        *,
        layout: Layout,
        threads: int = 1,
    ) -> None:
        check_quantised(tensors, layout)
        try:
            graph.check(layout)
        except BundleError as error:
            raise EngineError(f"the .tflite file was refused: {error}") from error
        self.layout = layout
        interpreter = load_interpreter(graph.with_tensors(tensors).graph, threads=threads)
        shape = [_BLOCK_ROWS, layout.columns]
        try:
            (source,), (target,) = (
                interpreter.get_input_details(),
                interpreter.get_output_details(),
            )
            interpreter.resize_tensor_input(source["index"], shape)
            interpreter.allocate_tensors()
            (source,), (target,) = (
                interpreter.get_input_details(),
                interpreter.get_output_details(),
            )
        except (ValueError, RuntimeError) as error:
            raise EngineError(f"the TFLite runtime refused the file: {error}") from error
        ports = [(p["dtype"], list(p["shape"])) for p in (source, target)]
        if ports != [(np.float32, shape), (np.int32, shape)]:
            raise EngineError(f"the .tflite file's input and output are {ports}")
        self._input, self._output = source["index"], target["index"]
        self._block = np.zeros(shape, np.float32)
        self._interpreter: Any = interpreter

    def generate(self, noise: F32) -> I32:
        """See `edge_runtime.generator.engine.Engine.generate`."""
        interpreter = self._interpreter
        if interpreter is None:
            raise EngineError("the engine is closed")
        check_noise(noise, self.layout)
        codes = np.empty(noise.shape, np.int32)
        for start in range(0, len(noise), _BLOCK_ROWS):
            part = noise[start : start + _BLOCK_ROWS]
            # What follows a short part is noise of an earlier one: valid, and thrown away.
            self._block[: len(part)] = part
            interpreter.set_tensor(self._input, self._block)
            interpreter.invoke()
            codes[start : start + len(part)] = interpreter.get_tensor(self._output)[: len(part)]
        return codes

    def close(self) -> None:
        """Free the interpreter."""
        self._interpreter = None
