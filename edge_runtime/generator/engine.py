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

from edge_runtime.errors import EngineError, MissingExtraError
from edge_runtime.generator.bundle import Bundle
from edge_runtime.generator.kernel_engine import KernelEngine
from edge_runtime.generator.layout import F32, I32, Layout, Weights
from edge_runtime.generator.numpy_engine import NumpyEngine
from edge_runtime.generator.onnx_engine import OnnxEngine
from edge_runtime.generator.quantize import check_quantised, quantize

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


def _kernel(_graph: bytes, tensors: Tensors, layout: Layout, threads: int) -> Engine:
    return KernelEngine(tensors, layout=layout, threads=threads)


def _onnx(graph: bytes, tensors: Tensors, layout: Layout, threads: int) -> Engine:
    return OnnxEngine(graph, tensors, layout=layout, threads=threads)


def _numpy(_graph: bytes, tensors: Tensors, layout: Layout, _threads: int) -> Engine:
    return NumpyEngine(tensors, layout=layout)


#: Engines by name, fastest first: what `auto` tries in turn, the module each one needs, and the
#: extra that brings it.
ENGINES: Mapping[str, tuple[str | None, str, Callable[[bytes, Tensors, Layout, int], Engine]]] = {
    "kernel": (None, "", _kernel),
    "onnx": ("onnxruntime", "onnx", _onnx),
    "numpy": (None, "", _numpy),
}


def available_engines() -> tuple[str, ...]:
    """Names of the engines that can run here, fastest first."""
    return tuple(
        name for name, (module, _, _) in ENGINES.items() if module is None or find_spec(module)
    )


def open_engine(
    bundle: Bundle, *, weights: Weights | None = None, engine: str = "auto", threads: int = 1
) -> Engine:
    """Load a generator.

    Parameters
    ----------
    bundle : Bundle
        Graph, layout and quantised tensors.
    weights : Weights, optional
        Locally trained weights to run instead of the bundle's own; they are quantised here.
    engine : str
        A name of `ENGINES`, or ``"auto"`` for the fastest that is installed and can run the bundle.
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
        fits = KernelEngine.supports(quantised.tensors)
        engine = next(name for name in available_engines() if fits or name != "kernel")
    if engine not in ENGINES:
        raise EngineError(f"unknown engine {engine!r}; known: auto, {', '.join(ENGINES)}")
    module, extra, build = ENGINES[engine]
    if module is not None and find_spec(module) is None:
        raise MissingExtraError(module, extra)
    return build(bundle.graph, quantised.tensors, bundle.layout, threads)
