"""A device draws its rows in whichever engine its configuration names."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec

import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.generator import Bundle, available_engines, build_tflite
from tests.device.shop import Shop


@pytest.fixture(scope="module")
def full(bundle: Bundle) -> Bundle:
    """The bundle with a .tflite file, where one can be written."""
    if find_spec("tflite") is None:
        return bundle
    return replace(bundle, tflite=build_tflite(bundle.quantised.tensors, bundle.layout))


@pytest.mark.parametrize("engine", ["auto", *available_engines()])
def test_locally_trained_weights_run_in_the_configured_engine(
    open_shop: Callable[..., Shop], full: Bundle, engine: str, caplog: pytest.LogCaptureFixture
) -> None:
    if engine == "tflite" and full.tflite is None:
        pytest.skip("no .tflite file in the bundle")
    shop = open_shop(extra=f'[engine]\nname = "{engine}"')
    shop.bundles.put(full.digest, full.to_bytes())
    with caplog.at_level(logging.INFO):
        plan = shop.give(shop.kit.train_plan(full, steps=5))
        assert shop.settled(plan).status == "done"
    header, codes = shop.batches()[0]
    assert len(codes) >= 100
    assert header.extra["weights"] == "own"
    assert 0 < float(header.extra["worst_error"]) < 1
    used = "kernel" if engine == "auto" else engine
    assert any(f"engine {used}, weights quantised" in message for message in caplog.messages)


def test_a_bundle_that_the_engine_cannot_run_is_declined_before_anything_is_paid(
    open_shop: Callable[..., Shop], bundle: Bundle
) -> None:
    shop = open_shop(extra='[engine]\nname = "tflite"')
    entry = shop.settled(shop.give(shop.kit.train_plan(bundle, steps=5)))
    # The shop's bundle has no .tflite file, or no runtime is installed here.
    assert entry.status == "declined"
    assert "engine 'tflite' cannot run the plan's bundle" in entry.reason
    assert shop.entries() == []


def test_an_unknown_engine_is_a_mistake_in_the_configuration(
    open_shop: Callable[..., Shop],
) -> None:
    with pytest.raises(ConfigError, match=r"unknown engine 'abacus'; known: auto, kernel, tflite"):
        open_shop(extra='[engine]\nname = "abacus"')
