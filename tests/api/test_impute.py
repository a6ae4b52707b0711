"""Missing cells are filled better than by mode and median, and known ones stay as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklego.datasets import load_abalone, load_arrests

from edge_runtime import Generator, Schema
from edge_runtime.errors import DataError, SamplingError
from edge_runtime.schema import Column, Order, Sum, broken_rows


def shuffled(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sample(frac=1, random_state=0).reset_index(drop=True)


def holes(frame: pd.DataFrame, share: float, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    gone = np.random.default_rng(seed).random(frame.shape) < share
    return frame.astype(object).mask(gone), gone


@pytest.fixture(scope="module")
def arrests() -> tuple[Generator, pd.DataFrame]:
    frame = shuffled(load_arrests(as_frame=True))
    fitted = Generator.fit(frame[:4500], Schema.infer(frame), hidden=64, epochs=10, seed=1)
    return fitted, frame[4500:].reset_index(drop=True)


def test_held_out_cells_are_filled_better_than_by_mode_and_median() -> None:
    frame = shuffled(load_abalone(as_frame=True))
    generator = Generator.fit(frame[:3500], Schema.infer(frame), hidden=64, epochs=25, seed=1)
    held = frame[3500:3700].reset_index(drop=True)
    holey, gone = holes(held, 0.2)
    made = generator.impute(holey)
    assert (made.cells, made.unmet) == (gone.sum(), 0)
    assert 0 < made.exact < made.rows
    filled = made.tables[0].to_pandas()
    errors, by_median = [], []
    for index, name in enumerate(held.columns):
        there, asked = ~gone[:, index], gone[:, index]
        # Known cells are as they were, to the last digit.
        assert (filled[name][there] == held[name][there]).all()
        if name == "sex":
            right = (filled[name][asked] == held[name][asked]).mean()
            assert right > (frame[name].mode()[0] == held[name][asked]).mean() + 0.05
        else:
            spread = held[name].std()
            errors.append((filled[name][asked] - held[name][asked]).abs().mean() / spread)
            by_median.append((frame[name].median() - held[name][asked]).abs().mean() / spread)
    assert np.mean(errors) < 0.5 * np.mean(by_median)


def test_draws_spread_as_the_known_cells_leave_it(
    arrests: tuple[Generator, pd.DataFrame],
) -> None:
    generator, held = arrests
    holey = held[:40].astype(object)
    holey["colour"] = None
    holey["age"] = None
    made = generator.impute(holey, draws=40, seed=3)
    assert len(made.tables) == 40
    drawn = np.stack([table.columns["age"] for table in made.tables])
    assert (drawn.std(axis=0) > 1).all()
    assert abs(drawn.mean() - held.age.mean()) < 4
    share = np.mean([(table.columns["colour"] == "White").mean() for table in made.tables])
    assert abs(share - (held.colour == "White").mean()) < 0.1
    # The same row and seed, alone or among others.
    part = generator.impute(holey[10:20], draws=2, seed=3, first=10)
    for a, b in zip(part.tables, made.tables[:2], strict=True):
        pd.testing.assert_frame_equal(
            a.to_pandas(), b.take(slice(10, 20)).to_pandas(), check_dtype=False
        )
    other = generator.impute(holey, draws=1, seed=4).tables[0]
    assert (other.columns["age"] != made.tables[0].columns["age"]).any()


def test_filled_rows_are_marked_and_nothing_to_learn_from(
    arrests: tuple[Generator, pd.DataFrame],
) -> None:
    generator, held = arrests
    (filled,) = generator.impute(holes(held[:20], 0.3)[0]).tables
    assert filled.synthetic is not None
    assert filled.synthetic["imputed"] > 0
    with pytest.raises(DataError, match="synthetic rows where real ones belong"):
        Generator.fit(filled, generator.schema)


def test_nothing_missing_and_no_rows(arrests: tuple[Generator, pd.DataFrame]) -> None:
    generator, held = arrests
    whole = generator.impute(held[:10])
    assert (whole.cells, whole.rows, whole.exact, whole.unmet) == (0, 0, 0, 0)
    pd.testing.assert_frame_equal(
        whole.tables[0].to_pandas()[list(held.columns)], held[:10], check_dtype=False
    )
    assert generator.impute(held[:0]).tables[0].rows == 0
    with pytest.raises(SamplingError, match="-1"):
        generator.impute(held[:10], draws=-1)
    with pytest.raises(DataError, match="'Green'"):
        generator.impute(held[:3].assign(colour="Green"))


SHOP = Schema(
    name="shop",
    columns=(
        Column(name="weekend", kind="boolean", nullable=True),
        Column(name="net", kind="integer", low=0, high=2000),
        Column(name="tax", kind="integer", low=0, high=300),
        Column(name="gross", kind="integer", low=0, high=2300),
        Column(name="paid", kind="number", low=0, high=3000, decimals=1, nullable=True),
    ),
    constraints=(
        Sum(total="gross", parts=("net", "tax")),
        Order(columns=("gross", "paid")),
    ),
)


def shop(rows: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    net = rng.gamma(2, 200, rows).clip(0, 2000).astype(int)
    tax = np.minimum(net // 7 + rng.integers(0, 20, rows), 300)
    gone = rng.random(rows) < 0.1
    paid = np.round(net + tax + rng.exponential(30, rows), 1).clip(0, 3000)
    return pd.DataFrame(
        {
            "weekend": rng.random(rows) < 0.3,
            "net": net,
            "tax": tax,
            "gross": net + tax,
            "paid": np.where(gone, np.nan, paid),
        }
    )


@pytest.fixture(scope="module")
def till() -> Generator:
    return Generator.fit(shop(4000), SHOP, hidden=64, epochs=8, seed=1)


@pytest.mark.parametrize("draws", [0, 3])
def test_filled_cells_keep_the_constraints(till: Generator, draws: int) -> None:
    held = shop(150, seed=9)
    holey, gone = holes(held, 0.3, seed=2)
    gone |= held.isna().to_numpy()
    made = till.impute(holey, draws=draws)
    assert made.unmet <= 3
    for table in made.tables:
        for constraint in SHOP.constraints:
            assert not broken_rows(table, constraint).any()
        filled = table.to_pandas()
        assert filled.isna().to_numpy().sum() <= 5 * made.unmet
        for index, name in enumerate(held.columns):
            there = ~gone[:, index]
            assert (filled[name][there] == held[name][there]).all()
    # One missing term of a sum is no guess.
    one = gone[:, 1:4].sum(axis=1) == 1
    filled = made.tables[0].to_pandas()
    assert one.sum() > 20
    same = filled.loc[one, ["net", "tax", "gross"]] == held.loc[one, ["net", "tax", "gross"]]
    assert same.all(axis=1).sum() >= one.sum() - made.unmet


def test_what_no_value_could_complete_stays_missing_and_is_counted(till: Generator) -> None:
    row: dict[str, Any] = {"weekend": [True], "net": [10], "tax": [None], "gross": [2000]}
    made = till.impute(row | {"paid": [None]}, draws=2)
    assert made.unmet == 1
    for table in made.tables:
        assert table.missing["tax"].all()
        assert table.missing["paid"].all()
    with pytest.raises(DataError, match="breaks the schema's constraint gross <= paid"):
        till.impute(row | {"paid": [5]})


def test_known_values_beyond_the_bounds_stay_and_do_no_harm(till: Generator) -> None:
    row: dict[str, Any] = {"weekend": [None], "net": [2400], "tax": [100], "gross": [2500]}
    made = till.impute(row | {"paid": [2600.0]})
    assert made.unmet == 0
    assert made.tables[0].columns["net"].tolist() == [2400]
    assert not made.tables[0].missing["weekend"].any()


def test_a_column_that_is_always_missing_can_be_given(till: Generator) -> None:
    """Rows may lack cells of columns that are not nullable; sampled rows then never do."""
    blank = shop(50, seed=3).astype(object).assign(net=None, gross=None)
    filled = till.impute(blank).tables[0]
    assert not filled.missing["net"].any()
    assert not broken_rows(filled, SHOP.constraints[0]).any()
