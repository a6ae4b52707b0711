"""Write the gradient step's graphs into edge_runtime/training: `python tools/build_dpstep.py`.

Forward, backward and clipping are ordinary inference nodes, weights are inputs and every shape is
symbolic, so that three small files serve every schema and a device needs plain onnxruntime only.

Rows are the LAST axis everywhere (X is [V, B]): the maximum of each column's block needs a gather
of logits, which copies whole lines this way and single numbers the other way (20 times slower).

B rows, V one-hot width, H hidden units, D columns, K the largest cardinality.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnx
import onnx.checker
import onnx.parser

TARGET = Path(__file__).resolve().parent.parent / "edge_runtime" / "training"

_WEIGHTS = (
    "float[V,H] w1, float[H,1] b1, float[H,H] w2, float[H,1] b2, float[H,V] w3, float[V,1] b3"
)
# blocks: which column a logit belongs to; slots: the logits of each column, the first repeated up
# to K; m1..m3: the masks; seen: columns seen by a unit of the first layer plus one for its bias;
# visible: units of the second layer that a column sees; bound: the clipping norm.
_BLOCKS = "float[V,D] blocks, int64[D,K] slots"
_MASKS = "float[V,H] m1, float[H,H] m2, float[H,V] m3"
_GRADIENTS = (
    "float[V,H] g_w1, float[H] g_b1, float[H,H] g_w2, float[H] g_b2, float[H,V] g_w3, float[V] g_b3"
)

_CONSTANTS = """
  rows = Constant <value_ints: ints = [1]> ()
  features = Constant <value_ints: ints = [0]> ()
  one = Constant <value_float: float = 1.0> ()
"""

_FORWARD = """
  z1 = Gemm <transA: int = 1> (w1, x, b1)
  h1 = Relu (z1)
  z2 = Gemm <transA: int = 1> (w2, h1, b2)
  r2 = Relu (z2)
  h2 = Add (r2, h1)
  logits = Gemm <transA: int = 1> (w3, h2, b3)
  gathered = Gather <axis: int = 0> (logits, slots)
  tops = ReduceMax <keepdims: int = 0> (gathered, rows)
  spread_tops = MatMul (blocks, tops)
  shifted = Sub (logits, spread_tops)
  exps = Exp (shifted)
  sums = Gemm <transA: int = 1> (blocks, exps)
"""

_NLL = """
  log_sums = Log (sums)
  total_log = ReduceSum (log_sums, features)
  hits = Mul (x, shifted)
  hit = ReduceSum (hits, features)
  nll = Sub (total_log, hit)
"""

# Sign of a rectified value is the derivative of the rectifier; much faster than Where.
_BACKWARD = """
  inverse = Reciprocal (sums)
  spread = MatMul (blocks, inverse)
  shares = Mul (exps, spread)
  g3 = Sub (shares, x)
  skip = MatMul (w3, g3)
  on2 = Sign (r2)
  g2 = Mul (skip, on2)
  back = MatMul (w2, g2)
  both = Add (back, skip)
  on1 = Sign (h1)
  g1 = Mul (both, on1)
"""

# |gradient|^2 of a masked layer is sum_k g_k^2 ((a^2 M)_k + 1). For one-hot inputs a^2 M is a
# constant; for the output layer M is the same for all logits of a column, so the sum over logits
# comes first.
_CLIP = """
  gg1 = Mul (g1, g1)
  n1 = Gemm <transA: int = 1> (seen, gg1)
  hh1 = Mul (h1, h1)
  reach2 = Gemm <transA: int = 1> (m2, hh1, one)
  gg2 = Mul (g2, g2)
  parts2 = Mul (reach2, gg2)
  n2 = ReduceSum (parts2, features)
  hh2 = Mul (h2, h2)
  reach3 = Gemm <transA: int = 1> (visible, hh2, one)
  gg3 = Mul (g3, g3)
  by_column = Gemm <transA: int = 1> (blocks, gg3)
  parts3 = Mul (reach3, by_column)
  n3 = ReduceSum (parts3, features)
  n12 = Add (n1, n2)
  squared = Add (n12, n3)
  norm = Sqrt (squared)
  ratio = Div (bound, norm)
  clipped = Min (ratio, one)
  scale = Mul (clipped, factors)
"""

_SUMS = """
  s1 = Mul (g1, SCALE)
  s2 = Mul (g2, SCALE)
  s3 = Mul (g3, SCALE)
  full1 = Gemm <transB: int = 1> (x, s1)
  g_w1 = Mul (full1, m1)
  g_b1 = ReduceSum <keepdims: int = 0> (s1, rows)
  full2 = Gemm <transB: int = 1> (h1, s2)
  g_w2 = Mul (full2, m2)
  g_b2 = ReduceSum <keepdims: int = 0> (s2, rows)
  full3 = Gemm <transB: int = 1> (h2, s3)
  g_w3 = Mul (full3, m3)
  g_b3 = ReduceSum <keepdims: int = 0> (s3, rows)
"""


def build() -> dict[str, onnx.ModelProto]:
    """Make the graphs, by file name."""
    inputs = f"float[V,B] x, {_WEIGHTS}, {_BLOCKS}"
    masked = f"{inputs}, float[1,B] factors, {_MASKS}"
    clipped = f"{masked}, float[H,1] seen, float[H,D] visible, float[1] bound"
    forward = _CONSTANTS + _FORWARD
    return {
        "dpstep.onnx": _model(
            "dpstep",
            clipped,
            f"{_GRADIENTS}, float[1,B] norm",
            forward + _BACKWARD + _CLIP + _SUMS.replace("SCALE", "scale"),
        ),
        "step.onnx": _model(
            "step",
            masked,
            f"{_GRADIENTS}, float[1,B] nll",
            forward + _NLL + _BACKWARD + _SUMS.replace("SCALE", "factors"),
        ),
        "nll.onnx": _model("nll", inputs, "float[1,B] nll", forward + _NLL),
    }


def _model(name: str, inputs: str, outputs: str, body: str) -> onnx.ModelProto:
    used = [line for line in body.splitlines() if "= Constant" not in line]
    body = "\n".join(
        line
        for line in body.splitlines()
        if "= Constant" not in line
        or any(f"{line.split()[0]})" in other or f"{line.split()[0]}," in other for other in used)
    )
    text = f'<ir_version: 8, opset_import: ["" : 18]>\n{name} ({inputs}) => ({outputs})\n{{{body}}}'
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    """Write the files, or with --check only compare them with what is packaged."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    arguments = parser.parse_args()
    for name, model in build().items():
        data = model.SerializeToString(deterministic=True)
        path = TARGET / name
        if arguments.check:
            if path.read_bytes() != data:
                raise SystemExit(f"{path} is not what this script writes; run it and commit")
        else:
            path.write_bytes(data)
        print(f"{name}: {len(model.graph.node)} nodes, {len(data)} bytes")


if __name__ == "__main__":
    main()
