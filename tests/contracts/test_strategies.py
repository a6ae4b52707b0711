"""What every strategy owes, found by its name in the configuration."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_runtime.aggregator.anchor import Anchor, Table
from edge_runtime.aggregator.config import FusionSettings
from edge_runtime.aggregator.strategies import (
    STRATEGIES,
    Candidate,
    ClientUpdate,
    Material,
    find_strategy,
)
from edge_runtime.aggregator.updates import read_state, write_state
from edge_runtime.generator import Layout, Weights, initial_weights
from edge_runtime.generator.reference import nll
from edge_runtime.training import train

LAYOUT = Layout(cardinalities=(2, 6, 4), hidden=24)
SETTINGS = FusionSettings(epochs=4, batch=64, learning_rate=0.01)
#: every strategy, and the variants that a setting makes
CASES = [
    *((name, SETTINGS) for name in sorted(STRATEGIES)),
    *(
        (name, msgspec.structs.replace(SETTINGS, server="adam"))
        for name in sorted(STRATEGIES)
        if STRATEGIES[name].needs_updates
    ),
]
every_strategy = pytest.mark.parametrize(
    ("name", "settings"), CASES, ids=[f"{name}-{settings.server}" for name, settings in CASES]
)


def rows(n: int, seed: int) -> np.ndarray:
    """The second column follows the first, the third the second."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 2, n)
    second = np.clip(3 * first + rng.integers(0, 3, n), 0, 5)
    third = np.where(rng.random(n) < 0.8, second % 4, rng.integers(0, 4, n))
    return np.stack([first, second, third], axis=1).astype(np.int32)


def locally(weights: Weights, seed: int) -> Weights:
    trained, _ = train(
        weights, rows(600, seed), layout=LAYOUT, epochs=4, batch=64, learning_rate=0.01, seed=seed
    )
    return Weights(*(new - old for new, old in zip(trained, weights, strict=True)))


@pytest.fixture(scope="module")
def start() -> Weights:
    return initial_weights(LAYOUT, seed=3)


@pytest.fixture(scope="module")
def deltas(start: Weights) -> list[Weights]:
    return [locally(start, seed) for seed in (1, 2, 3)]


@pytest.fixture
def material(start: Weights, deltas: list[Weights]) -> Material:
    """A round of three devices, of which each kind of strategy can use something."""
    codes = rows(1500, seed=11)
    counts = np.zeros((2, 6))
    np.add.at(counts, (codes[:, 0], codes[:, 1]), 1)
    return Material(
        layout=LAYOUT,
        weights=start,
        codes=codes,
        row_weights=np.ones(len(codes), np.float32),
        held_out=rows(400, seed=12),
        anchor=Anchor({(0, 1): Table((0, 1), counts, 4.0)}, 3),
        seed=5,
        updates=[ClientUpdate(f"d{i}", delta, 100.0 * (i + 1)) for i, delta in enumerate(deltas)],
        state={},
    )


def fuse(name: str, settings: FusionSettings, material: Material, **changes: Any) -> Candidate:
    hooks: dict[str, Callable[..., Any]] = {
        "should_stop": lambda: False, "on_progress": lambda _: None, **changes
    }  # fmt: skip
    return find_strategy(name).fuse(material, settings, **hooks)  # type: ignore[arg-type]


def loss(weights: Weights, codes: np.ndarray) -> float:
    return float(nll(weights, LAYOUT, codes).mean())


@every_strategy
def test_the_candidate_fits_the_layout_and_predicts_better(
    name: str, settings: FusionSettings, material: Material
) -> None:
    candidate = fuse(name, settings, material)
    LAYOUT.check(candidate.weights)
    for tensor, mask in zip(
        (candidate.weights.w1, candidate.weights.w2, candidate.weights.w3),
        LAYOUT.masks,
        strict=True,
    ):
        assert (tensor[mask == 0] == 0).all()
    assert all(np.isfinite(tensor).all() for tensor in candidate.weights)
    before, after = (loss(w, material.held_out) for w in (material.weights, candidate.weights))
    assert after < before - 0.1
    assert candidate.figures
    assert all(math.isfinite(value) for value in candidate.figures.values())


@every_strategy
def test_the_same_material_gives_the_same_candidate(
    name: str, settings: FusionSettings, material: Material
) -> None:
    first, second = (fuse(name, settings, material) for _ in range(2))
    for a, b in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert first.figures == second.figures
    assert first.state.keys() == second.state.keys()


@every_strategy
def test_the_material_is_left_as_it_was(
    name: str, settings: FusionSettings, material: Material
) -> None:
    def arrays() -> list[np.ndarray]:
        given: list[np.ndarray] = [*material.weights, material.codes, material.row_weights]
        given += [material.held_out, *material.state.values()]
        return given + [t for update in material.updates for t in update.delta]

    before = [array.copy() for array in arrays()]
    state = fuse(name, settings, material).state
    fuse(name, settings, material._replace(state=state))
    for old, new in zip(before, arrays(), strict=True):
        np.testing.assert_array_equal(old, new)


@every_strategy
def test_a_restart_between_two_rounds_changes_nothing(
    name: str, settings: FusionSettings, material: Material, tmp_path: Path
) -> None:
    first = fuse(name, settings, material)
    write_state(tmp_path / "x.state", first.state)
    restored = read_state(tmp_path / "x.state")
    assert {k: v.dtype for k, v in restored.items()} == dict.fromkeys(first.state, np.float32)
    second = material._replace(weights=first.weights)
    one = fuse(name, settings, second._replace(state=first.state))
    other = fuse(name, settings, second._replace(state=restored))
    for a, b in zip(one.weights, other.weights, strict=True):
        np.testing.assert_array_equal(a, b)


@every_strategy
def test_when_time_is_up_it_returns_soon_with_something_usable(
    name: str, settings: FusionSettings, material: Material
) -> None:
    long = msgspec.structs.replace(settings, epochs=100_000, patience=100_000, max_seconds=60.0)
    began = time.monotonic()
    candidate = fuse(name, long, material, should_stop=lambda: True)
    assert time.monotonic() - began < 10
    assert loss(candidate.weights, material.held_out) < 1.5 * loss(
        material.weights, material.held_out
    )


@every_strategy
def test_progress_grows_from_0_to_1(
    name: str, settings: FusionSettings, material: Material
) -> None:
    seen: list[float] = []
    fuse(name, settings, material, on_progress=seen.append)
    assert seen == sorted(seen)
    assert 0.0 <= seen[0] <= seen[-1] <= 1.0


@every_strategy
def test_the_order_of_devices_does_not_matter(
    name: str, settings: FusionSettings, material: Material
) -> None:
    turned = material._replace(updates=list(material.updates)[::-1])
    one, other = fuse(name, settings, material), fuse(name, settings, turned)
    assert loss(one.weights, material.held_out) == pytest.approx(
        loss(other.weights, material.held_out), abs=1e-3
    )
