"""A small real table, its codec, and weights with strong dependence between columns."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.generator import (
    Bundle,
    Layout,
    Lineage,
    Weights,
    build_bundle,
    initial_weights,
)
from edge_runtime.schema import Codec, Column, Schema, Table

PRIVACY = {"epsilon": 4.0, "delta": 1e-5, "unit": "row", "mechanism": "dp-sgd"}


def strong_weights(layout: Layout, seed: int = 0, strength: float = 6.0) -> Weights:
    """Untrained weights whose outputs depend on the inputs as much as trained ones do."""
    weights = initial_weights(layout, seed=seed)
    rng = np.random.default_rng(seed + 1)
    return weights._replace(
        w3=weights.w3 * np.float32(strength),
        b1=rng.normal(0, 0.3, layout.hidden).astype(np.float32),
        b2=rng.normal(0, 0.3, layout.hidden).astype(np.float32),
        b3=rng.normal(0, 1, layout.width).astype(np.float32),
    )


def lineage(**changes: object) -> Lineage:
    plain = {"parent": None, "depth": 1, "round": 2, "devices": 3, "rows": 400.0}
    return Lineage(**(plain | {"privacy": PRIVACY} | changes))


@pytest.fixture(scope="session")
def schema() -> Schema:
    return Schema(
        name="pumps | north",
        columns=(
            Column(name="fault", kind="boolean", condition=True),
            Column(name="site", kind="category", values=("a", "b", "c"), other=True),
            Column(name="load", kind="number", low=0.0, high=10.0, unit="kW", nullable=True),
            Column(name="starts", kind="integer", low=0, high=5),
        ),
    )


@pytest.fixture(scope="session")
def codec(schema: Schema) -> Codec:
    rng = np.random.default_rng(5)
    n = 400
    load = rng.gamma(2.0, 1.5, n).clip(0, 10)
    load[::17] = np.nan
    table = Table(
        schema=schema,
        columns={
            "fault": rng.integers(0, 2, n).astype(np.int8),
            "site": rng.choice(np.array(["a", "b", "c"], object), n),
            "load": load,
            "starts": rng.integers(0, 6, n),
        },
    )
    return Codec.fit(table, schema)


@pytest.fixture(scope="session")
def layout(codec: Codec) -> Layout:
    return Layout(codec.cardinalities, 24)


@pytest.fixture(scope="session")
def weights(layout: Layout) -> Weights:
    return strong_weights(layout)


@pytest.fixture(scope="session")
def bundle(schema: Schema, codec: Codec, layout: Layout, weights: Weights) -> Bundle:
    return build_bundle(
        schema, codec, layout, weights, lineage=lineage(), metrics={"nll": 3.25, "auc": {"a": 0.5}}
    )
