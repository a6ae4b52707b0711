"""Batches against their generator: shuffled columns are found, what is skewed passes."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edge_runtime.aggregator.guard.relations import (
    Parent,
    Relation,
    judge_relations,
    relation_of,
)
from edge_runtime.generator import Bundle
from edge_runtime.training import train

from ..conftest import make_kit, make_schema, make_table

LIMITS = {"least": 0.5, "false_alarms": 1e-3}


def _rows(bundle: Bundle, rows: int, seed: int, origin: int | None = None) -> np.ndarray:
    return bundle.codec.encode(make_table(make_schema(), rows, seed=seed, origin=origin)).codes


def _shuffled(codes: np.ndarray, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permuted(codes, axis=0)


def taught(first: Bundle, *, depth: int = 1) -> Bundle:
    """A generator that knows how the columns follow each other."""
    codes = _rows(first, 6000, seed=77)
    weights, _ = train(
        first.weights, codes, layout=first.layout, steps=300, batch=256, learning_rate=1e-2
    )
    lineage = msgspec.structs.replace(first.lineage, parent=first.digest, depth=depth, round=depth)
    return first.with_weights(weights, lineage=lineage, metrics={})


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    kit = make_kit(tmp_path_factory.mktemp("relations"))
    first = kit.census_round()
    kit.workspace.close()
    return taught(first)


@pytest.fixture(scope="module")
def parent(bundle: Bundle) -> Parent:
    return Parent(bundle, rows=10_000)


def test_shuffled_columns_and_noise_lack_what_the_generator_knows(
    bundle: Bundle, parent: Parent
) -> None:
    for seed in range(10):
        codes = _rows(bundle, 400, seed)
        for lie in (
            _shuffled(codes, seed),
            np.random.default_rng(seed)
            .integers(0, codes.max(axis=0) + 1, codes.shape)
            .astype(np.int32),
        ):
            relation = relation_of(lie, parent)
            assert relation is not None
            found = judge_relations([relation], **LIMITS)
            assert found is not None, seed
            assert found.kind == "relations"
            assert abs(found.value) < 0.4
            assert "shuffled columns or noise" in found.text


@pytest.mark.parametrize("kind", ["all", "one origin", "late only", "evenings", "weak"])
def test_no_honest_batch_is_flagged(bundle: Bundle, parent: Parent, kind: str) -> None:
    """Nor one of one class, of hours that few others have, or with half of its values lost."""
    for seed in range(60):
        codes = _rows(bundle, 900, 500 + seed, origin=seed % 3 if kind == "one origin" else None)
        if kind == "late only":
            codes = codes[codes[:, 0] == codes[:, 0].max()]
        elif kind == "evenings":
            codes = codes[codes[:, 1] >= np.quantile(codes[:, 1], 0.8)]
        elif kind == "weak":
            lost = np.random.default_rng(seed).random(len(codes)) < 0.3
            codes[lost] = _shuffled(codes, seed)[lost]
        relation = relation_of(np.ascontiguousarray(codes[:200]), parent)
        if relation is not None:
            assert judge_relations([relation], **LIMITS) is None, (kind, seed, relation)


def test_several_batches_show_together_what_one_does_not(bundle: Bundle, parent: Parent) -> None:
    small = []
    for seed in range(12):
        relation = relation_of(_shuffled(_rows(bundle, 30, seed), seed), parent)
        assert relation is not None
        small.append(relation)
    assert sum(judge_relations([one], **LIMITS) is not None for one in small) <= 8
    found = judge_relations(small, **LIMITS)
    assert found is not None
    assert "last 12 batches together" in found.text


def test_the_same_batch_gives_the_same_figures(bundle: Bundle, parent: Parent) -> None:
    codes = _rows(bundle, 300, 3)
    assert relation_of(codes, parent) == relation_of(codes.copy(), parent)


def test_nothing_is_said_where_nothing_is_known(bundle: Bundle, parent: Parent) -> None:
    codes = _rows(bundle, 300, 3)
    assert relation_of(codes[:20], parent) is None
    # One row again and again has no columns to shuffle.
    same = relation_of(np.repeat(codes[:1], 300, axis=0), parent)
    assert same is None or judge_relations([same], **LIMITS) is None
    assert judge_relations([], **LIMITS) is None
    # A dependence that the generator does not know is one all the same.
    alien = Relation(200, 0.0, 100.0, 16.0, 4.0, visible=9.0)
    assert alien.kept == 0.0
    assert judge_relations([alien], **LIMITS) is None
    assert judge_relations([alien._replace(visible=0.5)], **LIMITS) is not None
    # The generator's own rows must be certain, too.
    assert judge_relations([alien._replace(visible=0.5, expected_variance=1e3)], **LIMITS) is None
