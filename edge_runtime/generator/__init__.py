"""The generator: network layout, graph, engines and the bundle that carries them.

A masked autoregressive network over codes, one column after the other. Weights are plain numpy
arrays; the sampler is one graph (ONNX or TFLite) that any machine builds once and every device
reuses with its own weights.
"""

from __future__ import annotations

from edge_runtime.generator.bundle import MAX_BUNDLE_BYTES, Bundle, build_bundle
from edge_runtime.generator.card import model_card
from edge_runtime.generator.engine import ENGINES, Engine, available_engines, open_engine
from edge_runtime.generator.graph import build_sampler
from edge_runtime.generator.layout import Layout, Weights
from edge_runtime.generator.lineage import Lineage
from edge_runtime.generator.quantize import Quantised, quantize
from edge_runtime.generator.reference import logits, nll, sample
from edge_runtime.generator.sampler import sample_codes, sample_table
from edge_runtime.generator.selfcheck import Health, Opened, open_checked, self_check
from edge_runtime.generator.tflite_engine import find_runtime
from edge_runtime.generator.tflite_graph import build_tflite
from edge_runtime.generator.tflite_weights import TfliteGraph
from edge_runtime.generator.weights import initial_weights

__all__ = [
    "ENGINES",
    "MAX_BUNDLE_BYTES",
    "Bundle",
    "Engine",
    "Health",
    "Layout",
    "Lineage",
    "Opened",
    "Quantised",
    "TfliteGraph",
    "Weights",
    "available_engines",
    "build_bundle",
    "build_sampler",
    "build_tflite",
    "find_runtime",
    "initial_weights",
    "logits",
    "model_card",
    "nll",
    "open_checked",
    "open_engine",
    "quantize",
    "sample",
    "sample_codes",
    "sample_table",
    "self_check",
]
