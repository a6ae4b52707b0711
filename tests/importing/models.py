"""Descriptions of models that nobody trained, with a column of every kind and strong dependence."""

from __future__ import annotations

import numpy as np

from edge_runtime.importing.sdv import Description, Head, Layer, Normalisation, Output, Words

#: nanoseconds, as SDV counts
DAY = 86_400e9
START = 1_704_067_200e9  # 2024-01-01

WARDS = ["north", "south", "east"]

#: of the conditional vector: ward's four, the two of weight's, member's three, stars' three
CONDITION = [0.12, 0.08, 0.03, 0.02, 0.15, 0.1, 0.18, 0.05, 0.04, 0.1, 0.07, 0.06]


def heads(*, sigma: float = 0.0) -> list[Head]:
    return [
        Head(name="ward", categories=4),
        Head(name="age", means=[30.0, 62.0], stds=[4.0, 9.0], sigma=sigma),
        Head(name="cost", means=[0.0, 120.0, 900.0], stds=[1.0, 30.0, 200.0], sigma=sigma / 2),
        Head(name="weight", means=[70.0], stds=[6.0], sigma=sigma),
        Head(name="weight.is_null", categories=2),
        Head(name="member", categories=3),
        Head(name="day", means=[START, START + 200 * DAY], stds=[8 * DAY, 20 * DAY], sigma=sigma),
        Head(name="at", means=[START + 90 * DAY], stds=[25 * DAY], sigma=sigma),
        Head(name="stars", categories=3),
        Head(name="area", means=[0.3, 0.8], stds=[0.06, 0.05], sigma=sigma),
        Head(name="constant", means=[7.5], stds=[0.001], sigma=sigma),
    ]


OUTPUTS = [
    Output(name="ward", kind="category", values=[*WARDS, None]),
    Output(name="age", kind="integer", low=18, high=89, decimals=0),
    Output(name="cost", kind="number", low=0.0, high=1500.0, decimals=2, missing=0.2),
    Output(name="weight", kind="number", gone="weight.is_null", absent=[True, False]),
    Output(name="member", kind="boolean", values=[True, False, None]),
    Output(name="day", kind="timestamp", low=START, high=START + 240 * DAY, unit="D"),
    Output(name="at", kind="timestamp", unit="s", missing=0.1),
    Output(name="stars", kind="integer", values=[5, 1, 2]),
    Output(name="area", kind="category", values=["b", "a", "c"], ends=[0.35, 0.7]),
    Output(name="constant", kind="number", low=7.5, high=7.5, decimals=1),
]


def describe(
    model: str,
    *,
    seed: int = 0,
    batch_statistics: bool = True,
    own_heads: list[Head] | None = None,
    outputs: list[Output] | None = None,
    condition: list[float] | None = None,
) -> Description:
    """A model with random weights whose outputs vary as much as a trained one's do."""
    ctgan = model == "CTGAN"
    own = heads(sigma=0.0 if ctgan else 0.1) if own_heads is None else own_heads
    asked = (CONDITION if condition is None else condition) if ctgan else []
    rng = np.random.default_rng(seed)
    embedding, hidden = 12, (24, 16)

    def layer(inputs: int, outputs: int, strength: float, *, normalised: bool = False) -> Layer:
        def numbers(low: float, high: float) -> np.ndarray:
            return rng.uniform(low, high, outputs).astype(np.float32)

        # What training kept differs from what a batch has, so that it matters which is taken.
        normalisation = Normalisation(
            scale=numbers(0.5, 1.5),
            shift=numbers(-0.5, 0.5),
            mean=numbers(-1, 1),
            variance=numbers(0.2, 1),
            eps=1e-5,
        )
        return Layer(
            weight=(rng.normal(0, strength, (inputs, outputs)) / np.sqrt(inputs)).astype(
                np.float32
            ),
            bias=numbers(-0.5, 0.5),
            normalisation=normalisation if normalised else None,
        )

    width = embedding + len(asked)
    layers = []
    for size in hidden:
        layers.append(layer(width, size, 1.5, normalised=ctgan))
        width = width + size if ctgan else size
    layers.append(layer(width, sum(head.outputs for head in own), 3.0))
    return Description(
        words=Words(
            model="CTGAN" if ctgan else "TVAE",
            table="visits",
            embedding=embedding,
            batch_statistics=ctgan and batch_statistics,
            condition=asked,
            heads=own,
            outputs=OUTPUTS if outputs is None else outputs,
            left_out={"visit": "id, made up by AnonymizedFaker, not learnt"},
            rows=600 if ctgan else None,
            fitted="2026-11-26",
            sdv_version="2.0.0",
        ),
        layers=tuple(layers),
    )
