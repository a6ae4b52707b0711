"""A small world: a label and columns that follow it, rows of devices and their noisy counts."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edge_runtime.aggregator.anchor import DeviceCounts, Table

LABELS, COLUMNS, CODES = 10, 12, 4
NAMES = ("label", *(f"x{d}" for d in range(COLUMNS)))
SIZES = (LABELS, *(CODES,) * COLUMNS)


class World:
    """`shares` [label, column, code]: what every column is, given the label."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.shares = rng.dirichlet(np.full(CODES, 0.6), size=(LABELS, COLUMNS))

    def rows(
        self, rng: np.random.Generator, rows: int, labels: Iterable[int] = range(LABELS)
    ) -> np.ndarray:
        label = rng.choice(list(labels), rows)
        reach = self.shares.cumsum(-1)[label]
        code = (rng.random((rows, COLUMNS, 1)) > reach).sum(-1).clip(0, CODES - 1)
        return np.column_stack([label, code]).astype(np.int32)


def weak(codes: np.ndarray, rng: np.random.Generator, share: float = 0.15) -> np.ndarray:
    """As a weak generator makes them: a share of the values is anything."""
    made = codes.copy()
    lost = rng.random(codes[:, 1:].shape) < share
    made[:, 1:][lost] = rng.integers(0, CODES, int(lost.sum()))
    return made


def spoil(codes: np.ndarray, how: str, rng: np.random.Generator) -> np.ndarray:
    """Poison rows: "flip", "constant", "shuffle" or "uniform"."""
    made = codes.copy()
    if how == "flip":
        made[:, 0] = (made[:, 0] + 3) % LABELS
    elif how == "constant":
        made[:] = made[0]
    elif how == "shuffle":
        for d in range(made.shape[1]):
            made[:, d] = rng.permutation(made[:, d])
    else:
        for d, size in enumerate(SIZES):
            made[:, d] = rng.integers(0, size, len(made))
    return made


def count(
    codes: np.ndarray,
    sigma: float,
    rng: np.random.Generator,
    *,
    sizes: tuple[int, ...] = SIZES,
    pairs: bool = True,
) -> list[Table]:
    """Noisy counts of every column, and of the first with every other."""
    keys: list[tuple[int, ...]] = [(d,) for d in range(len(sizes))]
    if pairs:
        keys += [(0, d) for d in range(1, len(sizes))]
    return [table(codes, key, sigma, rng, sizes=sizes) for key in keys]


def table(
    codes: np.ndarray,
    key: tuple[int, ...],
    sigma: float,
    rng: np.random.Generator,
    *,
    sizes: tuple[int, ...] = SIZES,
) -> Table:
    shape = tuple(sizes[d] for d in key)
    counts = np.zeros(shape)
    np.add.at(counts, tuple(codes[:, d] for d in key), 1.0)
    if sigma:
        counts = counts + np.rint(rng.normal(0, sigma, shape))
    return Table(key, counts, sigma**2)


def release(
    device: str, round_number: int, codes: np.ndarray, sigma: float, rng: np.random.Generator,
    **how: object,
) -> DeviceCounts:  # fmt: skip
    made = count(codes, sigma, rng, **how)  # type: ignore[arg-type]
    return DeviceCounts(device, round_number, {t.columns: t.counts for t in made}, sigma)
