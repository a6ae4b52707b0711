"""Series drawn step by step have the rhythm of those that were learnt."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from edge_runtime import Generator, Schema
from edge_runtime.errors import SamplingError, SchemaError
from edge_runtime.schema import Column, Order, Sequence, broken_rows

RATE = {"slow": 0.03, "fast": 0.16}


def swing(rng: np.random.Generator, rows: int, frequency: float) -> np.ndarray:
    """An oscillation that noise keeps going: an autoregression of order 2."""
    x = np.zeros(rows + 100)
    noise = rng.normal(0, 1, rows + 100)
    a, b = 1.8 * np.cos(2 * np.pi * frequency), -0.81
    for t in range(2, len(x)):
        x[t] = a * x[t - 1] + b * x[t - 2] + noise[t]
    return x[100:].clip(-20, 20)


def waves(series: int, rows: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    parts = []
    for number in range(series):
        kind = ("slow", "fast")[number % 2]
        x = swing(rng, rows, RATE[kind])
        parts.append(
            pd.DataFrame(
                {"id": number, "at": np.arange(rows) * 0.1, "kind": kind, "x": x, "top": x + 1}
            )
        )
    return pd.concat(parts, ignore_index=True)


def schema_of(*constraints: Order, every: float | None = 0.1) -> Schema:
    return Schema.ordered(
        name="waves",
        columns=(
            Column(name="id", kind="integer", low=0, high=1000),
            Column(name="at", kind="number", low=0, high=1e6, unit="s"),
            Column(name="kind", kind="category", values=("slow", "fast"), condition=True),
            Column(name="x", kind="number", low=-20, high=21),
            Column(name="top", kind="number", low=-20, high=21),
        ),
        constraints=constraints,
        sequence=Sequence(lags=2, entity="id", order="at", every=every, static=("kind",)),
    )


@pytest.fixture(scope="module")
def generator() -> Generator:
    return Generator.fit(waves(30, 400), schema_of(), hidden=96, epochs=30, seed=1)


def rhythm(frame: pd.DataFrame, kind: str) -> np.ndarray:
    """Mean autocorrelation at lags 1 to 8."""
    found = []
    for _, part in frame[frame.kind == kind].groupby("id"):
        x = part.x.to_numpy() - part.x.mean()
        found.append([(x[:-k] * x[k:]).mean() / x.var() for k in range(1, 9)])
    return np.mean(found, axis=0)


def test_rhythm_and_spread_are_those_of_the_rows_learnt(generator: Generator) -> None:
    real, drawn = waves(30, 400, seed=5), generator.sample_series(60, 300, seed=2).to_pandas()
    for kind in RATE:
        assert np.abs(rhythm(drawn, kind) - rhythm(real, kind)).max() < 0.2
        spread = drawn[drawn.kind == kind].x.std() / real[real.kind == kind].x.std()
        assert 0.8 < spread < 1.2
    # The two differ by far more than that.
    assert np.abs(rhythm(real, "slow") - rhythm(real, "fast")).max() > 1.0


def test_series_are_asked_for_by_static_columns(generator: Generator) -> None:
    table = generator.sample_series(5, 40, where={"kind": "fast"})
    assert set(table.columns["kind"]) == {"fast"}
    assert table.columns["id"].tolist() == np.repeat(np.arange(5), 40).tolist()
    assert table.columns["step"].tolist() == np.tile(np.arange(40), 5).tolist()
    assert table.synthetic is not None
    with pytest.raises(SamplingError, match="static columns only: kind"):
        generator.sample_series(5, 40, where={"x@0": 1.0})


def test_a_series_is_the_same_whatever_their_number_and_length(generator: Generator) -> None:
    many = generator.sample_series(7, 30, seed=3).to_pandas()
    few = generator.sample_series(2, 30, seed=3).to_pandas()
    assert few.equals(many[many.id < 2])
    assert generator.sample_series(2, 2, seed=3).rows == 4  # shorter than a window
    assert generator.sample_series(1, 1100, seed=3).rows == 1100
    assert generator.sample_series(0, 30).rows == 0
    with pytest.raises(SamplingError, match="cannot draw 2 series of 0 rows"):
        generator.sample_series(2, 0)


def test_windows_are_rows_as_well(generator: Generator) -> None:
    table = generator.sample(50)
    assert table.schema.names[:3] == ("kind", "x@0", "top@0")
    assert table.rows == 50


def test_a_bundle_of_rows_draws_no_series() -> None:
    frame = waves(4, 100)[["kind", "x"]]
    plain = Generator.fit(frame, Schema.infer(frame), hidden=16, epochs=1)
    with pytest.raises(SamplingError, match="declares no sequence"):
        plain.sample_series(1, 10)


def test_constraints_hold_in_every_row_of_a_series() -> None:
    order = Order(columns=("x", "top"))
    bound = Generator.fit(waves(12, 300), schema_of(order), hidden=64, epochs=6, seed=1)
    table = bound.sample_series(20, 50, seed=1)
    assert table.rows == 1000
    assert not broken_rows(table, order).any()
    free = Generator.fit(waves(12, 300), schema_of(), hidden=64, epochs=6, seed=1)
    assert broken_rows(free.sample_series(20, 50, seed=1), order).any()


def test_gaps_stay_gaps() -> None:
    frame = waves(20, 300)
    holey = frame[np.random.default_rng(0).random(len(frame)) > 0.2]
    generator = Generator.fit(holey, schema_of(), hidden=64, epochs=25, seed=1)
    drawn = generator.sample_series(20, 100)
    # As many rows are absent as were, and whole rows at a time.
    assert 0.15 < drawn.missing["x"].mean() < 0.25
    assert (drawn.missing["x"] == drawn.missing["top"]).mean() > 0.9


@pytest.mark.parametrize(("rows", "held_out"), [(5, False), (20, True)])
def test_few_windows_are_enough(rows: int, held_out: bool) -> None:
    few = Generator.fit(waves(2, rows), schema_of(), hidden=16, epochs=2)
    assert few.bundle.lineage.rows == 2 * (rows - 2)
    assert ("validation_nll" in few.bundle.metrics) == held_out


def test_a_constant_series_stays_constant() -> None:
    frame = waves(4, 200).assign(x=3.0, top=4.0)
    table = Generator.fit(frame, schema_of(), hidden=16, epochs=1).sample_series(3, 20)
    assert np.allclose(table.columns["x"], 3.0)


def test_privacy_is_per_window_and_needs_a_grid() -> None:
    frame = waves(40, 300)
    with pytest.raises(SchemaError, match="has no every"):
        Generator.fit(frame, schema_of(every=None), epsilon=5.0)
    private = Generator.fit(frame, schema_of(), epsilon=8.0, hidden=32, epochs=4)
    assert private.bundle.lineage.privacy["unit"] == "window of 3 rows"
    assert private.bundle.lineage.privacy["epsilon"] <= 8.0
    # Every row is in one window: a third as many windows as rows.
    assert abs(private.bundle.lineage.rows - 4000) < 100
    drawn = private.sample_series(20, 100).to_pandas()
    assert abs(drawn.x.mean()) < 1.5
