from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import BundleError, EngineError
from edge_runtime.generator import Bundle, Layout, build_bundle
from edge_runtime.generator.archive import pack
from edge_runtime.schema import Codec, Column, Schema

from .conftest import lineage, strong_weights

Edit = Callable[[dict[str, bytes]], None]


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {i.filename: archive.read(i) for i in archive.infolist()}


def forged(bundle: Bundle, edit: Edit | None = None, manifest: Edit | None = None) -> bytes:
    """A bundle with changed members whose digests are right all the same."""
    parts = members(bundle.to_bytes())
    if edit:
        edit(parts)
    head = json.loads(parts["manifest.json"])
    for name, data in parts.items():
        if name != "manifest.json":
            digest = hashlib.sha256(data).hexdigest()
            head["members"][name] = {"bytes": len(data), "sha256": digest}
    if manifest:
        manifest(head)
    parts["manifest.json"] = json.dumps(head).encode()
    return pack(parts)


def test_round_trip(bundle: Bundle, tmp_path: Path) -> None:
    data = bundle.to_bytes()
    again = Bundle.from_bytes(data)
    assert again.to_bytes() == data
    assert again.digest == bundle.digest == hashlib.sha256(data).hexdigest()
    assert again.schema == bundle.schema
    assert again.codec.digest == bundle.codec.digest
    assert (again.layout, again.graph, again.card) == (bundle.layout, bundle.graph, bundle.card)
    assert (again.lineage, again.metrics) == (bundle.lineage, bundle.metrics)
    assert again.quantised.worst_error == bundle.quantised.worst_error
    for a, b in zip(again.weights, bundle.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    for name, tensor in bundle.quantised.tensors.items():
        np.testing.assert_array_equal(again.quantised.tensors[name], tensor)
    bundle.save(tmp_path / "g.bundle")
    assert Bundle.load(tmp_path / "g.bundle").digest == bundle.digest
    assert [p.name for p in tmp_path.iterdir()] == ["g.bundle"]


def test_same_parts_same_bytes(bundle: Bundle) -> None:
    again = build_bundle(
        bundle.schema,
        bundle.codec,
        bundle.layout,
        bundle.weights,
        lineage=bundle.lineage,
        metrics=bundle.metrics,
    )
    assert again.to_bytes() == bundle.to_bytes()


def test_reencoding_what_was_read_gives_the_same_bytes(bundle: Bundle) -> None:
    again = Bundle.from_bytes(bundle.to_bytes())
    assert replace(again).to_bytes() == bundle.to_bytes()


def test_a_bundle_that_forgot_its_bytes_is_the_same_and_cannot_be_passed_on(
    bundle: Bundle, tmp_path: Path
) -> None:
    read = Bundle.from_bytes(bundle.to_bytes())
    read.forget_bytes()
    assert read.digest == bundle.digest
    assert all(map(np.array_equal, read.weights, bundle.weights))
    for use in (read.to_bytes, read.members, lambda: read.save(tmp_path / "b")):
        with pytest.raises(BundleError, match=f"{bundle.digest[:12]} are not kept"):
            use()
    assert not (tmp_path / "b").exists()


def test_members_are_ordinary_files(bundle: Bundle) -> None:
    parts = members(bundle.to_bytes())
    assert next(iter(parts)) == "manifest.json"
    manifest = json.loads(parts["manifest.json"])
    assert manifest["format"] == "edge-runtime-bundle"
    assert manifest["noise"] == [{"kind": "uniform", "width": 4}]
    for name, entry in manifest["members"].items():
        assert hashlib.sha256(parts[name]).hexdigest() == entry["sha256"]
    tensors = safetensors.numpy.load(parts["weights.safetensors"])
    np.testing.assert_array_equal(tensors["w1"], bundle.weights.w1)
    assert json.loads(parts["schema.json"])["name"] == bundle.schema.name
    assert json.loads(parts["metrics.json"]) == {"auc": {"a": 0.5}, "nll": 3.25}


def test_with_weights_keeps_the_rest_and_changes_the_digest(bundle: Bundle) -> None:
    own = strong_weights(bundle.layout, seed=5)
    child = lineage(parent=bundle.digest, round=3)
    other = bundle.with_weights(own, lineage=child, metrics={"nll": np.float32(2.5)})
    assert other.digest != bundle.digest
    assert other.graph is bundle.graph
    assert other.lineage.parent == bundle.digest
    assert bundle.digest in other.card
    assert Bundle.from_bytes(other.to_bytes()).metrics == {"nll": 2.5}
    assert bundle.with_weights(own, lineage=child, card="mine").card == "mine"
    with pytest.raises(EngineError, match="w3"):
        bundle.with_weights(own._replace(w3=own.w3[1:]), lineage=child)


def test_parts_that_do_not_belong_together_are_refused(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="cardinalities"):
        replace(bundle, layout=Layout((2, 2), 4))
    other = Schema(name="other", columns=bundle.schema.columns)
    with pytest.raises(BundleError, match="another schema"):
        replace(bundle, schema=other)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), np.zeros(3)])
def test_metrics_without_a_json_form_are_refused(bundle: Bundle, value: object) -> None:
    with pytest.raises(BundleError, match="cannot be written"):
        replace(bundle, metrics={"x": value}).to_bytes()


def test_files_that_cannot_be_used(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"none\.bundle cannot be read"):
        Bundle.load(tmp_path / "none.bundle")
    with pytest.raises(BundleError, match="cannot be written"):
        bundle.save(tmp_path / "no" / "such" / "folder.bundle")
    (tmp_path / "text.bundle").write_text("hello")
    with pytest.raises(BundleError, match=r"text\.bundle: not a whole bundle"):
        Bundle.load(tmp_path / "text.bundle")
    bundle.save(tmp_path / "g.bundle")
    with pytest.raises(BundleError, match="at most 1000 are accepted"):
        Bundle.load(tmp_path / "g.bundle", max_bytes=1000)


def _set(name: str, data: bytes) -> Edit:
    return lambda parts: parts.__setitem__(name, data)


def _tensors(file: str, name: str, change: Callable[[Any], Any]) -> Edit:
    def edit(parts: dict[str, bytes]) -> None:
        tensors = safetensors.numpy.load(parts[file])
        changed = change(tensors.pop(name))
        if changed is not None:
            tensors[name] = changed
        parts[file] = safetensors.numpy.save(tensors)

    return edit


def _poke(value: float, index: tuple[int, ...]) -> Callable[[Any], Any]:
    def change(tensor: Any) -> Any:
        tensor = tensor.copy()
        tensor[index] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (_set("weights.safetensors", b""), "weights.safetensors is not a valid safetensors"),
        (_set("quantised.safetensors", b"\xff" * 64), "quantised.safetensors is not a valid"),
        (_tensors("weights.safetensors", "w1", lambda t: t[:-1]), "w1 must be float32"),
        (_tensors("weights.safetensors", "b2", lambda t: t.astype(np.float64)), "b2 must be"),
        (_tensors("weights.safetensors", "w2", lambda t: None), "must hold exactly"),
        (_tensors("weights.safetensors", "b3", _poke(np.nan, (0,))), "b3 has values that are not"),
        (_tensors("weights.safetensors", "w2", _poke(-np.inf, (0, 0))), "w2 has values that are"),
        (_tensors("weights.safetensors", "w3", _poke(1.0, (0, 0))), "w3 has weights that the lay"),
        (_tensors("quantised.safetensors", "w1", lambda t: t[:, :-1]), "w1 must be int8"),
        (_tensors("quantised.safetensors", "w1", lambda t: None), "missing or unknown: w1"),
        (_tensors("quantised.safetensors", "scale3", _poke(np.inf, (0,))), "scale3 must be finite"),
        (_tensors("quantised.safetensors", "b2", _poke(2**31 - 1, (0,))), "exact range"),
        (_set("card.md", b"\xff\xfe"), "not valid"),
        (_set("metrics.json", b"[]"), "not valid"),
        (_set("metrics.json", b'{"a": NaN}'), "not valid"),
        (_set("schema.json", b"{}"), "not valid"),
        (_set("codec.json", b"{}"), "not valid"),
        (_set("codec.json", b"null"), "not valid"),
    ],
)
def test_hostile_members_are_refused(bundle: Bundle, edit: Edit, words: str) -> None:
    with pytest.raises(BundleError, match=words):
        Bundle.from_bytes(forged(bundle, edit))


def _head(**changes: Any) -> Edit:
    return lambda head: head.update(changes)


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (_head(format="zip"), "format 'zip' version 1"),
        (_head(version=2), "version 2; this release reads"),
        (_head(more=1), "manifest.json is not valid"),
        (_head(layout={"cardinalities": [2, 2], "hidden": 4}), "must be float32"),
        (_head(layout={"cardinalities": [10**9], "hidden": 1000}), "1000000000 codes"),
        (_head(layout={"cardinalities": [65535], "hidden": 1024}), "must be float32"),
        (_head(layout={"cardinalities": [0], "hidden": 4}), "0 codes"),
        (_head(layout={"hidden": 4}), "layout"),
        (_head(layout=[]), "manifest.json is not valid"),
        (_head(schema_digest="0" * 64), "not the one that the manifest names"),
        (_head(codec_digest="0" * 64), "not the one that the manifest names"),
        (_head(noise=[{"kind": "normal", "width": 9}]), "one uniform per column"),
        (_head(worst_error=None), "manifest.json is not valid"),
        (_head(members={}), "exactly the members"),
        (_head(lineage={"depth": "x"}), "manifest.json is not valid"),
        (lambda head: head["lineage"].update(extra=1), "manifest.json is not valid"),
        (lambda head: head["members"]["card.md"].update(sha256="00"), "card.md does not match"),
        (lambda head: head["members"]["card.md"].update(bytes=1), "card.md does not match"),
    ],
)
def test_hostile_manifests_are_refused(bundle: Bundle, manifest: Edit, words: str) -> None:
    with pytest.raises(BundleError, match=words):
        Bundle.from_bytes(forged(bundle, manifest=manifest))


@pytest.mark.parametrize("raw", [b"", b"null", b"[1]", b"{", b"\xff", b'{"format": 1e999}'])
def test_manifests_that_are_no_object_are_refused(bundle: Bundle, raw: bytes) -> None:
    with pytest.raises(BundleError, match=r"manifest|format"):
        Bundle.from_bytes(pack({**members(bundle.to_bytes()), "manifest.json": raw}))


def test_a_codec_of_another_schema_is_refused(bundle: Bundle) -> None:
    columns = (Column(name="x", kind="category", values=("a", "b")),)
    other = Codec(schema=Schema(name="x", columns=columns), bins={})

    def edit(parts: dict[str, bytes]) -> None:
        parts["codec.json"] = other.to_json()

    data = forged(bundle, edit, _head(codec_digest=other.digest))
    with pytest.raises(BundleError, match="cardinalities"):
        Bundle.from_bytes(data)


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_changed_members_give_bundle_errors_only(bundle: Bundle, data: st.DataObject) -> None:
    """Bytes of one member are changed and its digest is made right; nothing else may escape."""
    name = data.draw(st.sampled_from(sorted(members(bundle.to_bytes()))))

    def edit(parts: dict[str, bytes]) -> None:
        changed = bytearray(parts[name])
        for _ in range(data.draw(st.integers(1, 3))):
            changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
        parts[name] = bytes(changed[: data.draw(st.integers(0, len(changed)))])

    parts = members(bundle.to_bytes())
    if name == "manifest.json":
        edit(parts)
        raw = pack(parts)
    else:
        raw = forged(bundle, edit)
    try:
        Bundle.from_bytes(raw)
    except BundleError:
        return
    # Some changes are harmless (a letter of the card); what was read must then be whole.
    assert Bundle.from_bytes(raw).to_bytes() == raw


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_codec_json_with_odd_values_gives_bundle_errors_only(
    bundle: Bundle, data: st.DataObject
) -> None:
    document = json.loads(members(bundle.to_bytes())["codec.json"])
    odd = st.sampled_from([None, -1, 0, 1e308, "", "x", [], {}, True, [[]], [[1e308]], 10**30])

    def walk(node: Any) -> Any:
        if isinstance(node, dict) and node:
            key = data.draw(st.sampled_from(sorted(node)))
            return {**node, key: walk(node[key])}
        if isinstance(node, list) and node:
            at = data.draw(st.integers(0, len(node) - 1))
            return [*node[:at], walk(node[at]), *node[at + 1 :]]
        return data.draw(odd)

    raw = forged(bundle, _set("codec.json", json.dumps(walk(document)).encode()))
    try:
        Bundle.from_bytes(raw)
    except BundleError:
        return
    # The odd value may be the one that stood there.
    assert json.loads(members(raw)["codec.json"]) == document
