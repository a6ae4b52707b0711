"""The bundle: a generator as one file, checked member by member before anything uses it.

The format is described in docs/bundle.md. A bundle is not signed: its digest says that the bytes
are those announced, not who announced them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from edge_runtime.errors import BundleError, EdgeRuntimeError
from edge_runtime.generator.archive import pack, unpack
from edge_runtime.generator.bundle_file import BundleFile, read_file
from edge_runtime.generator.card import model_card
from edge_runtime.generator.graph import build_sampler
from edge_runtime.generator.layout import Layout, Weights
from edge_runtime.generator.lineage import Lineage
from edge_runtime.generator.manifest import (
    MANIFEST,
    VERSION,
    Member,
    Noise,
    encode,
    read,
    read_format,
    sealed,
)
from edge_runtime.generator.quantize import Quantised, check_quantised, quantize
from edge_runtime.generator.tflite_graph import build_tflite
from edge_runtime.generator.tflite_weights import TfliteGraph
from edge_runtime.schema import Codec, Schema

__all__ = ["GRAPH_FORMAT", "MAX_BUNDLE_BYTES", "Bundle", "build_bundle"]

#: Larger than any bundle of a possible layout that a small device could run.
MAX_BUNDLE_BYTES = 64 << 20

_FORMAT = "edge-runtime-bundle"
#: A graph that somebody else made, see `edge_runtime.generator.graph_bundle`.
GRAPH_FORMAT = "edge-runtime-graph-bundle"
_MEMBERS = (
    "manifest.json",
    "card.md",
    "codec.json",
    "metrics.json",
    "quantised.safetensors",
    "sampler.onnx",
    "schema.json",
    "weights.safetensors",
)
#: Present together or not at all.
_TFLITE_MEMBERS = ("sampler.tflite", "sampler.tflite.json")


class _Manifest(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    version: int
    schema_digest: str
    codec_digest: str
    layout: dict[str, Any]
    noise: list[Noise]
    worst_error: float
    lineage: Lineage
    members: dict[str, Member]


@dataclass(frozen=True, kw_only=True)
class Bundle(BundleFile):
    """A generator with everything needed to run it, judge it and train it further.

    Attributes
    ----------
    schema : Schema
    codec : Codec
    layout : Layout
    graph : bytes
        The sampler as an ONNX model without weights.
    weights : Weights
        Float weights, from which training goes on.
    quantised : Quantised
        Int8 weights, which engines run.
    lineage : Lineage
    card : str
        Model card in Markdown.
    metrics : dict
        Figures measured on this generator.
    tflite : TfliteGraph, optional
        The sampler as a .tflite file with the int8 weights in it.
    """

    schema: Schema
    codec: Codec
    layout: Layout
    graph: bytes = field(repr=False)
    weights: Weights = field(repr=False)
    quantised: Quantised = field(repr=False)
    lineage: Lineage
    card: str = field(repr=False)
    metrics: dict[str, Any]
    tflite: TfliteGraph | None = None

    def __post_init__(self) -> None:
        if tuple(self.codec.cardinalities) != self.layout.cardinalities:
            raise BundleError("the codec's cardinalities are not those of the layout")
        if self.codec.schema.digest != self.schema.digest:
            raise BundleError("the codec belongs to another schema")

    @cached_property
    def _bytes(self) -> bytes:
        quantised = {n: np.ascontiguousarray(t) for n, t in self.quantised.tensors.items()}
        weights = {n: np.ascontiguousarray(t) for n, t in self.weights._asdict().items()}
        try:
            members = {
                "card.md": self.card.encode(),
                "codec.json": self.codec.to_json(),
                "metrics.json": encode(self.metrics),
                "quantised.safetensors": safetensors.numpy.save(quantised),
                "sampler.onnx": self.graph,
                "schema.json": self.schema.to_json(),
                "weights.safetensors": safetensors.numpy.save(weights),
            }
            if self.tflite is not None:
                files = (self.tflite.graph, self.tflite.table)
                members |= dict(zip(_TFLITE_MEMBERS, files, strict=True))
            manifest = _Manifest(
                format=_FORMAT,
                version=VERSION,
                schema_digest=self.schema.digest,
                codec_digest=self.codec.digest,
                layout=self.layout.to_dict(),
                noise=[Noise(kind="uniform", width=self.layout.columns)],
                worst_error=self.quantised.worst_error,
                lineage=self.lineage,
                members=sealed(members),
            )
            return pack({MANIFEST: encode(manifest), **members})
        except (TypeError, ValueError, UnicodeError) as error:
            raise BundleError(f"the bundle cannot be written: {error}") from error

    @property
    def _member_names(self) -> tuple[str, ...]:
        return (*_MEMBERS, *(_TFLITE_MEMBERS if self.tflite is not None else ()))

    @classmethod
    def from_bytes(cls, data: bytes, *, max_bytes: int = MAX_BUNDLE_BYTES) -> Bundle:
        """Read a bundle. Nothing in it is executed.

        Parameters
        ----------
        data : bytes
        max_bytes : int
            Largest size accepted.

        Raises
        ------
        BundleError
            If it is too large, damaged, incomplete, of another version, or contradicts itself.
        """
        data = bytes(data)
        if read_format(data) == GRAPH_FORMAT:
            raise BundleError(
                "this bundle is a packed graph: rows can be drawn from it, but it has no weights "
                "to train and no likelihood to score with"
            )
        members = unpack(data, names=_MEMBERS, optional=_TFLITE_MEMBERS, max_bytes=max_bytes)
        manifest = read(members, type=_Manifest, format=_FORMAT)
        try:
            layout = Layout.from_dict(manifest.layout)
            schema = Schema.from_json(members["schema.json"])
            codec = Codec.from_json(members["codec.json"])
            weights = _read_weights(members["weights.safetensors"], layout)
            tensors = _read_tensors(members["quantised.safetensors"], "quantised.safetensors")
            check_quantised(tensors, layout)
            tflite = _read_tflite(members, tensors, layout)
            card = members["card.md"].decode()
            metrics = msgspec.json.decode(members["metrics.json"], type=dict[str, Any])
        except BundleError:
            raise
        except (EdgeRuntimeError, msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise BundleError(f"the bundle is not valid: {error}") from error
        if (schema.digest, codec.digest) != (manifest.schema_digest, manifest.codec_digest):
            raise BundleError("the schema or codec is not the one that the manifest names")
        if manifest.noise != [Noise(kind="uniform", width=layout.columns)]:
            raise BundleError("this release runs generators with one uniform per column only")
        bundle = cls(
            schema=schema,
            codec=codec,
            layout=layout,
            graph=members["sampler.onnx"],
            weights=weights,
            quantised=Quantised(tensors=tensors, worst_error=manifest.worst_error),
            lineage=manifest.lineage,
            card=card,
            metrics=metrics,
            tflite=tflite,
        )
        # Another release may encode the same objects differently; the digest names these bytes.
        vars(bundle)["_bytes"] = data
        return bundle

    @classmethod
    def load(cls, path: Path | str, *, max_bytes: int = MAX_BUNDLE_BYTES) -> Bundle:
        """Read a file.

        Raises
        ------
        BundleError
            As `from_bytes`, or if the file cannot be read.
        """
        return read_file(
            path, lambda data: cls.from_bytes(data, max_bytes=max_bytes), max_bytes=max_bytes
        )

    def with_weights(
        self,
        weights: Weights,
        *,
        lineage: Lineage,
        card: str | None = None,
        metrics: dict[str, Any] | None = None,
        seed: int = 0,
    ) -> Bundle:
        """Return the same generator with other weights; needs no ONNX tool.

        Parameters
        ----------
        weights : Weights
            Pre-masked.
        lineage : Lineage
        card : str, optional
            Written from the rest when absent.
        metrics : dict, optional
        seed : int
            Seeds the public calibration noise.

        Raises
        ------
        EngineError
            If the weights do not fit the layout.
        """
        figures = {} if metrics is None else metrics
        quantised = quantize(weights, self.layout, seed=seed)
        tflite = self.tflite
        return replace(
            self,
            weights=weights,
            quantised=quantised,
            tflite=None if tflite is None else tflite.with_tensors(quantised.tensors),
            lineage=lineage,
            card=card
            if card is not None
            else model_card(self.schema, self.layout, lineage=lineage, metrics=figures),
            metrics=figures,
        )


def build_bundle(
    schema: Schema,
    codec: Codec,
    layout: Layout,
    weights: Weights,
    *,
    lineage: Lineage,
    card: str | None = None,
    metrics: dict[str, Any] | None = None,
    seed: int = 0,
    tflite: bool = False,
) -> Bundle:
    """Build a bundle from weights, graph included.

    Parameters
    ----------
    schema, codec, layout
        Must belong together.
    weights : Weights
        Pre-masked.
    lineage : Lineage
    card : str, optional
        Written from the rest when absent.
    metrics : dict, optional
    seed : int
        Seeds the public calibration noise.
    tflite : bool
        Whether to add the sampler as a .tflite file, which only the tflite engine needs.

    Raises
    ------
    BundleError
        If schema, codec and layout do not belong together.
    EngineError
        If the weights do not fit the layout.
    MissingExtraError
        If the onnx package (or tflite, where asked for) is not installed.
    """
    figures = {} if metrics is None else metrics
    quantised = quantize(weights, layout, seed=seed)
    return Bundle(
        schema=schema,
        codec=codec,
        layout=layout,
        graph=build_sampler(layout),
        weights=weights,
        quantised=quantised,
        tflite=build_tflite(quantised.tensors, layout) if tflite else None,
        lineage=lineage,
        card=card
        if card is not None
        else model_card(schema, layout, lineage=lineage, metrics=figures),
        metrics=figures,
    )


def _read_tensors(data: bytes, name: str) -> dict[str, npt.NDArray[Any]]:
    try:
        return safetensors.numpy.load(data)
    # Types that numpy lacks surface as KeyError or TypeError, odd shapes as ValueError.
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{name} is not a valid safetensors file: {error}") from error


def _read_weights(data: bytes, layout: Layout) -> Weights:
    tensors = _read_tensors(data, "weights.safetensors")
    if set(tensors) != set(Weights._fields):
        raise BundleError(f"weights.safetensors must hold exactly {', '.join(Weights._fields)}")
    weights = Weights(**tensors)
    layout.check(weights)
    for name, tensor, kept in zip(Weights._fields, weights, layout.mask(weights), strict=True):
        if not np.isfinite(tensor).all():
            raise BundleError(f"weights.safetensors: {name} has values that are not finite")
        if not np.array_equal(tensor, kept):
            raise BundleError(f"weights.safetensors: {name} has weights that the layout masks")
    return weights


def _read_tflite(
    members: dict[str, bytes], tensors: dict[str, npt.NDArray[Any]], layout: Layout
) -> TfliteGraph | None:
    present = [name for name in _TFLITE_MEMBERS if name in members]
    if not present:
        return None
    if len(present) != len(_TFLITE_MEMBERS):
        raise BundleError(f"{present[0]} is of no use without its companion; fetch it again")
    graph, table = (members[name] for name in _TFLITE_MEMBERS)
    tflite = TfliteGraph(graph=graph, table=table)
    tflite.check(layout)
    if not tflite.holds(tensors):
        raise BundleError("the weights in sampler.tflite are not those of quantised.safetensors")
    return tflite
