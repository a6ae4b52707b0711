"""`edge-runtime bundle`: verify, diff, export and pack."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.generator import Bundle, Quantised, load_bundle

from .conftest import Run

KEEP = ["weights.safetensors", "quantised.safetensors", "sampler.onnx", "codec.json", "card.md"]


def foreign_graph(path: Path, bundle: Bundle, *, noise: bool = True) -> Path:
    """Logits that are a linear function of normal noise."""
    width = sum(bundle.codec.cardinalities)
    weight = np.random.default_rng(0).normal(0, 1, (3, width)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["z", "w"], ["logits"])],
        "foreign",
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["B", 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", width])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if noise:
        helper.set_model_props(model, {"noise": '[{"kind": "normal", "width": 3}]'})
    onnx.save(model, str(path))
    return path


def test_verify_runs_it_in_every_engine(open_bundle: Path, run: Run) -> None:
    found = run("bundle", "verify", open_bundle, "--json").json
    assert found["fine"]
    assert found["digest"] == Bundle.load(open_bundle).digest
    assert {"engine kernel", "engine onnx", "engine numpy"} <= {c["name"] for c in found["checks"]}
    shown = run("bundle", "verify", open_bundle)
    assert shown.code == 0
    assert "WRONG" not in shown.out


def test_verify_finds_weights_that_are_not_what_they_seem(
    open_bundle: Path, tmp_path: Path, run: Run
) -> None:
    """Every digest is right, but the int8 network is not the float one."""
    bundle = Bundle.load(open_bundle)
    tensors = dict(bundle.quantised.tensors)
    tensors["scale3"] = np.asarray(tensors["scale3"], np.float32) * np.float32(0.2)
    replace(bundle, quantised=Quantised(tensors=tensors, worst_error=0.0)).save(tmp_path / "x")
    refused = run("bundle", "verify", tmp_path / "x")
    assert refused.code == 7
    assert "WRONG" in refused.out
    assert "engine kernel" in refused.err
    (tmp_path / "y").write_bytes(open_bundle.read_bytes()[:-1])
    assert run("bundle", "verify", tmp_path / "y").code == 7


def test_diff_says_what_differs_and_by_how_much(
    open_bundle: Path, tmp_path: Path, run: Run
) -> None:
    assert "the same bundle" in run("bundle", "diff", open_bundle, open_bundle).out
    bundle = Bundle.load(open_bundle)
    weights = bundle.weights._replace(b3=bundle.weights.b3.copy())
    weights.b3[0] += 1.0
    lineage = bundle.lineage
    child = type(lineage)(**{**{f: getattr(lineage, f) for f in lineage.__struct_fields__},
                             "parent": bundle.digest, "round": 4})  # fmt: skip
    bundle.with_weights(weights, lineage=child).save(tmp_path / "new")
    found = run("bundle", "diff", open_bundle, tmp_path / "new", "--json").json
    assert set(found["weights"]) == {"b3"}
    assert found["weights"]["b3"]["largest"] == pytest.approx(1.0)
    assert found["lineage"]["round"] == [0, 4]
    assert found["lineage"]["parent"] == [None, bundle.digest]
    assert "schema" not in found
    first, *_ = bundle.schema.names
    assert max(found["columns"], key=found["columns"].get) == first
    assert found["columns"][first] > 0.1
    assert 0 < found["nats"] < 1
    shown = run("bundle", "diff", open_bundle, tmp_path / "new").out
    assert "b3" in shown
    assert "round" in shown


def test_export_writes_files_that_stand_alone(open_bundle: Path, tmp_path: Path, run: Run) -> None:
    told = run("bundle", "export", open_bundle, "--to", tmp_path / "out")
    assert told.code == 0
    with zipfile.ZipFile(open_bundle) as archive:
        for name in archive.namelist():
            assert (tmp_path / "out" / name).read_bytes() == archive.read(name)
            assert name in told.out
    assert set(KEEP) <= {p.name for p in (tmp_path / "out").iterdir()}
    assert not (tmp_path / "out" / "sampler.tflite").exists()


@pytest.mark.skipif(find_spec("tflite") is None, reason="the writer of .tflite files is missing")
def test_export_makes_the_tflite_file(open_bundle: Path, tmp_path: Path, run: Run) -> None:
    assert run("bundle", "export", open_bundle, "--to", tmp_path, "--tflite").code == 0
    assert (tmp_path / "sampler.tflite").read_bytes()[4:8] == b"TFL3"
    table = json.loads((tmp_path / "sampler.tflite.json").read_bytes())
    assert table["bytes"] == (tmp_path / "sampler.tflite").stat().st_size


def test_pack_makes_a_bundle_that_is_sampled_like_any_other(
    open_bundle: Path, tmp_path: Path, run: Run
) -> None:
    graph = foreign_graph(tmp_path / "g.onnx", Bundle.load(open_bundle))
    out = tmp_path / "foreign.bundle"
    told = run("bundle", "pack", graph, "--like", open_bundle, "--out", out, "--about", "a toy")
    assert told.code == 0, told.err
    assert "3 normal" in told.out
    assert "not stated" in told.out
    shown = run("bundle", "inspect", out)
    assert "onnx graph" in shown.out
    assert "WITHOUT PRIVACY" not in shown.out
    assert "a toy" in run("bundle", "inspect", out, "--card").out
    inside = run("bundle", "inspect", out, "--json").json
    assert inside["noise"] == [{"kind": "normal", "width": 3}]
    assert run("bundle", "verify", out).code == 0
    sampled = run("sample", out, "--rows", 30, "--where", "late=true", "--seed", 3)
    assert sampled.code == 0, sampled.err
    assert len(sampled.out.splitlines()) == 31
    found = run("bundle", "diff", open_bundle, out, "--json").json
    assert found["kind"] == ["network", "onnx graph"]
    assert "nats" not in found
    assert run("bundle", "export", out, "--to", tmp_path / "parts").code == 0
    assert (tmp_path / "parts" / "graph.onnx").read_bytes() == graph.read_bytes()
    rows = tmp_path / "rows.csv"
    assert run("sample", out, "--rows", 300, "--out", rows).code == 0
    compared = run("evaluate", rows, rows, "--bundle", out)
    assert compared.code == 0, compared.err


def test_pack_states_what_it_is_told(open_bundle: Path, tmp_path: Path, run: Run) -> None:
    bundle = Bundle.load(open_bundle)
    graph = foreign_graph(tmp_path / "g.onnx", bundle, noise=False)
    (tmp_path / "codec.json").write_bytes(bundle.codec.to_json())
    (tmp_path / "card.md").write_text("# Mine\n", encoding="utf-8")
    out = tmp_path / "foreign.bundle"
    common = ("bundle", "pack", graph, "--codec", tmp_path / "codec.json", "--out", out)
    refused = run(*common)
    assert refused.code == 7
    assert "--noise normal:64" in refused.err
    assert not out.exists()
    told = run(*common, "--noise", "uniform:1,normal:2", "--output", "logits", "--epsilon", "3",
               "--card", tmp_path / "card.md", "--json")  # fmt: skip
    assert told.code == 0, told.err
    made = load_bundle(out)
    assert made.lineage.privacy == {"epsilon": 3.0, "delta": 1e-5, "unit": "row"}
    assert made.card == "# Mine\n"
    wrong = run(*common, "--noise", "normal:9")
    assert wrong.code == 1
    assert "its bundle says 9" in wrong.err
    neither = run("bundle", "pack", graph, "--out", out)
    assert neither.code == 2
    assert "--like BUNDLE" in neither.err


@pytest.mark.skipif(find_spec("tflite") is None, reason="the writer of .tflite files is missing")
def test_fit_puts_the_tflite_file_in(
    rows_csv: Path, schema_json: Path, tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "t.bundle"
    told = run("fit", rows_csv, "--schema", schema_json, "--out", out, "--epochs", 1,
               "--hidden", 16, "--tflite")  # fmt: skip
    assert told.code == 0, told.err
    assert ".tflite file" in run("bundle", "inspect", out).out
    names = [check["name"] for check in run("bundle", "verify", out, "--json").json["checks"]]
    assert ("engine tflite" in names) == bool(
        find_spec("ai_edge_litert") or find_spec("tflite_runtime")
    )
