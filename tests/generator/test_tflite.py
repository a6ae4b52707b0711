"""The .tflite sampler: the same rows as the other engines, its file, and weights swapped in it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import BundleError, EngineError, MissingExtraError
from edge_runtime.generator import (
    Bundle,
    Layout,
    TfliteGraph,
    build_bundle,
    build_tflite,
    find_runtime,
    open_engine,
    quantize,
)
from edge_runtime.generator.numpy_engine import NumpyEngine
from edge_runtime.generator.tflite_engine import TfliteEngine

from .conftest import lineage, strong_weights
from .test_bundle import Edit, forged

if find_spec("tflite") is None:
    pytest.skip("the package tflite, which writes the files, is missing", allow_module_level=True)

LAYOUT = Layout((3, 1, 5, 2), 9)
TENSORS = quantize(strong_weights(LAYOUT), LAYOUT, calibration_rows=256).tensors
GRAPH = build_tflite(TENSORS, LAYOUT)

needs_runtime = pytest.mark.skipif(find_runtime() is None, reason="no TFLite runtime installed")


@pytest.fixture(scope="module")
def packed(bundle: Bundle) -> Bundle:
    return build_bundle(
        bundle.schema,
        bundle.codec,
        bundle.layout,
        bundle.weights,
        lineage=lineage(),
        tflite=True,
    )


# -- the rows -------------------------------------------------------------------------------------


@needs_runtime
@pytest.mark.parametrize(
    ("cardinalities", "hidden"),
    [
        ((4,), 3),
        ((1,), 1),
        ((1, 3), 2),
        ((3, 1, 1, 4), 7),
        ((2,) * 12, 5),  # fewer units than degrees: some columns gain no unit
        ((40, 3, 300, 2), 33),
        ((7,) * 30, 64),
    ],
)
def test_file_and_numpy_draw_the_same_rows(cardinalities: tuple[int, ...], hidden: int) -> None:
    layout = Layout(cardinalities, hidden)
    tensors = quantize(strong_weights(layout), layout, calibration_rows=256).tensors
    noise = np.random.default_rng(4).random((700, layout.columns), dtype=np.float32)
    noise[:300, 0] = 1 + np.arange(300) % cardinalities[0]
    noise[100:200, -1] = 1 + np.arange(100) % cardinalities[-1]
    drawn = TfliteEngine(build_tflite(tensors, layout), tensors, layout=layout).generate(noise)
    expected = NumpyEngine(tensors, layout=layout).generate(noise)
    # All sums are exact; only the exponential may differ in its last bit.
    assert (drawn == expected).all(axis=1).mean() >= 0.998
    np.testing.assert_array_equal(drawn[:300, 0], np.arange(300) % cardinalities[0])
    np.testing.assert_array_equal(drawn[100:200, -1], np.arange(100) % cardinalities[-1])


def _pairs(codes: np.ndarray, cardinalities: tuple[int, ...]) -> list[np.ndarray]:
    """Counts of every pair of neighbouring columns, and of the first with the last."""
    at = [*zip(range(len(cardinalities)), range(1, len(cardinalities)), strict=False)]
    at.append((0, len(cardinalities) - 1))
    size = cardinalities
    return [
        np.bincount(codes[:, i] * size[j] + codes[:, j], minlength=size[i] * size[j]) for i, j in at
    ]


@needs_runtime
@pytest.mark.skipif(find_spec("onnxruntime") is None, reason="onnxruntime is not installed")
def test_rows_of_tflite_and_onnx_cannot_be_told_apart(packed: Bundle) -> None:
    """At least 99.9 % of the codes agree under one noise; under two, counts differ by chance only.

    Of two samples of one distribution, (a - b)^2 / (a + b) summed over the cells has the mean of
    the number of cells and about twice that as its variance.
    """
    rng = np.random.default_rng(6)
    first, second = (rng.random((60_000, packed.layout.columns), dtype=np.float32) for _ in "ab")
    tflite, onnx = (open_engine(packed, engine=name) for name in ("tflite", "onnx"))
    codes = tflite.generate(first)
    assert (codes == onnx.generate(first)).mean() >= 0.999
    cardinalities = packed.layout.cardinalities
    other = _pairs(onnx.generate(second), cardinalities)
    for a, b in zip(_pairs(codes, cardinalities), other, strict=True):
        cells = a + b > 10
        distance = ((a - b)[cells] ** 2 / (a + b)[cells]).sum()
        assert abs(distance - cells.sum()) < 4 * np.sqrt(2 * cells.sum())


# -- the file -------------------------------------------------------------------------------------


def test_same_parts_same_bytes() -> None:
    again = build_tflite(TENSORS, Layout((3, 1, 5, 2), 9))
    assert (again.graph, again.table) == (GRAPH.graph, GRAPH.table)


def test_the_file_carries_the_contract_and_aligned_constants() -> None:
    import tflite  # noqa: PLC0415 - the module is skipped where it is missing

    model = tflite.Model.GetRootAs(GRAPH.graph, 0)
    assert tflite.Model.ModelBufferHasIdentifier(GRAPH.graph, 0)
    graph = model.Subgraphs(0)
    (source,), (target,) = graph.InputsAsNumpy(), graph.OutputsAsNumpy()
    ports = [graph.Tensors(int(i)) for i in (source, target)]
    assert [t.Name() for t in ports] == [b"noise", b"codes"]
    assert [t.ShapeSignatureAsNumpy().tolist() for t in ports] == [[-1, 4], [-1, 4]]
    notes = {model.Metadata(i).Name(): model.Metadata(i).Buffer() for i in range(1)}
    segments = model.Buffers(notes[b"noise"]).DataAsNumpy().tobytes()
    assert json.loads(segments) == [{"kind": "uniform", "width": 4}]
    places = {place[-1] for place in json.loads(GRAPH.table)["places"]}
    begins = set()
    for i in range(1, model.BuffersLength()):
        field = model.Buffers(i)._tab
        begins.add(field.Vector(field.Offset(4)))
    assert all(begin % 16 == 0 for begin in begins)
    assert places <= begins


def test_without_the_writer_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tflite", None)
    with pytest.raises(MissingExtraError, match=r"edge-runtime\[aggregator\]"):
        build_tflite(TENSORS, LAYOUT)


def test_numpy_2_with_the_old_runtime_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if int(np.__version__.split(".")[0]) < 2:
        pytest.skip("the old runtime works with this numpy")
    (tmp_path / "tflite_runtime").mkdir()
    (tmp_path / "tflite_runtime" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    assert find_runtime() is None
    with pytest.raises(EngineError, match=r"numpy below 2 .*edge-runtime\[tflite\]"):
        TfliteEngine(GRAPH, TENSORS, layout=LAYOUT)


# -- weights swapped in it ------------------------------------------------------------------------


def test_swapped_weights_are_those_of_a_file_built_with_them() -> None:
    other = quantize(strong_weights(LAYOUT, seed=5), LAYOUT, calibration_rows=256).tensors
    assert GRAPH.holds(TENSORS)
    assert not GRAPH.holds(other)
    swapped = GRAPH.with_tensors(other)
    built = build_tflite(other, LAYOUT)
    assert (swapped.graph, swapped.table) == (built.graph, built.table)


def test_a_bundle_with_other_weights_has_them_in_its_file(packed: Bundle) -> None:
    own = strong_weights(packed.layout, seed=5)
    other = packed.with_weights(own, lineage=packed.lineage)
    assert other.tflite is not None
    assert other.tflite.holds(other.quantised.tensors)
    assert Bundle.from_bytes(other.to_bytes()).tflite == other.tflite


def _table(change: object) -> TfliteGraph:
    table = json.loads(GRAPH.table)
    change(table)  # type: ignore[operator]
    return TfliteGraph(graph=GRAPH.graph, table=json.dumps(table).encode())


def _first(table: dict, **changes: object) -> None:
    names = ("tensor", "row", "row_end", "column", "column_end", "transposed", "offset")
    for name, value in changes.items():
        table["places"][0][names.index(name)] = value


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.update(format="x"), "format|'x' version 1"),
        (lambda t: t.update(version=2), "version 2"),
        (lambda t: t.update(bytes=t["bytes"] + 1), "its table of places says"),
        (lambda t: t.update(rest_sha256="00"), "damaged"),
        (lambda t: t.update(more=1), "not valid"),
        (lambda t: t["places"].pop(), "damaged|no place"),
        (lambda t: t["places"].append(t["places"][0]), "impossible"),
        (lambda t: _first(t, tensor="w9"), "unknown tensor 'w9'"),
        (lambda t: _first(t, offset=-4), "impossible"),
        (lambda t: _first(t, offset=len(GRAPH.graph)), "impossible"),
        (lambda t: _first(t, column=-1), "impossible|not in it|damaged"),
        (lambda t: _first(t, row=5, row_end=0), "impossible|damaged"),
        (lambda t: _first(t, transposed=3), "not valid"),
    ],
)
def test_tables_that_contradict_the_file_are_refused(change: object, words: str) -> None:
    with pytest.raises(BundleError, match=words):
        _table(change).check(LAYOUT)


def test_a_table_of_another_layout_is_refused() -> None:
    GRAPH.check(LAYOUT)
    with pytest.raises(BundleError, match=r"is not in it|no place"):
        GRAPH.check(Layout((3, 1, 5, 3), 9))
    with pytest.raises(BundleError, match=r"is not in it|no place"):
        GRAPH.check(Layout((3, 1, 5, 2), 8))


@needs_runtime
@pytest.mark.parametrize(
    "damage",
    [
        lambda g: b"",
        lambda g: b"no model",
        lambda g: g[: len(g) // 2],
        lambda g: g + b"\0",
        lambda g: g[:40] + bytes([g[40] ^ 0x41]) + g[41:],
        lambda g: g[:-3] + b"abc",
    ],
    ids=["empty", "text", "half", "longer", "early", "late"],
)
def test_a_damaged_file_never_reaches_the_runtime(damage: object) -> None:
    """Version 2.14 of the runtime ends the process on such a file."""
    wrong = replace(GRAPH, graph=damage(GRAPH.graph))  # type: ignore[operator]
    with pytest.raises(EngineError, match="refused"):
        TfliteEngine(wrong, TENSORS, layout=LAYOUT)


# -- in the bundle --------------------------------------------------------------------------------


def test_the_bundle_carries_it(bundle: Bundle, packed: Bundle) -> None:
    again = Bundle.from_bytes(packed.to_bytes())
    assert again.tflite == packed.tflite
    assert again.to_bytes() == packed.to_bytes()
    assert bundle.tflite is None
    assert Bundle.from_bytes(bundle.to_bytes()).tflite is None


def _without(name: str) -> Edit:
    def edit(parts: dict[str, bytes]) -> None:
        del parts[name]

    return edit


def _forget(manifest: dict[str, Any]) -> None:
    del manifest["members"]["sampler.tflite.json"]


def _other_weights(parts: dict[str, bytes]) -> None:
    tensors = safetensors.numpy.load(parts["quantised.safetensors"])
    tensors["b3"] = tensors["b3"] + np.int32(1)
    parts["quantised.safetensors"] = safetensors.numpy.save(tensors)


@pytest.mark.parametrize(
    ("edit", "manifest", "words"),
    [
        (_without("sampler.tflite.json"), _forget, "without its companion"),
        (lambda p: p.update({"sampler.tflite": b"TFL3"}), None, "has 4 bytes"),
        (lambda p: p.update({"sampler.tflite.json": b"{}"}), None, "not valid"),
        (lambda p: p.update({"sampler.tflite.json": b"null"}), None, "not valid"),
        (lambda p: p.update({"sampler.tflite": p["sampler.tflite"][::-1]}), None, "damaged"),
        (_other_weights, None, "not those of quantised"),
    ],
)
def test_hostile_tflite_members_are_refused(
    packed: Bundle, edit: Edit, manifest: Edit | None, words: str
) -> None:
    with pytest.raises(BundleError, match=words):
        Bundle.from_bytes(forged(packed, edit, manifest))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_changed_tflite_members_give_bundle_errors_only(
    packed: Bundle, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(["sampler.tflite", "sampler.tflite.json"]))

    def edit(parts: dict[str, bytes]) -> None:
        changed = bytearray(parts[name])
        for _ in range(data.draw(st.integers(1, 3))):
            changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
        parts[name] = bytes(changed[: data.draw(st.integers(0, len(changed)))])

    raw = forged(packed, edit)
    try:
        Bundle.from_bytes(raw)
    except BundleError:
        return
    # The bytes may be those that stood there; then the bundle is the one it was.
    again = Bundle.from_bytes(raw).tflite
    assert packed.tflite is not None
    assert again is not None
    assert again.graph == packed.tflite.graph
