"""The generator: network layout, graph, engines and the bundle that carries them.

A masked autoregressive network over codes, one column after the other. Weights are plain numpy
arrays; the sampler is one graph (ONNX or TFLite) that any machine builds once and every device
reuses with its own weights.
"""

from __future__ import annotations

from edge_runtime.generator.accepting import Drawing
from edge_runtime.generator.bundle import MAX_BUNDLE_BYTES, Bundle, build_bundle
from edge_runtime.generator.card import model_card
from edge_runtime.generator.compare import Check, diff_bundles, verify_bundle
from edge_runtime.generator.engine import ENGINES, Engine, available_engines, open_engine
from edge_runtime.generator.graph import build_sampler
from edge_runtime.generator.graph_bundle import GraphBundle, load_bundle, read_bundle
from edge_runtime.generator.graph_engine import GraphEngine, open_graph
from edge_runtime.generator.graph_pack import pack_graph, parse_noise
from edge_runtime.generator.graph_trial import Trial, try_graph
from edge_runtime.generator.imputing import Imputation, impute
from edge_runtime.generator.layout import Layout, Weights
from edge_runtime.generator.lineage import Lineage
from edge_runtime.generator.manifest import Noise
from edge_runtime.generator.quantize import Quantised, quantize
from edge_runtime.generator.reference import logits, nll, sample
from edge_runtime.generator.rolling import roll
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
    "Check",
    "Drawing",
    "Engine",
    "GraphBundle",
    "GraphEngine",
    "Health",
    "Imputation",
    "Layout",
    "Lineage",
    "Noise",
    "Opened",
    "Quantised",
    "TfliteGraph",
    "Trial",
    "Weights",
    "available_engines",
    "build_bundle",
    "build_sampler",
    "build_tflite",
    "diff_bundles",
    "find_runtime",
    "impute",
    "initial_weights",
    "load_bundle",
    "logits",
    "model_card",
    "nll",
    "open_checked",
    "open_engine",
    "open_graph",
    "pack_graph",
    "parse_noise",
    "quantize",
    "read_bundle",
    "roll",
    "sample",
    "sample_codes",
    "sample_table",
    "self_check",
    "try_graph",
    "verify_bundle",
]
