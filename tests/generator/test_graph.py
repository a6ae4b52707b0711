from __future__ import annotations

import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from edge_runtime.errors import MissingExtraError
from edge_runtime.generator import Bundle, Layout, build_sampler, open_engine, quantize
from edge_runtime.generator.numpy_engine import NumpyEngine
from edge_runtime.generator.onnx_engine import OnnxEngine
from edge_runtime.generator.quantize import TENSORS

from .conftest import strong_weights

LAYOUT = Layout((3, 1, 5, 2), 9)


def test_the_graph_is_a_valid_model_with_the_contract_in_it() -> None:
    data = build_sampler(LAYOUT)
    model = onnx.load_model_from_string(data)
    complete = onnx.ModelProto.FromString(data)
    for tensor in complete.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            dtype, _ = TENSORS[tensor.name]
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(tensor.dims, dtype), tensor.name))
    onnx.checker.check_model(complete, full_check=True)
    assert [p.name for p in model.graph.input] == ["noise"]
    assert [p.name for p in model.graph.output] == ["codes"]
    props = {p.key: p.value for p in model.metadata_props}
    assert json.loads(props["noise"]) == [{"kind": "uniform", "width": 4}]
    assert model.opset_import[0].version == 17


def test_the_graph_carries_no_weights() -> None:
    model = onnx.load_model_from_string(build_sampler(LAYOUT))
    outside = {
        t.name for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL
    }
    assert outside == set(TENSORS)
    inside = [t for t in model.graph.initializer if t.name not in outside]
    assert sum(len(t.raw_data) for t in inside) < 2000


def test_same_layout_same_bytes() -> None:
    assert build_sampler(LAYOUT) == build_sampler(Layout((3, 1, 5, 2), 9))
    assert build_sampler(LAYOUT) != build_sampler(Layout((3, 1, 5, 2), 10))


def test_without_onnx_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"edge-runtime\[aggregator\]"):
        build_sampler(LAYOUT)


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
def test_graph_and_numpy_draw_the_same_rows(cardinalities: tuple[int, ...], hidden: int) -> None:
    layout = Layout(cardinalities, hidden)
    tensors = quantize(strong_weights(layout), layout, calibration_rows=256).tensors
    noise = np.random.default_rng(4).random((700, layout.columns), dtype=np.float32)
    noise[:300, 0] = 1 + np.arange(300) % cardinalities[0]
    noise[100:200, -1] = 1 + np.arange(100) % cardinalities[-1]
    onnx_codes = OnnxEngine(build_sampler(layout), tensors, layout=layout).generate(noise)
    numpy_codes = NumpyEngine(tensors, layout=layout).generate(noise)
    # All sums are exact; only the exponential may differ in its last bit.
    assert (onnx_codes == numpy_codes).all(axis=1).mean() >= 0.998
    np.testing.assert_array_equal(onnx_codes[:300, 0], np.arange(300) % cardinalities[0])
    np.testing.assert_array_equal(onnx_codes[100:200, -1], np.arange(100) % cardinalities[-1])


def test_graph_and_weights_side_by_side_are_a_whole_model(bundle: Bundle, tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(bundle.to_bytes())) as archive:
        for name in ("sampler.onnx", "quantised.safetensors"):
            archive.extract(name, tmp_path)
    session = onnxruntime.InferenceSession(str(tmp_path / "sampler.onnx"))
    noise = np.random.default_rng(2).random((300, bundle.layout.columns), dtype=np.float32)
    (codes,) = session.run(["codes"], {"noise": noise})
    np.testing.assert_array_equal(codes, open_engine(bundle, engine="onnx").generate(noise))
