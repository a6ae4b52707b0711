"""The public verbs, on a small real table (arrests: 5,226 rows, 8 columns)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklego.datasets import load_arrests

import edge_runtime
from edge_runtime import Generator, Schema, __version__
from edge_runtime.errors import BundleError, DataError, SamplingError, SchemaError


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return load_arrests(as_frame=True)


@pytest.fixture(scope="module")
def schema(frame: pd.DataFrame) -> Schema:
    return Schema.infer(frame, name="arrests", conditions=("released",))


@pytest.fixture(scope="module")
def generator(frame: pd.DataFrame, schema: Schema) -> Generator:
    return Generator.fit(frame, schema, hidden=64, epochs=8, seed=1)


def shares(values: pd.Series) -> pd.Series:
    return values.value_counts(normalize=True)


def test_marginals_and_dependence_survive(generator: Generator, frame: pd.DataFrame) -> None:
    rows = generator.sample(20_000, seed=3).to_pandas()
    assert set(rows.columns) == set(frame.columns)
    for column in ("released", "colour", "year", "checks"):
        distance = shares(rows[column]).sub(shares(frame[column]), fill_value=0).abs().sum() / 2
        assert distance < 0.04, column

    # Release depends on employment: the gap of 17 points must be there, not averaged away.
    def gap(table: pd.DataFrame) -> float:
        rate = table.assign(r=table.released == "Yes").groupby("employed").r.mean()
        return float(rate["Yes"] - rate["No"])

    assert abs(gap(rows) - gap(frame)) < 0.06


def test_same_seed_same_rows_whatever_the_number(generator: Generator) -> None:
    whole = generator.sample(1_000, seed=9).to_pandas()
    assert generator.sample(250, seed=9).to_pandas().equals(whole.head(250))
    assert not generator.sample(250, seed=10).to_pandas().equals(whole.head(250))


def test_save_and_load_draw_the_same_rows(generator: Generator, tmp_path) -> None:
    generator.save(tmp_path / "a.bundle")
    again = Generator.load(tmp_path / "a.bundle")
    assert again.sample(500).to_pandas().equals(generator.sample(500).to_pandas())
    assert again.schema == generator.schema
    (tmp_path / "cut.bundle").write_bytes((tmp_path / "a.bundle").read_bytes()[:-100])
    with pytest.raises(BundleError):
        Generator.load(tmp_path / "cut.bundle")


def test_where_on_a_condition_is_clamped_and_conditions_the_rest(
    generator: Generator, frame: pd.DataFrame
) -> None:
    refused = generator.sample(8_000, where={"released": "No"}, seed=2).to_pandas()
    assert set(refused.released) == {"No"}
    employed = (refused.employed == "Yes").mean()
    assert abs(employed - (frame[frame.released == "No"].employed == "Yes").mean()) < 0.05


def test_where_on_another_column_rejects(generator: Generator) -> None:
    rows = generator.sample(700, where={"released": "Yes", "citizen": "No"}, seed=2)
    table = rows.to_pandas()
    assert len(table) == 700
    assert set(table.citizen) == {"No"}
    assert set(table.released) == {"Yes"}


def test_sampled_rows_are_marked_and_not_learnt_from(
    generator: Generator, frame: pd.DataFrame, schema: Schema
) -> None:
    mark = {"bundle": generator.bundle.digest, "depth": 1}
    for rows in (generator.sample(50), generator.sample(50, where={"colour": "Black"})):
        assert rows.synthetic == mark
        for source in (rows, rows.to_pandas(), rows.to_arrow()):
            with pytest.raises(DataError, match="synthetic rows where real ones belong"):
                Generator.fit(source, schema)
            with pytest.raises(DataError, match="synthetic rows where real ones belong"):
                edge_runtime.evaluate(source, rows, schema=schema)
            with pytest.raises(DataError, match="synthetic rows where real ones belong"):
                edge_runtime.evaluate(frame, rows, schema=schema, holdout=source)
            assert edge_runtime.evaluate(frame, source, schema=schema).figures["rows"]


def test_what_cannot_be_drawn_is_said(generator: Generator) -> None:
    with pytest.raises(SamplingError, match="colour_x"):
        generator.sample(10, where={"colour_x": "White"})
    with pytest.raises(SamplingError, match="-1"):
        generator.sample(-1)
    assert generator.sample(0).rows == 0


def test_private_fit_stays_within_epsilon_and_is_useful(
    frame: pd.DataFrame, schema: Schema
) -> None:
    phases = set()
    private = Generator.fit(
        frame,
        schema,
        epsilon=3.0,
        hidden=64,
        epochs=4,
        on_progress=lambda phase, share: phases.add(phase),
    )
    privacy = private.bundle.lineage.privacy
    assert 2.7 < privacy["epsilon"] <= 3.0
    assert privacy["delta"] == 1e-5
    assert phases == {"reading", "training", "building"}
    rows = private.sample(20_000, seed=5).to_pandas()
    for column in ("released", "colour", "employed"):
        distance = shares(rows[column]).sub(shares(frame[column]), fill_value=0).abs().sum() / 2
        assert distance < 0.1, column


def test_privacy_needs_a_schema(frame: pd.DataFrame) -> None:
    with pytest.raises(SchemaError, match="schema infer"):
        Generator.fit(frame, epsilon=1.0)


def test_numeric_columns_come_back_in_bounds_and_type() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "t": rng.normal(20, 5, 3_000).round(1),
            "n": rng.poisson(300, 3_000),
            "hole": np.where(rng.random(3_000) < 0.3, np.nan, rng.random(3_000)),
        }
    )
    rows = Generator.fit(table, hidden=32, epochs=3).sample(5_000).to_pandas()
    assert rows.t.between(table.t.min(), table.t.max()).all()
    assert (rows.n == rows.n.round()).all()
    assert abs(rows.hole.isna().mean() - 0.3) < 0.05
    assert abs(rows.t.mean() - table.t.mean()) < 0.5


def test_the_package_names_its_surface() -> None:
    for name in edge_runtime.__all__:
        assert getattr(edge_runtime, name) is not None
    assert __version__.count(".") == 2
    with pytest.raises(AttributeError, match="nothing"):
        _ = edge_runtime.nothing
