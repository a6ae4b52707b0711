"""The writers of tools/models: both graphs compute what the numpy network does, bit for bit."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from edge_runtime.generator import find_runtime
from edge_runtime.generator.tflite_engine import load_interpreter

sys.path.insert(0, str(Path(__file__).parents[2]))  # tools/ is not installed

from tools.models.build import Steps, Trained, integer_network
from tools.models.network import FloatLayer, Layer, Network, quantise, run, run_perceptron
from tools.models.onnx_graph import write_onnx
from tools.models.tflite_graph import write_tflite

F32 = np.ndarray
INPUTS, HIDDEN, OUTPUTS, STEPS = 9, 20, 33, 4


def layers(*widths: int, seed: int = 0) -> list[FloatLayer]:
    rng = np.random.default_rng(seed)
    return [
        FloatLayer(
            weight=rng.normal(0, 1.5 / np.sqrt(a), (a, b)).astype(np.float32),
            bias=rng.normal(0, 0.3, b).astype(np.float32),
        )
        for a, b in pairwise(widths)
    ]


def float_run(chain: list[FloatLayer], x: F32) -> F32:
    for layer in chain[:-1]:
        x = np.maximum(x @ layer.weight + layer.bias, 0)
    return x @ chain[-1].weight + chain[-1].bias


def flow_of(seed: int = 0) -> Trained:
    biases = np.random.default_rng(seed + 9).normal(0, 0.5, (STEPS, HIDDEN)).astype(np.float32)
    moved = layers(INPUTS, HIDDEN, HIDDEN, INPUTS, seed=seed + 1)
    # Short steps: a trained flow's points stay about standard normal, within the grid's range.
    last = moved[-1]
    moved[-1] = FloatLayer(weight=last.weight / (5 * STEPS), bias=last.bias / (5 * STEPS))
    return Trained(
        kind="flow",
        about="a test",
        decoder=layers(INPUTS, HIDDEN, OUTPUTS, seed=seed),
        steps=Steps(layers=moved, first_biases=list(biases)),
        settings={},
    )


def decoder_of() -> Trained:
    return Trained(
        kind="vae",
        about="a test",
        decoder=layers(INPUTS, HIDDEN, HIDDEN, OUTPUTS),
        settings={},
    )


def noise(rows: int = 500) -> F32:
    return np.random.default_rng(3).standard_normal((rows, INPUTS), dtype=np.float32)


@pytest.fixture(params=[decoder_of, flow_of], ids=["decoder", "flow"])
def network(request: pytest.FixtureRequest) -> Network:
    return integer_network(request.param())


def test_onnx_gives_the_bits_of_the_reference(network: Network) -> None:
    graph = write_onnx(network, about="a test")
    onnx.checker.check_model(graph, full_check=True)
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"noise": noise()})
    np.testing.assert_array_equal(found, run(network, noise()))
    assert write_onnx(network, about="a test") == graph


@pytest.mark.skipif(
    find_runtime() is None or find_spec("tflite") is None, reason="no TFLite runtime or writer"
)
def test_tflite_gives_the_bits_of_the_reference(network: Network) -> None:
    graph = write_tflite(network, about="a test")
    interpreter = load_interpreter(graph, threads=1)
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(source["index"], [500, INPUTS])
    interpreter.allocate_tensors()
    interpreter.set_tensor(source["index"], noise())
    interpreter.invoke()
    found = interpreter.get_tensor(target["index"])
    np.testing.assert_array_equal(found, run(network, noise()))
    assert write_tflite(network, about="a test") == graph


def test_weights_of_steps_stand_once() -> None:
    one, four = (
        integer_network(
            Trained(
                kind="flow",
                about="",
                decoder=flow_of().decoder,
                steps=Steps(
                    layers=flow_of().steps.layers,  # type: ignore[union-attr]
                    first_biases=flow_of().steps.first_biases[:count],  # type: ignore[union-attr]
                ),
                settings={},
            )
        )
        for count in (1, 4)
    )
    names = onnx.load_model_from_string(write_onnx(four, about="")).graph.initializer
    weights = [tensor for tensor in names if tensor.data_type == onnx.TensorProto.INT8]
    assert len(weights) == len(flow_of().steps.layers) + len(flow_of().decoder)  # type: ignore[union-attr]
    # Three more biases of the first layer, and three times the operators.
    assert len(write_tflite(four, about="")) < len(write_tflite(one, about="")) + 8_000


def test_whole_numbers_stay_near_the_trained_network() -> None:
    chain = layers(INPUTS, HIDDEN, HIDDEN, OUTPUTS)
    (perceptron,) = quantise(chain, [noise(4000)])
    expected = float_run(chain, noise())
    error = np.abs(run_perceptron(perceptron, noise()) - expected)
    assert error.mean() < 0.02 * expected.std()
    assert error.max() < 0.15 * expected.std()


def test_steps_follow_the_trained_flow() -> None:
    trained = flow_of()
    assert trained.steps is not None
    x = noise()
    for bias in trained.steps.first_biases:
        first, *rest = trained.steps.layers
        x = x + float_run([FloatLayer(weight=first.weight, bias=bias), *rest], x)
    expected = float_run(list(trained.decoder), x)
    error = np.abs(run(integer_network(trained), noise()) - expected)
    assert error.mean() < 0.05 * expected.std()


def test_sums_that_float32_cannot_count_are_refused() -> None:
    weight = np.full((1100, 1), 127, np.int8)
    with pytest.raises(ValueError, match="16777216"):
        Layer(weight=weight, bias=np.zeros(1, np.float32), scale=np.ones(1, np.float32))


def test_the_files_say_what_noise_they_take(network: Network) -> None:
    model = onnx.load_model_from_string(write_onnx(network, about="a test"))
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(said["noise"]) == [{"kind": "normal", "width": INPUTS}]
    assert b'[{"kind": "normal", "width": 9}]' in write_tflite(network, about="a test")
