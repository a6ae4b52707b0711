from __future__ import annotations

import itertools

import numpy as np
import pytest

from edge_runtime.errors import EngineError
from edge_runtime.generator import Layout, nll, quantize, sample
from edge_runtime.generator.numpy_engine import NumpyEngine
from edge_runtime.generator.quantize import TENSORS, check_quantised, quantised_logits
from edge_runtime.generator.reference import forward

from .conftest import strong_weights

LAYOUT = Layout((4, 6, 3, 8, 5), 48)
WEIGHTS = strong_weights(LAYOUT)
QUANTISED = quantize(WEIGHTS, LAYOUT, seed=3)


def noise(rows: int, seed: int = 0, layout: Layout = LAYOUT) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, layout.columns), dtype=np.float32)


def test_tensors_are_those_documented_and_repeatable() -> None:
    check_quantised(QUANTISED.tensors, LAYOUT)
    again = quantize(WEIGHTS, LAYOUT, seed=3)
    for name, (dtype, _) in TENSORS.items():
        assert QUANTISED.tensors[name].dtype == dtype
        np.testing.assert_array_equal(QUANTISED.tensors[name], again.tensors[name])


def test_logits_stay_close_and_the_worst_error_is_honest() -> None:
    codes = sample(WEIGHTS, LAYOUT, noise(4000, seed=11))
    exact = forward(WEIGHTS, LAYOUT, codes)[2]
    error = np.abs(quantised_logits(QUANTISED.tensors, LAYOUT, codes) - exact)
    spread = exact.std()
    assert spread > 0.5
    assert QUANTISED.worst_error < 0.1 * spread
    # Other rows than the calibration's may exceed its range a little.
    assert error.max() < 1.5 * QUANTISED.worst_error
    assert error.mean() < 0.02 * spread


def _pair_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean total variation over the joint shares of all pairs of columns."""
    distances = []
    for i in range(LAYOUT.columns):
        for j in range(i):
            width = LAYOUT.cardinalities[j]
            size = LAYOUT.cardinalities[i] * width
            p, q = (np.bincount(c[:, i] * width + c[:, j], minlength=size) / len(c) for c in (a, b))
            distances.append(np.abs(p - q).sum() / 2)
    return float(np.mean(distances))


def test_quality_loss_is_within_sampling_noise() -> None:
    """Int8 rows are as far from float rows as other float rows of that number are."""
    rows = 10_000
    engine = NumpyEngine(QUANTISED.tensors, layout=LAYOUT)
    exact = [sample(WEIGHTS, LAYOUT, noise(rows, seed=s)) for s in range(8)]
    integer = [engine.generate(noise(rows, seed=s)) for s in range(100, 104)]
    between = [_pair_distance(a, b) for i, a in enumerate(exact) for b in exact[:i]]
    across = [_pair_distance(a, b) for a in exact for b in integer]
    assert np.mean(between) > 0.003
    assert np.mean(across) < 1.1 * np.mean(between)
    assert np.max(across) < 1.3 * np.max(between)


def test_divergence_from_the_float_network_is_tiny() -> None:
    """Kullback-Leibler divergence per row, computed exactly given the earlier columns."""
    codes = sample(WEIGHTS, LAYOUT, noise(4000, seed=12))
    exact = forward(WEIGHTS, LAYOUT, codes)[2].astype(np.float64)
    integer = quantised_logits(QUANTISED.tensors, LAYOUT, codes).astype(np.float64)
    divergence = 0.0
    for a, b in itertools.pairwise(LAYOUT.offsets):
        p, q = (
            x[:, a:b] - np.log(np.exp(x[:, a:b]).sum(1, keepdims=True)) for x in (exact, integer)
        )
        divergence += (np.exp(p) * (p - q)).sum(axis=1).mean()
    # A distribution learnt from 10,000 rows is off by more than the entropy times 1e-4.
    assert 0 < divergence < 1e-4 * nll(WEIGHTS, LAYOUT, codes).mean()


def test_the_same_noise_gives_mostly_the_same_rows() -> None:
    same = NumpyEngine(QUANTISED.tensors, layout=LAYOUT).generate(noise(5000)) == sample(
        WEIGHTS, LAYOUT, noise(5000)
    )
    assert same.mean() > 0.97


def test_float32_sums_are_exact() -> None:
    """The numpy engine's float32 products equal 64-bit integer arithmetic bit for bit."""
    rng = np.random.default_rng(0)
    h = rng.integers(0, 128, (64, LAYOUT.hidden))
    for weight, bias in (("w2", "b2"), ("w3", "b3")):
        w, b = QUANTISED.tensors[weight], QUANTISED.tensors[bias]
        exact = h @ w.astype(np.int64) + b.astype(np.int64)
        quick = h.astype(np.float32) @ w.astype(np.float32) + b.astype(np.float32)
        np.testing.assert_array_equal(quick.astype(np.int64), exact)


def test_the_widest_network_keeps_its_sums_exact() -> None:
    layout = Layout((2, 2), 1024)
    weights = layout.mask(
        strong_weights(layout)._replace(
            w2=np.full((1024, 1024), 0.5, np.float32),
            b2=np.full(1024, -4e3, np.float32),
            w3=np.full((1024, 4), -3.0, np.float32),
            b3=np.full(4, 1e9, np.float32),
        )
    )
    tensors = quantize(weights, layout, calibration_rows=64).tensors
    bound = 127 * np.abs(tensors["w2"].astype(np.int64)).sum(axis=0)
    assert (bound + np.abs(tensors["b2"].astype(np.int64)) <= 1 << 24).all()


def test_dead_units_and_zero_channels_are_fine() -> None:
    silent = WEIGHTS._replace(
        b1=np.full(LAYOUT.hidden, -100, np.float32), b3=np.zeros(LAYOUT.width, np.float32)
    )
    quantised = quantize(silent, LAYOUT)
    assert np.isfinite(quantised.worst_error)
    codes = NumpyEngine(quantised.tensors, layout=LAYOUT).generate(noise(200))
    assert (codes.max(axis=0) == np.array(LAYOUT.cardinalities) - 1).all()


def test_weights_that_are_not_finite_are_refused() -> None:
    broken = WEIGHTS.w2.copy()
    broken[0, 0] = np.inf
    with pytest.raises(EngineError, match="w2 has values that are not finite"):
        quantize(WEIGHTS._replace(w2=broken), LAYOUT)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("w1", lambda t: t[:-1], "w1 must be int8"),
        ("b2", lambda t: t.astype(np.int64), "b2 must be int32"),
        ("rescale1", lambda t: np.full_like(t, np.nan), "rescale1 must be finite"),
        ("scale3", lambda t: -t, "scale3 must be finite and not negative"),
        ("b2", lambda t: np.full_like(t, 2**31 - 1), "exact range"),
        ("shift1", lambda t: np.full_like(t, np.inf), "shift1 must be finite"),
        ("b3", lambda t: np.full_like(t, -(2**31)), "exact range"),
        ("w3", lambda t: np.full_like(t, 3), "w3 has weights that the layout masks"),
    ],
)
def test_hostile_tensors_are_refused(name: str, change, words: str) -> None:  # type: ignore[no-untyped-def]
    tensors = dict(QUANTISED.tensors)
    tensors[name] = change(tensors[name])
    with pytest.raises(EngineError, match=words):
        NumpyEngine(tensors, layout=LAYOUT)


def test_missing_and_unknown_tensors_are_refused() -> None:
    tensors = dict(QUANTISED.tensors)
    tensors["w4"] = tensors.pop("w3")
    with pytest.raises(EngineError, match="w3, w4"):
        check_quantised(tensors, LAYOUT)
