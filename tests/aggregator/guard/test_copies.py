"""Copies of earlier batches are found, whoever sends them; natural sameness is no copy."""

from __future__ import annotations

import numpy as np

from edge_runtime.aggregator.guard import CopyIndex
from edge_runtime.reception.fingerprints import fingerprint

from .tables import World

WORLD = World()


def _index(*batches: np.ndarray) -> CopyIndex:
    index = CopyIndex()
    for number, codes in enumerate(batches):
        index.add(f"{number:032d}", f"d{number}", 1, fingerprint(codes))
    return index


def test_a_copy_is_found_in_any_order() -> None:
    rng = np.random.default_rng(0)
    first, second = WORLD.rows(rng, 400), WORLD.rows(rng, 400)
    index = _index(first, second)
    assert len(index) == 2
    found = index.judge(fingerprint(rng.permutation(second)))
    assert found is not None
    assert found.kind == "copy"
    assert "all 400 rows" in found.text
    assert "device d1" in found.text
    # The same message again is no copy of itself, and counts once.
    assert index.judge(fingerprint(second), name=f"{1:032d}") is None
    index.add(f"{1:032d}", "d1", 1, fingerprint(second))
    assert len(index) == 2


def test_most_of_a_batch_is_a_copy_too() -> None:
    rng = np.random.default_rng(1)
    earlier = [WORLD.rows(rng, 400) for _ in range(5)]
    mixed = np.concatenate([earlier[3][:340], WORLD.rows(rng, 60)])
    found = _index(*earlier).judge(fingerprint(mixed))
    assert found is not None
    assert "device d3" in found.text
    assert found.expected < 0.3 < found.allowed < found.value


def test_a_longer_batch_with_few_rows_of_an_earlier_one_passes() -> None:
    rng = np.random.default_rng(1)
    earlier = WORLD.rows(rng, 400)
    mixed = np.concatenate([earlier[:60], WORLD.rows(rng, 340)])
    assert _index(earlier).judge(fingerprint(mixed)) is None


def test_honest_batches_of_one_generator_are_no_copies() -> None:
    """From tables where nearly all rows repeat to those where none does, over many seeds."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        for columns in (1, 2, 3, 5, 12):
            batches = [WORLD.rows(rng, size)[:, : columns + 1] for size in (300, 500, 900)]
            for codes in (b[:, 1:] if columns < 5 else b for b in batches):
                print_ = fingerprint(np.ascontiguousarray(codes))
                earlier = [WORLD.rows(rng, size)[:, : columns + 1] for size in (300, 600)]
                index = _index(*(b[:, 1:] if columns < 5 else b for b in earlier))
                assert index.judge(print_) is None, (seed, columns)


def test_small_or_uniform_batches_say_nothing() -> None:
    same = np.zeros((300, 3), np.int32)
    assert _index(same).judge(fingerprint(same)) is None
    few = np.arange(30, dtype=np.int32).reshape(10, 3)
    assert _index(few).judge(fingerprint(few)) is None
    assert fingerprint(np.empty((0, 3), np.int32)).rows == 0


def test_natural_overlap_is_estimated() -> None:
    for columns in (2, 4, 6):
        rng = np.random.default_rng(columns)
        batches = [WORLD.rows(rng, 800)[:, :columns] for _ in range(2)]
        seen = {tuple(row) for row in batches[1].tolist()}
        different = {tuple(row) for row in batches[0].tolist()}
        found = len(different & seen) / len(different)
        assert abs(fingerprint(batches[0]).natural_overlap(800) - found) < 0.12
