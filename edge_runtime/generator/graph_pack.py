"""Makes a bundle of a graph that somebody else made, after running it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from edge_runtime.errors import BundleError, MissingExtraError
from edge_runtime.generator.card import graph_card
from edge_runtime.generator.graph_bundle import (
    GraphBundle,
    Output,
    Runtime,
    check_noise_segments,
)
from edge_runtime.generator.graph_trial import try_graph
from edge_runtime.generator.lineage import Lineage
from edge_runtime.generator.manifest import Noise
from edge_runtime.schema import Codec

__all__ = ["pack_graph", "parse_noise"]

_TFLITE_MARK = b"TFL3"
_NOISE_KEY = "noise"


def parse_noise(text: str) -> tuple[Noise, ...]:
    """Read segments written like ``normal:64,uniform:8``.

    Raises
    ------
    BundleError
        If they are written otherwise, or are none that the kernel can make.
    """
    segments = []
    for part in text.split(","):
        kind, _, width = part.strip().partition(":")
        if not width.isascii() or not width.isdigit():
            raise BundleError(
                f"noise {text!r}: write kind:width, separated by commas, e.g. normal:64,uniform:8"
            )
        segments.append(Noise(kind=kind, width=int(width)))
    check_noise_segments(segments)
    return tuple(segments)


def pack_graph(
    graph: bytes,
    codec: Codec,
    *,
    noise: Sequence[Noise] | None = None,
    output: Output | None = None,
    lineage: Lineage | None = None,
    card: str | None = None,
    about: str = "",
    metrics: dict[str, Any] | None = None,
) -> GraphBundle:
    """Pack a graph, once it has shown that it honours the contract.

    Parameters
    ----------
    graph : bytes
        ONNX or .tflite, weights included.
    codec : Codec
        What its codes mean.
    noise : sequence of Noise, optional
        Segments of its input; read from the graph's metadata (key ``noise``) when absent.
    output : {"codes", "logits"}, optional
        By the type of the graph's output when absent.
    lineage : Lineage, optional
        Without it the card says that nothing is known of privacy.
    card : str, optional
        Written from the rest when absent.
    about : str
        What the graph is, for that card.
    metrics : dict, optional
        Figures measured on it; the trial's are added.

    Raises
    ------
    BundleError
        If the graph does not say what noise it takes, and `noise` does not either.
    EngineError
        If the graph does not honour the contract.
    MissingExtraError
        If its runtime is not installed.
    """
    runtime: Runtime = "tflite" if graph[4:8] == _TFLITE_MARK else "onnx"
    said, found = (_of_onnx if runtime == "onnx" else _of_tflite)(graph)
    segments = tuple(noise) if noise is not None else _declared(said)
    known = lineage or Lineage(parent=None, depth=0, round=0, devices=0, rows=0.0, privacy={})
    figures = dict(metrics or {})

    kind = output or found

    def bundle() -> GraphBundle:
        return GraphBundle(
            schema=codec.schema,
            codec=codec,
            graph=graph,
            runtime=runtime,
            output=kind,
            noise=segments,
            lineage=known,
            card=card
            if card is not None
            else graph_card(
                codec.schema,
                codec.cardinalities,
                lineage=known,
                about=f"{about or 'A graph made elsewhere'} ({runtime}, {kind}, "
                f"{len(graph):,} bytes).",
                metrics=figures,
            ),
            metrics=figures,
        )

    figures["trial"] = msgspec.to_builtins(try_graph(bundle()))
    return bundle()


def _declared(said: bytes) -> tuple[Noise, ...]:
    try:
        segments = msgspec.json.decode(said, type=tuple[Noise, ...])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BundleError(
            "the graph's metadata does not say what noise it takes (key 'noise'); say it, e.g. "
            f"--noise normal:64 ({error})"
        ) from error
    check_noise_segments(segments)
    return segments


def _of_onnx(graph: bytes) -> tuple[bytes, Output]:
    """Return what an ONNX file says of its noise, and what it gives."""
    try:
        import onnx  # noqa: PLC0415 - only where bundles are made
    except ImportError as error:
        raise MissingExtraError("onnx", "aggregator") from error
    try:
        model = onnx.load_model_from_string(graph)
        kind = model.graph.output[0].type.tensor_type.elem_type
    # protobuf's errors have no common base that could be named without importing it.
    except Exception as error:
        raise BundleError(f"neither an ONNX nor a .tflite file: {error}") from error
    said = next((p.value for p in model.metadata_props if p.key == _NOISE_KEY), b"")
    # protobuf gives a text that is not UTF-8 as bytes.
    said = said if isinstance(said, bytes) else said.encode()
    return said, "codes" if kind == onnx.TensorProto.INT32 else "logits"


def _of_tflite(graph: bytes) -> tuple[bytes, Output]:
    """Return what a .tflite file says of its noise, and what it gives."""
    try:
        import tflite  # noqa: PLC0415 - only where bundles are made
    except ImportError as error:
        raise MissingExtraError("tflite", "aggregator") from error
    try:
        model = tflite.Model.GetRootAs(graph, 0)
        notes = [model.Metadata(number) for number in range(model.MetadataLength())]
        buffers = [note.Buffer() for note in notes if note.Name() == _NOISE_KEY.encode()]
        said = model.Buffers(buffers[0]).DataAsNumpy().tobytes() if buffers else b""
        main = model.Subgraphs(0)
        kind = main.Tensors(main.Outputs(0)).Type()
    # The reader follows offsets wherever they lead.
    except Exception as error:
        raise BundleError(f"the .tflite file cannot be read: {error}") from error
    return said, "codes" if kind == tflite.TensorType.INT32 else "logits"
