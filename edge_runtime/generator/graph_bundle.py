"""A generator that somebody else made: any graph that honours the contract, as a bundle.

The graph takes noise and gives codes, or logits of independent columns; docs/bundle.md has the
contract. Such a bundle can be run, sampled and published from. It has no weights of ours: training
from it and the likelihood under it are errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NoReturn

import msgspec

from edge_runtime.errors import BundleError, EdgeRuntimeError
from edge_runtime.generator.archive import pack, unpack
from edge_runtime.generator.bundle import GRAPH_FORMAT, MAX_BUNDLE_BYTES, Bundle
from edge_runtime.generator.bundle_file import BundleFile, read_file
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
from edge_runtime.schema import Codec, Schema

__all__ = ["GraphBundle", "check_noise_segments", "load_bundle", "read_bundle"]

Runtime = Literal["onnx", "tflite"]
Output = Literal["codes", "logits"]

_MEMBERS = (MANIFEST, "card.md", "codec.json", "metrics.json", "schema.json")
#: One of these, by the runtime.
_GRAPHS = {"onnx": "graph.onnx", "tflite": "graph.tflite"}
#: Noise of a row: 65,536 floats are 256 kB, more than any small generator needs.
_MOST_NOISE = 1 << 16


class _Manifest(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    version: int
    runtime: Runtime
    output: Output
    noise: list[Noise]
    schema_digest: str
    codec_digest: str
    lineage: Lineage
    members: dict[str, Member]


def check_noise_segments(noise: Sequence[Noise]) -> None:
    """Refuse noise that the kernel cannot make.

    Raises
    ------
    BundleError
        Naming the segment.
    """
    for segment in noise:
        if segment.kind not in ("uniform", "normal") or segment.width < 1:
            raise BundleError(
                f"noise segment {segment.kind!r} of width {segment.width}: uniform or normal, "
                "and at least one number, are possible"
            )
    if not 1 <= sum(segment.width for segment in noise) <= _MOST_NOISE:
        raise BundleError(f"a row of noise must have 1 to {_MOST_NOISE} numbers")


@dataclass(frozen=True, kw_only=True)
class GraphBundle(BundleFile):
    """A packed graph with everything needed to run it.

    Attributes
    ----------
    schema : Schema
    codec : Codec
        What the graph's codes mean.
    graph : bytes
        ONNX or .tflite, weights included.
    runtime : {"onnx", "tflite"}
    output : {"codes", "logits"}
        Codes int32 [B, D], or logits float32 [B, V] that the kernel draws each column from.
    noise : tuple of Noise
        Segments of the graph's input, side by side.
    lineage : Lineage
    card : str
        Model card in Markdown.
    metrics : dict
    """

    schema: Schema
    codec: Codec
    graph: bytes = field(repr=False)
    runtime: Runtime
    output: Output
    noise: tuple[Noise, ...]
    lineage: Lineage
    card: str = field(repr=False)
    metrics: dict[str, Any]

    def __post_init__(self) -> None:
        check_noise_segments(self.noise)
        if self.codec.schema.digest != self.schema.digest:
            raise BundleError("the codec belongs to another schema")

    def _none(self, what: str) -> NoReturn:
        raise BundleError(
            f"a packed graph has no {what}: rows can be drawn from it, but it can neither be "
            "trained nor tell how likely a row is"
        )

    @property
    def layout(self) -> NoReturn:
        """Not there: a `BundleError`."""
        self._none("layout")

    @property
    def weights(self) -> NoReturn:
        """Not there: a `BundleError`."""
        self._none("weights")

    @cached_property
    def _bytes(self) -> bytes:
        try:
            members = {
                "card.md": self.card.encode(),
                "codec.json": self.codec.to_json(),
                _GRAPHS[self.runtime]: self.graph,
                "metrics.json": encode(self.metrics),
                "schema.json": self.schema.to_json(),
            }
            manifest = _Manifest(
                format=GRAPH_FORMAT,
                version=VERSION,
                runtime=self.runtime,
                output=self.output,
                noise=list(self.noise),
                schema_digest=self.schema.digest,
                codec_digest=self.codec.digest,
                lineage=self.lineage,
                members=sealed(members),
            )
            return pack({MANIFEST: encode(manifest), **members})
        except (TypeError, ValueError, UnicodeError) as error:
            raise BundleError(f"the bundle cannot be written: {error}") from error

    @property
    def _member_names(self) -> tuple[str, ...]:
        return (*_MEMBERS, _GRAPHS[self.runtime])

    @classmethod
    def from_bytes(cls, data: bytes, *, max_bytes: int = MAX_BUNDLE_BYTES) -> GraphBundle:
        """Read a bundle. Nothing in it is executed.

        Raises
        ------
        BundleError
            If it is too large, damaged, incomplete, of another version, or contradicts itself.
        """
        data = bytes(data)
        members = unpack(data, names=_MEMBERS, optional=_GRAPHS.values(), max_bytes=max_bytes)
        manifest = read(members, type=_Manifest, format=GRAPH_FORMAT)
        if set(members) != {*_MEMBERS, _GRAPHS[manifest.runtime]}:
            raise BundleError(f"a bundle for {manifest.runtime} has one graph of that kind")
        try:
            schema = Schema.from_json(members["schema.json"])
            codec = Codec.from_json(members["codec.json"])
            card = members["card.md"].decode()
            metrics = msgspec.json.decode(members["metrics.json"], type=dict[str, Any])
        except (EdgeRuntimeError, msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise BundleError(f"the bundle is not valid: {error}") from error
        if (schema.digest, codec.digest) != (manifest.schema_digest, manifest.codec_digest):
            raise BundleError("the schema or codec is not the one that the manifest names")
        bundle = cls(
            schema=schema,
            codec=codec,
            graph=members[_GRAPHS[manifest.runtime]],
            runtime=manifest.runtime,
            output=manifest.output,
            noise=tuple(manifest.noise),
            lineage=manifest.lineage,
            card=card,
            metrics=metrics,
        )
        # Another release may encode the same objects differently; the digest names these bytes.
        vars(bundle)["_bytes"] = data
        return bundle


def read_bundle(data: bytes, *, max_bytes: int = MAX_BUNDLE_BYTES) -> Bundle | GraphBundle:
    """Read a bundle of either kind.

    Raises
    ------
    BundleError
        As `Bundle.from_bytes`.
    """
    kind = GraphBundle if read_format(data) == GRAPH_FORMAT else Bundle
    return kind.from_bytes(data, max_bytes=max_bytes)


def load_bundle(path: Path | str, *, max_bytes: int = MAX_BUNDLE_BYTES) -> Bundle | GraphBundle:
    """Read a file of either kind.

    Raises
    ------
    BundleError
        As `read_bundle`, or if the file cannot be read.
    """
    return read_file(path, lambda data: read_bundle(data, max_bytes=max_bytes), max_bytes=max_bytes)
