"""Graphs of other people: packed after a trial, run by devices, refused where they cheat."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_runtime import Generator
from edge_runtime.errors import BundleError, EngineError
from edge_runtime.generator import (
    Bundle,
    GraphBundle,
    Noise,
    find_runtime,
    load_bundle,
    open_graph,
    pack_graph,
    parse_noise,
    read_bundle,
    sample_codes,
)
from edge_runtime.generator.archive import pack
from edge_runtime.generator.tflite_file import ModelWriter
from edge_runtime.schema import Codec

from .test_bundle import forged

KEY = bytes(range(32))
WIDTH = 5


def _weights(codec: Codec) -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.normal(0, 1, (WIDTH, sum(codec.cardinalities))).astype(np.float32)


def onnx_model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    *,
    out: tuple[str, int, int],
    rows: int | str = "B",
    width: int = WIDTH,
    noise: str = f"normal:{WIDTH}",
) -> bytes:
    name, kind, size = out
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [rows, width])],
        [helper.make_tensor_value_info(name, kind, [rows, size])],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if noise:
        segments = [{"kind": s.kind, "width": s.width} for s in parse_noise(noise)]
        helper.set_model_props(model, {"noise": json.dumps(segments)})
    return model.SerializeToString()


def logits_onnx(codec: Codec, **changes: object) -> bytes:
    nodes = [helper.make_node("MatMul", ["z", "w"], ["logits"])]
    constants = {"w": _weights(codec)}
    out = ("logits", TensorProto.FLOAT, sum(codec.cardinalities))
    return onnx_model(nodes, constants, out=out, **changes)  # type: ignore[arg-type]


def codes_onnx(codec: Codec, *, factor: float = 1.0, **changes: object) -> bytes:
    """Each column's code is a uniform number times its cardinality, rounded down."""
    size = np.array([codec.cardinalities], np.float32) * np.float32(factor)
    nodes = [
        helper.make_node("Mul", ["z", "size"], ["x"]),
        helper.make_node("Floor", ["x"], ["f"]),
        helper.make_node("Cast", ["f"], ["codes"], to=TensorProto.INT32),
    ]
    columns = len(codec.cardinalities)
    out = ("codes", TensorProto.INT32, columns)
    settings = {"width": columns, "noise": f"uniform:{columns}", **changes}
    return onnx_model(nodes, {"size": size}, out=out, **settings)  # type: ignore[arg-type]


def logits_tflite(codec: Codec, *, rows: int = -1, noise: bytes | None = None) -> bytes:
    file = ModelWriter()
    width = sum(codec.cardinalities)
    weight = file.constant(np.ascontiguousarray(_weights(codec).T))
    bias = file.constant(np.zeros(width, np.float32))
    source, target = file.tensor([rows, WIDTH], name="z"), file.tensor([rows, width], name="y")
    file.operator("FULLY_CONNECTED", [source, weight, bias], [target])
    segments = json.dumps([{"kind": "normal", "width": WIDTH}]).encode()
    metadata = {"noise": segments if noise is None else noise}
    return file.finish([source], [target], description="foreign", metadata=metadata)[0]


needs_tflite = pytest.mark.skipif(
    find_runtime() is None or find_spec("tflite") is None, reason="no TFLite runtime or writer"
)


def test_logits_are_drawn_by_the_kernel(codec: Codec) -> None:
    packed = pack_graph(logits_onnx(codec), codec)
    assert (packed.runtime, packed.output, packed.noise) == (
        "onnx",
        "logits",
        (Noise(kind="normal", width=WIDTH),),
    )
    n = 40_000
    codes = sample_codes(open_graph(packed), n, key=KEY)
    assert codes.shape == (n, len(codec.cardinalities))
    # The mean over the graph's noise of each softmax is each column's distribution.
    z = np.random.default_rng(0).standard_normal((n, WIDTH), dtype=np.float32)
    logits = z @ _weights(codec)
    start = 0
    for column, size in enumerate(codec.cardinalities):
        block = np.exp(logits[:, start : start + size])
        expected = (block / block.sum(axis=1, keepdims=True)).mean(axis=0)
        found = np.bincount(codes[:, column], minlength=size) / n
        assert np.abs(found - expected).max() < 5 * np.sqrt(0.25 / n)
        start += size


def test_codes_are_taken_as_they_are(codec: Codec) -> None:
    packed = pack_graph(codes_onnx(codec), codec)
    assert packed.output == "codes"
    engine = open_graph(packed)
    noise = np.random.default_rng(1).random((700, engine.width), dtype=np.float32)
    expected = np.floor(noise * np.array(codec.cardinalities, np.float32)).astype(np.int32)
    np.testing.assert_array_equal(engine.generate(noise), expected)


@needs_tflite
@pytest.mark.parametrize("rows", [-1, 1, 16])
def test_tflite_and_onnx_graphs_of_the_same_weights_agree(codec: Codec, rows: int) -> None:
    """Whatever number of rows the file was made for."""
    ours = [
        pack_graph(logits_tflite(codec, rows=rows), codec),
        pack_graph(logits_onnx(codec, rows="B" if rows < 0 else rows), codec),
    ]
    assert [p.runtime for p in ours] == ["tflite", "onnx"]
    a, b = (sample_codes(open_graph(p), 3000, key=KEY) for p in ours)
    assert (a == b).mean() >= 0.999


def test_rows_do_not_depend_on_how_they_are_cut(codec: Codec) -> None:
    engine = open_graph(pack_graph(logits_onnx(codec), codec))
    whole = sample_codes(engine, 700, key=KEY)
    parts = [
        sample_codes(engine, n, key=KEY, offset=at) for at, n in ((0, 1), (1, 300), (301, 399))
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert sample_codes(engine, 0, key=KEY).shape == (0, len(codec.cardinalities))
    assert not np.array_equal(sample_codes(engine, 700, key=bytes(32)), whole)


def test_a_file_of_it_is_sampled_like_any_bundle(codec: Codec, tmp_path: Path) -> None:
    packed = pack_graph(logits_onnx(codec), codec, about="drawn by lot", metrics={"auc": 0.5})
    packed.save(tmp_path / "foreign.bundle")
    again = load_bundle(tmp_path / "foreign.bundle")
    assert isinstance(again, GraphBundle)
    assert again.to_bytes() == packed.to_bytes()
    assert again.metrics["auc"] == 0.5
    assert again.metrics["trial"]["rows"] == 1024
    assert "drawn by lot" in again.card
    generator = Generator.load(tmp_path / "foreign.bundle")
    table = generator.sample(500, seed=1)
    assert table.rows == 500
    faults = generator.sample(50, where={"fault": True}, seed=1)
    assert (np.asarray(faults.columns["fault"]) == 1).all()


def test_training_and_likelihood_are_typed_errors(codec: Codec, tmp_path: Path) -> None:
    packed = pack_graph(codes_onnx(codec), codec)
    for name in ("weights", "layout"):
        with pytest.raises(BundleError, match="neither be trained"):
            getattr(packed, name)
    packed.save(tmp_path / "foreign.bundle")
    with pytest.raises(BundleError, match="no weights to train"):
        Bundle.load(tmp_path / "foreign.bundle")
    engine = open_graph(packed)
    with pytest.raises(EngineError, match="no column can be clamped"):
        sample_codes(engine, 3, key=KEY, clamp={0: np.zeros(3, np.int32)})
    with pytest.raises(EngineError, match="engine onnx only"):
        open_graph(packed, engine="kernel")


def test_what_noise_it_takes_must_be_said(codec: Codec) -> None:
    silent = logits_onnx(codec, noise="")
    with pytest.raises(BundleError, match="--noise"):
        pack_graph(silent, codec)
    packed = pack_graph(silent, codec, noise=parse_noise("normal:2, uniform:3"))
    assert [s.width for s in packed.noise] == [2, 3]
    assert sample_codes(open_graph(packed), 5, key=KEY).shape == (5, len(codec.cardinalities))


@pytest.mark.parametrize(
    "text", ["", "normal", "normal:x", "normal:0", "poisson:3", "normal:99999"]
)
def test_noise_that_cannot_be_made_is_refused(text: str) -> None:
    with pytest.raises(BundleError, match="noise"):
        parse_noise(text)


def _constant(codec: Codec) -> bytes:
    return codes_onnx(codec, factor=0.0)


def _beyond(codec: Codec) -> bytes:
    return codes_onnx(codec, factor=2.0)


def _nan(codec: Codec) -> bytes:
    nodes = [
        helper.make_node("MatMul", ["z", "w"], ["x"]),
        helper.make_node("Log", ["x"], ["logits"]),
    ]
    out = ("logits", TensorProto.FLOAT, sum(codec.cardinalities))
    return onnx_model(nodes, {"w": _weights(codec)}, out=out)


def _random(codec: Codec) -> bytes:
    nodes = [
        helper.make_node("MatMul", ["z", "w"], ["x"]),
        helper.make_node("RandomNormalLike", ["x"], ["r"]),
        helper.make_node("Add", ["x", "r"], ["logits"]),
    ]
    out = ("logits", TensorProto.FLOAT, sum(codec.cardinalities))
    return onnx_model(nodes, {"w": _weights(codec)}, out=out)


def _mixing(codec: Codec) -> bytes:
    """Every row gets the mean of all rows of its batch."""
    nodes = [
        helper.make_node("ReduceMean", ["z"], ["m"], axes=[0], keepdims=1),
        helper.make_node("Mul", ["m", "far"], ["mm"]),
        helper.make_node("Add", ["z", "mm"], ["s"]),
        helper.make_node("MatMul", ["s", "w"], ["logits"]),
    ]
    constants = {"w": 9 * _weights(codec), "far": np.array([30], np.float32)}
    out = ("logits", TensorProto.FLOAT, sum(codec.cardinalities))
    return onnx_model(nodes, constants, out=out)


def _wide(codec: Codec) -> bytes:
    return logits_onnx(codec, noise=f"normal:{WIDTH + 1}")


def _short(codec: Codec) -> bytes:
    out = ("logits", TensorProto.FLOAT, sum(codec.cardinalities) - 1)
    nodes = [helper.make_node("MatMul", ["z", "w"], ["logits"])]
    return onnx_model(nodes, {"w": _weights(codec)[:, 1:].copy()}, out=out)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_constant, "are the same"),
        (_beyond, "outside 0.."),
        (_nan, "cannot be drawn from"),
        (_random, "must not be random"),
        (_mixing, "its own noise alone"),
        (_wide, "its bundle says 6"),
        (_short, "its bundle says"),
    ],
)
def test_graphs_that_break_the_contract_are_refused(codec: Codec, make: object, words: str) -> None:
    with pytest.raises(EngineError, match=words):
        pack_graph(make(codec), codec)  # type: ignore[operator]


@pytest.mark.parametrize("graph", [b"", b"no model", b"\x08\x08" * 40])
def test_files_that_are_no_graph_are_refused(codec: Codec, graph: bytes) -> None:
    with pytest.raises((BundleError, EngineError)):
        pack_graph(graph, codec, noise=parse_noise("normal:3"))
    with pytest.raises(BundleError):
        pack_graph(graph, codec)


@needs_tflite
def test_a_damaged_tflite_file_ends_the_trial_and_not_this_process(codec: Codec) -> None:
    graph = logits_tflite(codec)
    with pytest.raises((BundleError, EngineError)):
        pack_graph(graph[: len(graph) // 2], codec, noise=parse_noise(f"normal:{WIDTH}"))


def test_hostile_bundles_are_refused(codec: Codec) -> None:
    packed = pack_graph(codes_onnx(codec), codec)
    head = lambda **changes: lambda manifest: manifest.update(changes)  # noqa: E731
    cases = [
        (None, head(version=2), "version 2"),
        (None, head(runtime="tflite"), "one graph of that kind"),
        (None, head(runtime="java"), "not valid"),
        (None, head(output="rows"), "not valid"),
        (None, head(noise=[]), "1 to 65536"),
        (None, head(noise=[{"kind": "poisson", "width": 3}]), "poisson"),
        (None, head(noise=[{"kind": "normal", "width": -1}]), "width -1"),
        (None, head(codec_digest="0" * 64), "not the one"),
        (lambda parts: parts.update({"codec.json": b"null"}), None, "not valid"),
        (lambda parts: parts.update({"card.md": b"\xff"}), None, "not valid"),
        (lambda parts: parts.pop("graph.onnx"), None, "exactly the members|one graph"),
    ]
    for edit, manifest, words in cases:
        with pytest.raises(BundleError, match=words):
            read_bundle(forged(packed, edit, manifest))  # type: ignore[arg-type]
    data = packed.to_bytes()
    for wrong in (data[:-1], data + b"\0", data[: len(data) // 2], pack({"a": b""})):
        with pytest.raises(BundleError):
            read_bundle(wrong)


def test_noise_of_another_form_is_refused(codec: Codec) -> None:
    engine = open_graph(pack_graph(logits_onnx(codec), codec))
    good = np.zeros((2, engine.width), np.float32)
    assert engine.generate(good).shape == (2, len(codec.cardinalities))
    for wrong in (good[:, 1:], good.astype(np.float64), good[0], good + np.float32(np.nan)):
        with pytest.raises(EngineError, match="noise"):
            engine.generate(wrong)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.generate(good)


def test_a_bundle_that_promises_another_graph_is_found_out_on_the_device(codec: Codec) -> None:
    packed = pack_graph(logits_onnx(codec), codec)
    with pytest.raises(EngineError, match="its bundle says"):
        open_graph(replace(packed, output="codes"))
