"""Both implementations of the step against a float64 loop over single rows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import EngineError, MissingExtraError, TrainingError
from edge_runtime.generator.layout import Layout, Weights
from edge_runtime.generator.reference import nll
from edge_runtime.training import NumpyStep, OnnxStep, make_step
from edge_runtime.training.cost import batch_cap
from edge_runtime.training.flat import FlatWeights, parameter_mask
from edge_runtime.training.step import CLIPPED_CHUNK, PLAIN_CHUNK

from .conftest import clipped_sum, flat64, random_codes, random_weights, row_gradient

STEPS = [NumpyStep, OnnxStep]
each_step = pytest.mark.parametrize("make", STEPS)


def test_the_loop_itself_against_finite_differences(layout):
    weights = random_weights(layout, 1)
    row = random_codes(layout, 1, 2)[0]
    gradient, _ = row_gradient(weights, layout, row)
    rng = np.random.default_rng(3)
    step = 1e-6
    for tensor, exact, mask in zip(
        weights,
        gradient,
        (layout.masks[0], None, layout.masks[1], None, layout.masks[2], None),
        strict=True,
    ):
        places = np.argwhere(np.ones(tensor.shape) if mask is None else mask)
        for place in rng.choice(places, 6, replace=False):
            at = tuple(place)
            losses = []
            for sign in (1, -1):
                moved = [np.asarray(t, np.float64) for t in weights]
                index = [t is tensor for t in weights].index(True)
                moved[index] = moved[index].copy()
                moved[index][at] += sign * step
                losses.append(row_gradient(type(weights)(*moved), layout, row)[1])
            assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(exact[at], abs=2e-7)


@each_step
def test_a_gradient_whose_squares_vanish_is_nothing_beside_the_least_norm_of_a_plan(make):
    """Weights as an aggregator could send them: sure of every code, and activations of 10^17."""
    layout = Layout((4,) * 8, 64)
    weights = Weights(*(np.zeros_like(tensor) for tensor in random_weights(layout, 1)))
    weights.b3[list(layout.offsets[:-1])] = 52.5
    weights.b1[:] = 5e17
    out = FlatWeights(layout)
    norms = make(layout)(weights, np.zeros((1, layout.columns), np.int32), 0.1, out).norms
    length = float(np.linalg.norm(out.vector.astype(np.float64)))
    assert norms[0] < 1e-3 * length  # so short it seems, and so it is not clipped
    assert 0.0 < length < 0.01 * 0.1


@each_step
@pytest.mark.parametrize("rows", [1, 2, CLIPPED_CHUNK, 3 * CLIPPED_CHUNK + 7])
def test_clipped_sums_and_norms_are_those_of_single_rows(layout, make, rows):
    weights = random_weights(layout, 1)
    codes = random_codes(layout, rows, 2)
    _, norms = clipped_sum(weights, layout, codes, 1.0)
    clip = float(np.median(norms))
    expected, _ = clipped_sum(weights, layout, codes, clip)
    result = make(layout)(weights, codes, clip)
    assert result.norms == pytest.approx(norms, rel=3e-6)
    error = np.linalg.norm(flat64(result.gradient) - expected)
    # Clipping leaves a margin for the rounding of norms (a 1.2e-5 here) on top of float32.
    assert error <= 3e-5 * clip * rows
    for tensor, mask in zip(result.gradient[::2], layout.masks, strict=True):
        assert not tensor[mask == 0].any()


@pytest.mark.parametrize("make", STEPS)
@settings(max_examples=15, deadline=None)
@given(
    cardinalities=st.lists(st.integers(1, 9), min_size=1, max_size=7),
    hidden=st.integers(1, 20),
    rows=st.integers(0, 70),
    seed=st.integers(0, 1000),
    clip=st.floats(1e-3, 100.0),
)
def test_any_layout(make, *, cardinalities, hidden, rows, seed, clip):
    layout = Layout(tuple(cardinalities), hidden)
    weights = random_weights(layout, seed)
    codes = random_codes(layout, rows, seed)
    expected, norms = clipped_sum(weights, layout, codes, clip)
    result = make(layout)(weights, codes, clip)
    assert result.norms == pytest.approx(norms, rel=2e-5, abs=1e-6)
    assert np.linalg.norm(flat64(result.gradient) - expected) <= 1e-4 * (
        min(clip, norms.max(initial=0.0)) * rows + 1e-6
    )


@each_step
def test_no_rows_give_zeros(layout, make):
    result = make(layout)(random_weights(layout, 1), random_codes(layout, 0, 0), 1.0)
    assert result.norms.shape == (0,)
    assert all(not tensor.any() for tensor in result.gradient)


@each_step
def test_one_row_never_moves_the_sum_by_more_than_is_charged(layout, make):
    """Neighbouring batches, many rows of them hard-clipped: the mechanism's real sensitivity."""
    weights = random_weights(layout, 5, scale=3.0)
    step = make(layout)
    clip, expected_batch = 0.01, 64
    slack = 2 * batch_cap(expected_batch) * (CLIPPED_CHUNK + 5) * 2.0**-24
    codes = random_codes(layout, 150, 6)
    for extra in range(20):
        kept = np.delete(codes, extra * 7, axis=0)
        apart = flat64(step(weights, codes, clip).gradient) - flat64(
            step(weights, kept, clip).gradient
        )
        assert np.linalg.norm(apart) <= clip * (1.0 + slack)
    # A single row's clipped gradient stays within the norm in exact arithmetic.
    for row in codes[:30]:
        alone = flat64(step(weights, row[None], clip).gradient)
        assert np.linalg.norm(alone) <= clip


@each_step
def test_a_rows_arithmetic_does_not_depend_on_its_company(layout, make):
    weights = random_weights(layout, 1)
    codes = random_codes(layout, 2 * CLIPPED_CHUNK, 2)
    step = make(layout)
    together = step(weights, codes, 1.0).norms
    order = np.random.default_rng(0).permutation(codes.shape[0])
    shuffled = step(weights, codes[order], 1.0).norms
    assert np.array_equal(shuffled, together[order])
    for i in range(0, codes.shape[0], 17):
        assert step(weights, codes[i : i + 1], 1.0).norms[0] == together[i]


@each_step
def test_wide_logits_do_not_overflow(layout, make):
    """A row maximum instead of one per column gives NaN here."""
    weights = random_weights(layout, 1)
    bias = weights.b3.copy()
    bias[: layout.cardinalities[0]] += 300.0
    bias[-2:] -= 300.0
    weights = weights._replace(b3=bias)
    codes = random_codes(layout, 40, 2)
    expected, norms = clipped_sum(weights, layout, codes, 1.0)
    result = make(layout)(weights, codes, 1.0)
    assert result.norms == pytest.approx(norms, rel=1e-4)
    assert np.linalg.norm(flat64(result.gradient) - expected) < 1e-2
    assert np.isfinite(make(layout).nll(weights, codes)).all()


@each_step
def test_rows_whose_gradient_is_not_finite_add_nothing(layout, make):
    weights = random_weights(layout, 1)
    w1 = weights.w1.copy()
    w1[2, layout.masks[0][2] > 0] = 1e30  # code 2 of the first column overflows everything
    weights = weights._replace(w1=w1)
    codes = random_codes(layout, 150, 2)
    good = codes[codes[:, 0] != 2]
    assert 0 < good.shape[0] < codes.shape[0]
    step = make(layout)
    result = step(weights, codes, 1.0)
    alone = step(weights, good, 1.0)
    assert np.array_equal(np.isfinite(result.norms), codes[:, 0] != 2)
    assert np.isfinite(flat64(result.gradient)).all()
    assert np.linalg.norm(flat64(result.gradient) - flat64(alone.gradient)) < 1e-4
    # Also when nothing else is there, and when the first row of a padded chunk is the bad one.
    bad = codes[codes[:, 0] == 2]
    assert not flat64(step(weights, bad, 1.0).gradient).any()
    mixed = np.concatenate([bad[:1], good[:5]])
    expected = step(weights, good[:5], 1.0)
    assert np.allclose(flat64(step(weights, mixed, 1.0).gradient), flat64(expected.gradient))


@each_step
@pytest.mark.parametrize("rows", [0, 3, PLAIN_CHUNK + 9])
def test_plain_sums_and_losses(layout, make, rows):
    weights = random_weights(layout, 1)
    codes = random_codes(layout, rows, 2)
    shares = np.random.default_rng(4).random(rows).astype(np.float32)
    expected = flat64(weights) * 0.0
    for row, share in zip(codes, shares, strict=True):
        expected += flat64(row_gradient(weights, layout, row)[0]) * share
    gradient, losses = make(layout).plain(weights, codes, shares)
    assert flat64(gradient) == pytest.approx(expected, rel=1e-4, abs=1e-3)
    assert losses == pytest.approx(nll(weights, layout, codes), rel=1e-5)
    assert make(layout).nll(weights, codes) == pytest.approx(losses, rel=1e-6)
    whole, _ = make(layout).plain(weights, codes)
    ones, _ = make(layout).plain(weights, codes, np.ones(rows, np.float32))
    assert np.array_equal(flat64(whole), flat64(ones))


@each_step
def test_the_given_buffer_is_overwritten(layout, make):
    weights = random_weights(layout, 1)
    codes = random_codes(layout, 9, 2)
    out = FlatWeights(layout)
    out.vector[:] = np.nan
    result = make(layout)(weights, codes, 1.0, out)
    assert np.shares_memory(result.gradient.w1, out.vector)
    assert np.array_equal(flat64(result.gradient), out.vector)
    assert np.array_equal(out.vector, flat64(make(layout)(weights, codes, 1.0).gradient))


@each_step
def test_weights_changed_in_place_are_seen(layout, make):
    codes = random_codes(layout, 9, 2)
    step = make(layout)
    flat = FlatWeights(layout, random_weights(layout, 1))
    # Column-major tensors cannot be used where they lie: their copies must not go stale either.
    turned = type(flat.weights)(*(np.asfortranarray(t) for t in flat.weights))
    for weights, tensors in ((flat.weights, flat.weights), (turned, turned)):
        first = step.nll(weights, codes)
        for tensor in tensors:
            np.multiply(tensor, 0.5, out=tensor)
        halved = step.nll(weights, codes)
        assert not np.allclose(first, halved)
        assert halved == pytest.approx(nll(weights, layout, codes), rel=1e-5)
        result = step(weights, codes, 1.0)
        expected, _ = clipped_sum(weights, layout, codes, 1.0)
        assert np.linalg.norm(flat64(result.gradient) - expected) < 1e-3


@each_step
def test_refuses_codes_that_do_not_fit(layout, make):
    weights = random_weights(layout, 1)
    step = make(layout)
    codes = random_codes(layout, 4, 2)
    high, low = codes.copy(), codes.copy()
    high[1, 2], low[1, 2] = layout.cardinalities[2], -1
    for bad in (codes[:, :-1], codes.astype(np.int64), codes[0], high, low):
        with pytest.raises(TrainingError):
            step(weights, bad, 1.0)
    with pytest.raises(EngineError, match="w2"):
        step(weights._replace(w2=weights.w2[:-1]), codes, 1.0)


def test_mask_counts_the_layouts_parameters(layout):
    assert parameter_mask(layout).sum() == layout.parameters
    assert np.array_equal(np.flatnonzero(parameter_mask(layout)), layout._unmasked)


def test_make_step_chooses(layout, monkeypatch):
    assert make_step(layout).name == "onnx"
    assert make_step(layout, "numpy").name == "numpy"
    with pytest.raises(EngineError, match="torch"):
        make_step(layout, "torch")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert make_step(layout).name == "numpy"
    with pytest.raises(MissingExtraError, match="edge-runtime\\[onnx\\]"):
        make_step(layout, "onnx")


def test_packaged_graphs_are_what_the_tool_writes():
    tool = Path(__file__).parents[2] / "tools" / "build_dpstep.py"
    done = subprocess.run(
        [sys.executable, str(tool), "--check"],
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("nodes") == 3
