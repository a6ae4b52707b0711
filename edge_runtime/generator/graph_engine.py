"""Runs a packed graph: noise to codes, in blocks of the size that the graph takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edge_runtime import kernel
from edge_runtime.errors import EngineError, KernelError, MissingExtraError
from edge_runtime.generator.graph_bundle import GraphBundle
from edge_runtime.generator.layout import F32, I32
from edge_runtime.generator.manifest import Noise
from edge_runtime.generator.tflite_engine import load_interpreter

__all__ = ["GraphEngine", "open_graph"]

#: Rows of a call where the graph takes any number.
_BLOCK_ROWS = 256
#: Each segment of noise has a stream of its own, so that a row's noise does not depend on how the
#: rows are cut; streams of callers (sampling, decoding) are small numbers.
_STREAM_STEP = 1 << 32


#: A runtime's names of the types that may come in or out.
_Types = dict[Any, type[np.generic]]


class _Session(Protocol):
    """A loaded graph: rows per call, numbers per row in and out, and the type of those out."""

    rows: int
    inputs: int
    outputs: int
    dtype: np.dtype[Any]

    def run(self, block: F32) -> npt.NDArray[Any]:
        """Turn noise float32 [rows, inputs] into [rows, outputs]."""
        ...


def _ports(
    source: Sequence[Any], target: Sequence[Any], names: _Types
) -> tuple[int | None, int, int, np.dtype[Any]]:
    """Rows (None: any), widths and output type from (type, shape) of both ends.

    Raises
    ------
    EngineError
        If they do not follow the contract.
    """
    wanted = "noise float32 [B, N] -> codes int32 [B, D] or logits float32 [B, V]"
    found = f"the graph is {list(source)} -> {list(target)}, not {wanted}"
    if len(source) != 1 or len(target) != 1:
        raise EngineError(found)
    (kind, shape), (out_kind, out_shape) = source[0], target[0]
    if len(shape) != 2 or len(out_shape) != 2 or names.get(kind) is not np.float32:
        raise EngineError(found)
    if names.get(out_kind) not in (np.float32, np.int32):
        raise EngineError(found)
    rows, width, out_width = shape[0], shape[1], out_shape[1]
    for size in (width, out_width):
        if not isinstance(size, int) or size < 1:
            raise EngineError(found)
    fixed = rows if isinstance(rows, int) and rows > 0 else None
    return fixed, width, out_width, np.dtype(names[out_kind])


class _Onnx:
    def __init__(self, graph: bytes, threads: int) -> None:
        try:
            import onnxruntime as ort  # noqa: PLC0415 - optional, and 40 MB of memory
        except ImportError as error:
            raise MissingExtraError("onnxruntime", "onnx") from error
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # Static scales then give the same bits on every processor.
        options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        # onnxruntime's exceptions have no common base but RuntimeError and Exception itself.
        except Exception as error:
            raise EngineError(f"onnxruntime refused the graph: {error}") from error
        source = [(p.type, p.shape) for p in session.get_inputs()]
        target = [(p.type, p.shape) for p in session.get_outputs()]
        types: _Types = {"tensor(float)": np.float32, "tensor(int32)": np.int32}
        fixed, self.inputs, self.outputs, self.dtype = _ports(source, target, types)
        self.rows = fixed or _BLOCK_ROWS
        self._session = session
        self._feed = session.get_inputs()[0].name

    def run(self, block: F32) -> npt.NDArray[Any]:
        try:
            result: npt.NDArray[Any] = self._session.run(None, {self._feed: block})[0]
        except Exception as error:
            raise EngineError(f"onnxruntime failed in the graph: {error}") from error
        return result


class _Tflite:
    def __init__(self, graph: bytes, threads: int) -> None:
        interpreter = load_interpreter(graph, threads=threads)

        def details(which: str) -> list[Any]:
            found: list[Any] = getattr(interpreter, f"get_{which}_details")()
            return found

        def shapes(which: str) -> list[tuple[Any, list[int]]]:
            return [(p["dtype"], [int(n) for n in p["shape_signature"]]) for p in details(which)]

        types: _Types = {np.float32: np.float32, np.int32: np.int32}
        fixed, self.inputs, self.outputs, self.dtype = _ports(
            shapes("input"), shapes("output"), types
        )
        self.rows = fixed or _BLOCK_ROWS
        self._input = details("input")[0]["index"]
        self._output = details("output")[0]["index"]
        try:
            interpreter.resize_tensor_input(self._input, [self.rows, self.inputs])
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise EngineError(f"the TFLite runtime refused the graph: {error}") from error
        self._interpreter = interpreter

    def run(self, block: F32) -> npt.NDArray[Any]:
        try:
            self._interpreter.set_tensor(self._input, block)
            self._interpreter.invoke()
            result: npt.NDArray[Any] = self._interpreter.get_tensor(self._output)
        except (ValueError, RuntimeError) as error:
            raise EngineError(f"the TFLite runtime failed in the graph: {error}") from error
        return result


class GraphEngine:
    """A loaded graph of somebody else.

    Parameters
    ----------
    bundle : GraphBundle
    threads : int
        Threads of one call.

    Raises
    ------
    EngineError
        If the runtime refuses the graph, or the graph does not follow its own contract.
    MissingExtraError
        If the runtime is not installed.
    """

    def __init__(self, bundle: GraphBundle, *, threads: int = 1) -> None:
        self.name: str = bundle.runtime
        self.cardinalities = tuple(bundle.codec.cardinalities)
        segments = list(bundle.noise)
        columns, logits = len(self.cardinalities), bundle.output == "logits"
        session: _Session = (_Onnx if bundle.runtime == "onnx" else _Tflite)(bundle.graph, threads)
        promised = (
            sum(segment.width for segment in segments),
            sum(self.cardinalities) if logits else columns,
            np.dtype(np.float32 if logits else np.int32),
        )
        found = (session.inputs, session.outputs, session.dtype)
        if found != promised:
            raise EngineError(
                f"the graph takes {found[0]} numbers a row and gives {found[1]} of {found[2]}; "
                f"its bundle says {promised[0]}, {promised[1]} of {promised[2]}"
            )
        if logits:
            # What the kernel draws the codes with.
            segments.append(Noise(kind="uniform", width=columns))
        self.noise = tuple(segments)
        self._logits = logits
        self._session: _Session | None = session

    @property
    def width(self) -> int:
        """Numbers of noise per row."""
        return sum(segment.width for segment in self.noise)

    def generate(self, noise: F32) -> I32:
        """Turn noise into codes.

        Parameters
        ----------
        noise : F32[B, width]
            The segments of `noise` side by side.

        Returns
        -------
        I32[B, D]

        Raises
        ------
        EngineError
            For noise of another shape or type or not finite, or if the graph gives codes outside
            their columns or logits that are not numbers.
        """
        session = self._session
        if session is None:
            raise EngineError("the engine is closed")
        if noise.ndim != 2 or noise.shape[1] != self.width or noise.dtype != np.float32:
            raise EngineError(
                f"noise must be float32 [rows, {self.width}], not {noise.dtype} {list(noise.shape)}"
            )
        if not np.isfinite(noise).all():
            raise EngineError("noise must be finite numbers")
        codes = np.empty((len(noise), len(self.cardinalities)), np.int32)
        block = np.zeros((session.rows, session.inputs), np.float32)
        for start in range(0, len(noise), session.rows):
            part = noise[start : start + session.rows]
            block[: len(part)] = part[:, : session.inputs]
            made = session.run(block)
            if made.shape != (session.rows, session.outputs):
                raise EngineError(
                    f"the graph gave {list(made.shape)} where [{session.rows}, "
                    f"{session.outputs}] was due"
                )
            codes[start : start + len(part)] = self._codes(
                made[: len(part)], part[:, session.inputs :]
            )
        return codes

    def _codes(self, made: npt.NDArray[Any], uniforms: F32) -> I32:
        if self._logits:
            try:
                return kernel.categorical(made, np.ascontiguousarray(uniforms), self.cardinalities)
            except KernelError as error:
                raise EngineError(f"the graph's logits cannot be drawn from: {error}") from error
        if (made < 0).any() or (made >= np.asarray(self.cardinalities)).any():
            wrong = (made < 0) | (made >= np.asarray(self.cardinalities))
            column = int(np.flatnonzero(wrong.any(axis=0))[0])
            raise EngineError(
                f"the graph gave column {column} a code outside 0..{self.cardinalities[column] - 1}"
            )
        return made.astype(np.int32)

    def draw(self, rows: int, *, key: bytes, stream: int = 0, offset: int = 0) -> I32:
        """Draw rows with the kernel's noise.

        Row i is row ``offset + i`` of the sequence that `key` and `stream` define.

        Raises
        ------
        EngineError
            As `generate`.
        """
        codes = np.empty((rows, len(self.cardinalities)), np.int32)
        for start in range(0, rows, _BLOCK_ROWS):
            size = min(_BLOCK_ROWS, rows - start)
            parts = []
            for number, segment in enumerate(self.noise, start=1):
                part = np.empty(size * segment.width, np.float32)
                fill = kernel.fill_normal if segment.kind == "normal" else kernel.fill_uniform
                fill(
                    part,
                    key=key,
                    stream=stream + number * _STREAM_STEP,
                    offset=(offset + start) * segment.width,
                )
                parts.append(part.reshape(size, segment.width))
            codes[start : start + size] = self.generate(np.concatenate(parts, axis=1))
        return codes

    def close(self) -> None:
        """Free the graph."""
        self._session = None


def open_graph(bundle: GraphBundle, *, engine: str = "auto", threads: int = 1) -> GraphEngine:
    """Load a packed graph.

    Parameters
    ----------
    bundle : GraphBundle
    engine : str
        ``"auto"``, or the runtime that the graph was made for.
    threads : int
        Threads inside the engine.

    Raises
    ------
    EngineError
        If another engine is asked for, or the graph is refused.
    MissingExtraError
        If the runtime is not installed.
    """
    if engine not in ("auto", bundle.runtime):
        raise EngineError(f"this graph runs in engine {bundle.runtime} only, not in {engine!r}")
    if threads < 1:
        raise EngineError(f"an engine needs at least one thread, not {threads}")
    return GraphEngine(bundle, threads=threads)
