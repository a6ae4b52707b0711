"""A fifth of the devices is poisoned and found; the others are not, whatever their labels."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.aggregator.anchor import Table
from edge_runtime.aggregator.guard import outlying_devices

from .tables import LABELS, NAMES, World, count, spoil

WORLD = World()


def _fleet(
    seed: int, *, labels: int, sigma: float, rows: int = 300, poison: tuple[str, ...] = ()
) -> tuple[dict[str, list[Table]], set[str]]:
    """20 devices; the last ones are poisoned in the ways listed."""
    rng = np.random.default_rng(seed)
    fleet, bad = {}, set()
    for number in range(20):
        own = [(number + k) % LABELS for k in range(labels)]
        codes = WORLD.rows(rng, rows, own)
        if number >= 20 - len(poison):
            codes = spoil(codes, poison[number - 20], rng)
            bad.add(f"d{number}")
        fleet[f"d{number}"] = count(codes, sigma, rng)
    return fleet, bad


@pytest.mark.parametrize("labels", [1, 2, 3, 10])
@pytest.mark.parametrize("sigma", [0.0, 3.0])
def test_no_honest_device_is_out_of_line(labels: int, sigma: float) -> None:
    for seed in range(5):
        fleet, _ = _fleet(seed, labels=labels, sigma=sigma)
        assert outlying_devices(fleet, names=NAMES, conditions=(0,)) == {}


@pytest.mark.parametrize("sigma", [0.0, 3.0])
@pytest.mark.parametrize("how", ["flip", "constant", "uniform", "shuffle"])
def test_a_poisoned_fifth_is_found_and_nobody_else(how: str, sigma: float) -> None:
    for seed in range(3):
        fleet, bad = _fleet(seed, labels=3, sigma=sigma, poison=(how,) * 4)
        found = outlying_devices(fleet, names=NAMES, conditions=(0,))
        assert found.keys() == bad, seed
        for finding in found.values():
            assert finding.kind == "device"
            assert "out of line" in finding.text or "related" in finding.text


def test_with_one_class_per_device_a_wrong_label_is_found_and_nobody_else() -> None:
    for seed in range(5):
        fleet, _ = _fleet(seed, labels=1, sigma=2.0)
        rng = np.random.default_rng(seed)
        # Rows of label 9 that are called 5: two devices hold 5, one other holds 9.
        codes = WORLD.rows(rng, 300, [9])
        codes[:, 0] = 5
        fleet["d9"] = count(codes, 2.0, rng)
        assert outlying_devices(fleet, names=NAMES, conditions=(0,)).keys() == {"d9"}


def test_of_two_that_disagree_nobody_is_judged() -> None:
    fleet, _ = _fleet(0, labels=1, sigma=0.0)
    rng = np.random.default_rng(0)
    fleet["d9"] = count(spoil(WORLD.rows(rng, 300, [9]), "constant", rng), 0.0, rng)
    assert outlying_devices(fleet, names=NAMES, conditions=(0,)) == {}


def test_exchanged_labels_of_two_classes_run_against_the_fleet() -> None:
    """Devices differ in every column of their own; what the label changes is common."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        fleet = {}
        for number in range(15):
            late = rng.random(2000) < 0.3
            base = rng.dirichlet(np.full(4, 3.0), size=6)
            codes = np.empty((2000, 7), np.int32)
            codes[:, 0] = late
            for d in range(6):
                share = np.where(late[:, None], base[d] * [1, 1, 1.5, 2.2], base[d])
                share = share / share.sum(axis=1, keepdims=True)
                codes[:, d + 1] = (rng.random((2000, 1)) > share.cumsum(1)).sum(1).clip(0, 3)
            if number >= 12:
                codes[:, 0] = 1 - codes[:, 0]
            fleet[f"d{number}"] = count(codes, 4.0, rng, sizes=(2, *(4,) * 6))
        found = outlying_devices(
            fleet, names=("late", *(f"x{d}" for d in range(6))), conditions=(0,)
        )
        assert found.keys() == {"d12", "d13", "d14"}
        assert all(f.value < 0 and "late" in f.text for f in found.values())


def test_few_devices_are_not_judged() -> None:
    fleet, _ = _fleet(0, labels=3, sigma=0.0, poison=("uniform",))
    few = {name: fleet[name] for name in ("d0", "d1", "d19")}
    assert outlying_devices(few, names=NAMES, conditions=(0,)) == {}
    assert outlying_devices({}, names=NAMES, conditions=(0,)) == {}


def test_without_conditions_whole_columns_are_compared() -> None:
    fleet, bad = _fleet(4, labels=10, sigma=2.0, poison=("constant", "constant"))
    assert outlying_devices(fleet, names=NAMES).keys() == bad
