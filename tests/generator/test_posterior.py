"""Distributions of missing cells, held against enumeration and against rejection."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edge_runtime.generator import Bundle, open_engine, posterior, sample_codes
from edge_runtime.generator.conditional import every_combination, log_probabilities
from edge_runtime.generator.posterior import Posterior, RowPosterior

KEY = bytes(range(32))

#: known codes and missing columns: in front, in the middle, behind, several, all
CASES = [
    ((1, 2, 5, 3), (0,)),
    ((0, 1, 3, 4), (1,)),
    ((1, 0, 7, 0), (3,)),
    ((1, 3, 2, 5), (0, 2)),
    ((0, 2, 9, 2), (1, 2)),
    ((0, 0, 0, 0), (0, 1, 2, 3)),
]


@pytest.fixture(scope="module")
def joint(bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    """Every row that there can be, and its probability."""
    sizes = bundle.layout.cardinalities
    rows = every_combination([np.arange(k, dtype=np.int32) for k in sizes])
    logs = log_probabilities(bundle.quantised.tensors, bundle.layout, rows).sum(axis=1)
    return rows, np.exp(logs)


def everything_goes(codes: np.ndarray) -> np.ndarray:
    return np.ones(len(codes), np.bool_)


def conditional(
    joint: tuple[np.ndarray, np.ndarray], bundle: Bundle, row: np.ndarray, columns: tuple[int, ...]
) -> dict[int, np.ndarray]:
    """By enumeration, without the code for a missing value."""
    rows, probabilities = joint
    known = [d for d in range(rows.shape[1]) if d not in columns]
    fits = (rows[:, known] == row[known]).all(axis=1)
    for column in columns:
        if bundle.schema.columns[column].nullable:
            fits &= rows[:, column] != bundle.layout.cardinalities[column] - 1
    weights = probabilities * fits / (probabilities * fits).sum()
    sizes = bundle.layout.cardinalities
    return {c: np.bincount(rows[:, c], weights, minlength=sizes[c]) for c in columns}


def found(
    bundle: Bundle,
    row: np.ndarray,
    columns: tuple[int, ...],
    *,
    draws: int = 0,
    possible: Callable[[np.ndarray], np.ndarray] = everything_goes,
) -> RowPosterior:
    missing = np.zeros((1, len(row)), np.bool_)
    missing[0, list(columns)] = True
    made = Posterior(bundle, possible=possible)
    (result,) = made.of(row[None].astype(np.int32), missing, draws=draws, key=KEY)
    return result


def test_all_rows_together_are_certain(joint: tuple[np.ndarray, np.ndarray]) -> None:
    assert abs(joint[1].sum() - 1) < 1e-6


@pytest.mark.parametrize(("row", "columns"), CASES)
def test_few_combinations_are_exact(
    row: tuple[int, ...],
    columns: tuple[int, ...],
    bundle: Bundle,
    joint: tuple[np.ndarray, np.ndarray],
) -> None:
    codes = np.array(row)
    result = found(bundle, codes, columns, draws=4000)
    expected = conditional(joint, bundle, codes, columns)
    assert set(result.shares) == set(columns)
    for column in columns:
        np.testing.assert_allclose(result.shares[column], expected[column], atol=1e-6)
        drawn = np.bincount(result.draws[:, column], minlength=len(expected[column])) / 4000
        assert np.abs(drawn - expected[column]).max() < 4 * np.sqrt(0.25 / 4000)
    known = [d for d in range(4) if d not in columns]
    assert (result.draws[:, known] == codes[known]).all()
    assert result.effective == np.inf


@pytest.mark.parametrize("swept", [False, True])
@pytest.mark.parametrize(("row", "columns"), CASES)
def test_many_combinations_are_sampled_from_the_same(  # noqa: PLR0917 - fixtures
    row: tuple[int, ...],
    columns: tuple[int, ...],
    swept: bool,
    bundle: Bundle,
    joint: tuple[np.ndarray, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(posterior, "_MOST_COMBINATIONS", 0)
    monkeypatch.setattr(posterior, "_CANDIDATES", 20_000 if not swept else 64)
    monkeypatch.setattr(posterior, "_LEAST_EFFECTIVE", np.inf if swept else 0.0)
    codes = np.array(row)
    result = found(bundle, codes, columns, draws=2000)
    expected = conditional(joint, bundle, codes, columns)
    for column in columns:
        assert np.abs(result.shares[column] - expected[column]).max() < 0.03, column
        drawn = np.bincount(result.draws[:, column], minlength=len(expected[column])) / 2000
        assert np.abs(drawn - expected[column]).max() < 0.06, column
    assert 1 <= result.effective <= 20_000
    # What lies behind all known cells is drawn as it is: no weight differs.
    if columns == (0, 1, 2, 3):
        assert result.effective > 0.9 * (64 if swept else 20_000)


def test_it_is_what_engines_draw(bundle: Bundle) -> None:
    """The distribution of an early column given later ones, by rejection of an engine's rows."""
    rows = sample_codes(open_engine(bundle), 400_000, key=bytes(32))
    like, count = np.unique(rows[:, 1:], axis=0, return_counts=True)
    seen = like[count.argmax()]
    met = rows[(rows[:, 1:] == seen).all(axis=1), 0]
    assert len(met) > 1000
    result = found(bundle, np.array([0, *seen]), (0,))
    assert abs(result.shares[0][1] - met.mean()) < 4 * np.sqrt(0.25 / len(met))


def test_what_is_impossible_has_no_share(bundle: Bundle) -> None:
    def not_one(codes: np.ndarray) -> np.ndarray:
        return np.asarray(codes[:, 1] != 1)

    result = found(bundle, np.array([0, 0, 3, 2]), (0, 1), draws=200, possible=not_one)
    assert result.shares[1][1] == 0
    assert not (result.draws[:, 1] == 1).any()
    assert result.possible

    def nothing(codes: np.ndarray) -> np.ndarray:
        return np.zeros(len(codes), np.bool_)

    result = found(bundle, np.array([0, 0, 3, 2]), (0, 1), draws=5, possible=nothing)
    assert not result.possible
    assert abs(result.shares[1].sum() - 1) < 1e-9


def test_a_row_is_filled_the_same_wherever_it_stands(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posterior, "_MOST_COMBINATIONS", 10)
    rng = np.random.default_rng(0)
    codes = sample_codes(open_engine(bundle), 30, key=KEY)
    missing = rng.random(codes.shape) < 0.5
    made = Posterior(bundle, possible=everything_goes)
    whole = list(made.of(codes, missing, draws=3, key=KEY))
    part = list(made.of(codes[10:20], missing[10:20], draws=3, key=KEY, first=10))
    for a, b in zip(whole[10:20], part, strict=True):
        np.testing.assert_array_equal(a.draws, b.draws)
    other = list(made.of(codes, missing, draws=3, key=bytes(32)))
    assert any((a.draws != b.draws).any() for a, b in zip(whole, other, strict=True))
