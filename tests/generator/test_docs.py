from __future__ import annotations

import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from edge_runtime.generator import Bundle, build_tflite, find_runtime, open_engine, quantize
from edge_runtime.generator.bundle import _MEMBERS, _TFLITE_MEMBERS
from edge_runtime.generator.graph_bundle import _GRAPHS

from .conftest import strong_weights

DOCS = Path(__file__).parents[2] / "docs" / "bundle.md"


def test_the_reader_in_the_docs_works(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code block, run as it stands, draws rows that an engine would draw."""
    bundle.save(tmp_path / "generator.bundle")
    monkeypatch.chdir(tmp_path)
    code, _ = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert "edge_runtime" not in code
    found: dict[str, np.ndarray] = {}
    exec(code, found)
    expected = open_engine(bundle, engine="onnx").generate(found["noise"])
    np.testing.assert_array_equal(found["codes"], expected)


def test_the_docs_name_every_member() -> None:
    listed = re.findall(r"^\| `([a-z_.0-9]+)` \|", DOCS.read_text(), re.MULTILINE)
    own = (*_MEMBERS[:-2], *_TFLITE_MEMBERS, *_MEMBERS[-2:])
    assert tuple(name for name in listed if "." in name) == (*own, *_GRAPHS.values())


@pytest.mark.skipif(
    find_runtime() is None or find_spec("tflite") is None, reason="no TFLite runtime or writer"
)
def test_the_tflite_reader_in_the_docs_works(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Own weights, written into their places, draw the rows that an engine draws with them."""
    full = replace(bundle, tflite=build_tflite(bundle.quantised.tensors, bundle.layout))
    own = strong_weights(bundle.layout, seed=8)
    for name, data in full.members().items():
        (tmp_path / name).write_bytes(data)
    quantised = quantize(own, bundle.layout).tensors
    (tmp_path / "quantised.safetensors").write_bytes(
        safetensors.numpy.save({name: np.asarray(t) for name, t in quantised.items()})
    )
    monkeypatch.chdir(tmp_path)
    _, code = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert "edge_runtime" not in code
    if find_spec("ai_edge_litert") is None:
        code = code.replace("ai_edge_litert", "tflite_runtime")
    found: dict[str, np.ndarray] = {}
    exec(code, found)
    expected = open_engine(full, weights=own, engine="tflite").generate(found["noise"])
    np.testing.assert_array_equal(found["codes"], expected)
