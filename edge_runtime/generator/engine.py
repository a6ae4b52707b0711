"""Engines run a generator: one protocol, opened by name.

Every engine takes noise and returns codes by the same integer network, so that results do not
depend on the batch size or the number of threads. `tests/contracts/test_engines.py` holds every
engine of `ENGINES` to that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import EngineError
from edge_runtime.generator.bundle import Bundle
from edge_runtime.generator.kernel_engine import KernelEngine
from edge_runtime.generator.layout import F32, I32, Layout, Weights
from edge_runtime.generator.numpy_engine import NumpyEngine
from edge_runtime.generator.onnx_engine import OnnxEngine
from edge_runtime.generator.quantize import check_quantised, quantize
from edge_runtime.generator.tflite_engine import TfliteEngine, find_runtime

__all__ = ["ENGINES", "Engine", "available_engines", "open_engine"]

Tensors = Mapping[str, npt.NDArray[np.generic]]


class Engine(Protocol):
    """A loaded generator."""

    @property
    def name(self) -> str:
        """Name under which `open_engine` knows it."""
        ...

    @property
    def layout(self) -> Layout:
        """Shape of the loaded network."""
        ...

    def generate(self, noise: F32) -> I32:
        """Turn noise into codes.

        Parameters
        ----------
        noise : F32[B, D]
            Uniforms in [0, 1), one per column; 1 + code forces that code.

        Returns
        -------
        I32[B, D]
            Codes, C-contiguous; B may be 0.

        Raises
        ------
        EngineError
            For noise of another shape or type, with NaN, or outside the range above.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds; generating afterwards is an `EngineError`."""
        ...


def _kernel(_bundle: Bundle, tensors: Tensors, layout: Layout, threads: int) -> Engine:
    return KernelEngine(tensors, layout=layout, threads=threads)


def _tflite(bundle: Bundle, tensors: Tensors, layout: Layout, threads: int) -> Engine:
    if bundle.tflite is None:
        raise EngineError(
            "the bundle has no .tflite file: choose another engine, or have one put in where it "
            "is made (fit --tflite; bundle.tflite in the aggregator's configuration)"
        )
    return TfliteEngine(bundle.tflite, tensors, layout=layout, threads=threads)


def _onnx(bundle: Bundle, tensors: Tensors, layout: Layout, threads: int) -> Engine:
    return OnnxEngine(bundle.graph, tensors, layout=layout, threads=threads)


def _numpy(_bundle: Bundle, tensors: Tensors, layout: Layout, _threads: int) -> Engine:
    return NumpyEngine(tensors, layout=layout)


#: Engines by name, the smallest process first and the yardstick last: what `auto` tries in turn.
ENGINES: Mapping[str, Callable[[Bundle, Tensors, Layout, int], Engine]] = {
    "kernel": _kernel,
    "tflite": _tflite,
    "onnx": _onnx,
    "numpy": _numpy,
}


def available_engines() -> tuple[str, ...]:
    """Names of the engines that can run here, the smallest first."""
    missing = set()
    if find_spec("onnxruntime") is None:
        missing.add("onnx")
    if find_runtime() is None:
        missing.add("tflite")
    return tuple(name for name in ENGINES if name not in missing)


def open_engine(
    bundle: Bundle, *, weights: Weights | None = None, engine: str = "auto", threads: int = 1
) -> Engine:
    """Load a generator.

    Parameters
    ----------
    bundle : Bundle
        Graphs, layout and quantised tensors.
    weights : Weights, optional
        Locally trained weights to run instead of the bundle's own; they are quantised here.
    engine : str
        A name of `ENGINES`, or ``"auto"`` for the smallest that is installed and can run the
        bundle.
    threads : int
        Threads inside the engine.

    Raises
    ------
    EngineError
        If the engine is unknown or refuses the generator.
    MissingExtraError
        If the engine's package is not installed.
    """
    if threads < 1:
        raise EngineError(f"an engine needs at least one thread, not {threads}")
    quantised = bundle.quantised if weights is None else quantize(weights, bundle.layout)
    if engine == "auto":
        check_quantised(quantised.tensors, bundle.layout)
        engine = next(n for n in available_engines() if _fits(n, bundle, quantised.tensors))
    if engine not in ENGINES:
        raise EngineError(f"unknown engine {engine!r}; known: auto, {', '.join(ENGINES)}")
    return ENGINES[engine](bundle, quantised.tensors, bundle.layout, threads)


def _fits(name: str, bundle: Bundle, tensors: Tensors) -> bool:
    if name == "kernel":
        return KernelEngine.supports(tensors)
    return name != "tflite" or bundle.tflite is not None
