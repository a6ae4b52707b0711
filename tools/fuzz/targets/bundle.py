"""Bundles: the archive, each member behind a manifest that fits it, and graphs to be packed."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

from edge_runtime.errors import BundleError
from edge_runtime.generator import read_bundle
from edge_runtime.generator.archive import pack, unpack
from edge_runtime.generator.graph_pack import _declared, _of_onnx, _of_tflite
from edge_runtime.generator.manifest import sealed
from tools.fuzz.contract import Decoder
from tools.fuzz.mutations import mutate_bytes, mutate_json, mutate_json_head
from tools.fuzz.samples import LAYOUT

__all__ = ["DECODERS", "seeds"]

_BASE = Path(__file__).parents[1] / "corpus" / "bundle"
_MEMBERS = (
    "manifest.json", "card.md", "codec.json", "metrics.json", "quantised.safetensors",
    "sampler.onnx", "sampler.tflite", "sampler.tflite.json", "schema.json", "weights.safetensors",
)  # fmt: skip


@cache
def _whole() -> dict[str, bytes]:
    """Return the members of the valid bundle in the corpus."""
    data = (_BASE / "archive-valid0").read_bytes()
    names = [*_MEMBERS, "graph.onnx", "graph.tflite"]
    return unpack(data, names=(), optional=names, max_bytes=1 << 20)


def _member(name: str) -> Callable[[bytes], object]:
    """Return a reader of a bundle in which one member is other bytes, and the manifest agrees."""

    def run(data: bytes) -> object:
        members = {**_whole(), name: data}
        if name in {"weights.safetensors", "quantised.safetensors"}:
            head, _, body = data.partition(b"\0")
            members[name] = len(head).to_bytes(8, "little") + head + body
        if name != "manifest.json":
            manifest = json.loads(members.pop("manifest.json"))
            manifest["members"] = {
                other: {"bytes": member.bytes, "sha256": member.sha256}
                for other, member in sealed(members).items()
            }
            members = {"manifest.json": json.dumps(manifest).encode(), **members}
        return _archive(pack(members))

    return run


def _archive(data: bytes) -> object:
    bundle = read_bundle(data)
    if bundle.to_bytes() != data:
        raise AssertionError("a bundle does not give back what was read")
    return bundle


def _graph(data: bytes) -> None:
    """Read what a graph says of itself; running it is another process's business."""
    said, _ = _of_tflite(data) if data[4:8] == b"TFL3" else _of_onnx(data)
    _declared(said)


_MUTATORS = {
    "json": mutate_json,
    "safetensors": mutate_json_head,
}
DECODERS = (
    Decoder("archive", _archive, (BundleError,)),
    Decoder("graph", _graph, (BundleError,)),
    *(
        Decoder(
            name,
            _member(name),
            (BundleError,),
            _MUTATORS.get(name.rpartition(".")[2], mutate_bytes),
        )
        for name in _MEMBERS
    ),
)


def seeds() -> dict[str, list[bytes]]:
    """Make valid inputs."""
    import onnx

    from edge_runtime.generator import Lineage, build_bundle, initial_weights
    from edge_runtime.generator.graph_bundle import GraphBundle
    from edge_runtime.generator.manifest import Noise
    from edge_runtime.schema import Codec, Column, Schema

    schema = Schema(
        name="x",
        columns=(
            Column(name="a", kind="boolean"),
            Column(name="b", kind="category", values=("x", "y", "z")),
        ),
    )
    codec = Codec(schema=schema, bins={})
    lineage = Lineage(
        parent=None, depth=0, round=1, devices=2, rows=9.0, privacy={"epsilon": 2.0, "delta": 1e-5}
    )
    bundle = build_bundle(
        schema, codec, LAYOUT, initial_weights(LAYOUT, seed=0), lineage=lineage, tflite=True,
        metrics={"nll": 1.5},
    )  # fmt: skip
    model = onnx.load_model_from_string(bundle.graph)
    model.metadata_props.add(key="noise", value='[{"kind":"normal","width":4}]')
    graphs = [model.SerializeToString(), bundle.tflite.graph if bundle.tflite else b""]
    packed = [
        GraphBundle(
            schema=schema, codec=codec, graph=graph, runtime=runtime, output="codes",  # type: ignore[arg-type]
            noise=(Noise(kind="normal", width=4),), lineage=lineage, card="a card", metrics={},
        ).to_bytes()
        for graph, runtime in zip(graphs, ("onnx", "tflite"), strict=True)
    ]  # fmt: skip
    members = bundle.members()
    for name in ("weights.safetensors", "quantised.safetensors"):
        length = int.from_bytes(members[name][:8], "little")
        members[name] = members[name][8 : 8 + length] + b"\0" + members[name][8 + length :]
    return {
        "archive": [bundle.to_bytes(), *packed],
        "graph": graphs,
        **{name: [data] for name, data in members.items()},
    }
