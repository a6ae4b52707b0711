"""What a device does: load a bundle and run own weights, with the base install and onnxruntime."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.generator import Bundle, available_engines, build_tflite, open_engine
from edge_runtime.generator.layout import Weights

from .conftest import strong_weights

_DEVICE = """
import sys
forbidden = "onnx tflite pandas pyarrow scipy sklearn click rich matplotlib sqlalchemy".split()
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in forbidden:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
import hashlib
import numpy as np
from edge_runtime.generator import Bundle, available_engines, build_tflite, open_engine
bundle = Bundle.load(sys.argv[1])
with np.load(sys.argv[2]) as own:
    weights = bundle.weights._replace(**{k: own[k] for k in bundle.weights._fields})
bundle = bundle.with_weights(weights, lineage=bundle.lineage)
engine = open_engine(bundle, engine=sys.argv[3])
noise = np.random.default_rng(1).random((1000, bundle.layout.columns), dtype=np.float32)
codes = engine.generate(noise)
assert (open_engine(bundle, weights=weights, engine=sys.argv[3]).generate(noise) == codes).all()
peak = int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1])
loaded = [m for m in forbidden if m in sys.modules]
print(hashlib.sha256(codes.tobytes()).hexdigest(), peak, ",".join(loaded) or "none")
"""


@pytest.mark.parametrize("engine", ["kernel", "tflite", "onnx", "numpy"])
def test_own_weights_run_without_tools_that_build_graphs(
    bundle: Bundle, tmp_path: Path, engine: str
) -> None:
    if engine == "tflite":
        if engine not in available_engines() or find_spec("tflite") is None:
            pytest.skip("no TFLite runtime or writer")
        graph = build_tflite(bundle.quantised.tensors, bundle.layout)
        bundle = replace(bundle, tflite=graph)
    bundle.save(tmp_path / "g.bundle")
    weights = strong_weights(bundle.layout, seed=99)
    np.savez(tmp_path / "own.npz", **weights._asdict())
    script = [sys.executable, "-c", _DEVICE, tmp_path / "g.bundle", tmp_path / "own.npz", engine]
    # Measuring coverage in the child would be measured as its memory.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    env["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(script, capture_output=True, text=True, timeout=60, env=env, check=False)
    assert done.returncode == 0, done.stderr
    digest, peak_kb, loaded = done.stdout.split()
    assert loaded == "none"
    noise = np.random.default_rng(1).random((1000, bundle.layout.columns), dtype=np.float32)
    here = open_engine(bundle, weights=Weights(*weights), engine=engine).generate(noise)
    assert hashlib.sha256(here.tobytes()).hexdigest() == digest
    # The agent as a whole may use 96 MB; loading and running a generator must leave room for it.
    assert int(peak_kb) < 88 * 1024
