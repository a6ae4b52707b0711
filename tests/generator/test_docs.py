from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.generator import Bundle, open_engine
from edge_runtime.generator.bundle import _MEMBERS

DOCS = Path(__file__).parents[2] / "docs" / "bundle.md"


def test_the_reader_in_the_docs_works(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code block, run as it stands, draws rows that an engine would draw."""
    bundle.save(tmp_path / "generator.bundle")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert "edge_runtime" not in code
    found: dict[str, np.ndarray] = {}
    exec(code, found)
    expected = open_engine(bundle, engine="onnx").generate(found["noise"])
    np.testing.assert_array_equal(found["codes"], expected)


def test_the_docs_name_every_member() -> None:
    listed = re.findall(r"^\| `([a-z_.0-9]+)` \|", DOCS.read_text(), re.MULTILINE)
    assert tuple(name for name in listed if "." in name) == _MEMBERS
