"""Own weights are tried before rows are drawn from them, in every engine that is installed."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

from edge_runtime.errors import EngineError
from edge_runtime.generator import (
    Bundle,
    Quantised,
    Weights,
    available_engines,
    build_bundle,
    open_checked,
    open_engine,
    quantize,
    self_check,
)

from .conftest import lineage, strong_weights


@pytest.fixture(scope="module")
def packed(bundle: Bundle) -> Bundle:
    return build_bundle(
        bundle.schema,
        bundle.codec,
        bundle.layout,
        bundle.weights,
        lineage=lineage(),
        tflite=find_spec("tflite") is not None,
    )


@pytest.fixture(params=available_engines())
def name(request: pytest.FixtureRequest, packed: Bundle) -> str:
    if request.param == "tflite" and packed.tflite is None:
        pytest.skip("no .tflite file in the bundle")
    return str(request.param)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_good_weights_are_run_with_their_worst_error(packed: Bundle, name: str, seed: int) -> None:
    own = strong_weights(packed.layout, seed=seed)
    opened = open_checked(packed, own, engine=name)
    assert (opened.own, opened.reason, opened.engine.name) == (True, "", name)
    assert opened.worst_error == quantize(own, packed.layout).worst_error
    noise = np.random.default_rng(1).random((300, packed.layout.columns), dtype=np.float32)
    expected = open_engine(packed, weights=own, engine=name).generate(noise)
    np.testing.assert_array_equal(opened.engine.generate(noise), expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("tensor", ["b1", "w3", "b3"])
def test_weights_that_are_no_numbers_bring_back_the_bundle(
    packed: Bundle, name: str, tensor: str, value: float
) -> None:
    own = strong_weights(packed.layout, seed=1)
    getattr(own, tensor).reshape(-1)[-1] = value
    opened = open_checked(packed, own, engine=name)
    assert not opened.own
    assert "not finite" in opened.reason
    assert opened.worst_error == packed.quantised.worst_error
    noise = np.random.default_rng(1).random((300, packed.layout.columns), dtype=np.float32)
    expected = open_engine(packed, engine=name).generate(noise)
    np.testing.assert_array_equal(opened.engine.generate(noise), expected)


def test_weights_without_a_likelihood_bring_back_the_bundle(packed: Bundle, name: str) -> None:
    own = strong_weights(packed.layout, seed=1)
    huge = own._replace(w2=own.w2 * np.float32(1e20), w3=own.w3 * np.float32(1e20))
    opened = open_checked(packed, Weights(*huge), engine=name)
    assert not opened.own
    assert opened.reason


def test_an_engine_that_runs_other_weights_is_found_out(packed: Bundle, name: str) -> None:
    health = self_check(open_engine(packed, engine=name), packed.weights)
    assert health.nll == pytest.approx(health.expected_nll, abs=0.05)
    with pytest.raises(EngineError, match="log-likelihood"):
        self_check(open_engine(packed, engine=name), strong_weights(packed.layout, seed=9))


def test_a_small_damage_of_the_int8_weights_is_found_out(packed: Bundle, name: str) -> None:
    """A scale that is lost makes every row a little less likely."""
    tensors = dict(packed.quantised.tensors)
    tensors["scale3"] = np.asarray(tensors["scale3"], np.float32) * np.float32(0.5)
    damaged = replace(packed, quantised=Quantised(tensors=tensors, worst_error=0.0))
    with pytest.raises(EngineError, match="log-likelihood"):
        self_check(open_engine(damaged, engine=name), packed.weights)


def test_a_bundle_that_fails_itself_is_an_error(packed: Bundle, name: str) -> None:
    other = strong_weights(packed.layout, seed=9)
    wrong = replace(packed, quantised=quantize(other, packed.layout))
    bad = packed.weights._replace(b1=packed.weights.b1 * np.float32(np.nan))
    with pytest.raises(EngineError, match="log-likelihood"):
        open_checked(wrong, bad, engine=name)
