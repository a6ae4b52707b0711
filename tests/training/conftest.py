from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edge_runtime.generator.layout import Layout, Weights
from edge_runtime.privacy import Entry, Ledger

CARDINALITIES = (3, 5, 2, 7, 4)


def random_weights(layout: Layout, seed: int, scale: float = 0.7) -> Weights:
    """Weights of a trained network's size: nothing is zero that need not be."""
    rng = np.random.default_rng(seed)
    v, h = layout.width, layout.hidden
    shapes = ((v, h), (h,), (h, h), (h,), (h, v), (v,))
    tensors = (rng.normal(0.0, scale, shape).astype(np.float32) for shape in shapes)
    return layout.mask(Weights(*tensors))


def random_codes(layout: Layout, rows: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    columns = [rng.integers(0, k, rows) for k in layout.cardinalities]
    return np.ascontiguousarray(np.stack(columns, axis=1).astype(np.int32))


def chained_codes(layout: Layout, rows: int, seed: int) -> np.ndarray:
    """Rows whose columns depend on each other: a column repeats the last one's code mostly."""
    codes = random_codes(layout, rows, seed)
    rng = np.random.default_rng(seed + 1)
    for d in range(1, layout.columns):
        follow = rng.random(rows) < 0.8
        codes[follow, d] = codes[follow, d - 1] % layout.cardinalities[d]
    return codes


def row_gradient(weights: Weights, layout: Layout, row: np.ndarray) -> tuple[Weights, float]:
    """One row's gradient and loss in float64, written down layer by layer."""
    w1, b1, w2, b2, w3, b3 = (np.asarray(t, np.float64) for t in weights)
    m1, m2, m3 = layout.masks
    x = np.zeros(layout.width)
    x[row + np.array(layout.offsets[:-1])] = 1.0
    z1 = x @ w1 + b1
    h1 = np.maximum(z1, 0.0)
    z2 = h1 @ w2 + b2
    h2 = np.maximum(z2, 0.0) + h1
    logits = h2 @ w3 + b3
    g3 = np.zeros(layout.width)
    loss = 0.0
    for d, (a, b) in enumerate(zip(layout.offsets, layout.offsets[1:], strict=False)):
        block = logits[a:b] - logits[a:b].max()
        shares = np.exp(block) / np.exp(block).sum()
        g3[a:b] = shares
        g3[a + row[d]] -= 1.0
        loss -= block[row[d]] - np.log(np.exp(block).sum())
    back = w3 @ g3
    g2 = back * (z2 > 0)
    g1 = (w2 @ g2 + back) * (z1 > 0)
    tensors = (
        np.outer(x, g1) * m1,
        g1,
        np.outer(h1, g2) * m2,
        g2,
        np.outer(h2, g3) * m3,
        g3,
    )
    return Weights(*tensors), loss


def flat64(tensors) -> np.ndarray:
    return np.concatenate([np.asarray(t, np.float64).ravel() for t in tensors])


def clipped_sum(weights, layout, codes, clip_norm) -> tuple[np.ndarray, np.ndarray]:
    """Sum of clipped gradients and all norms, row by row in float64."""
    total = flat64(weights) * 0.0
    norms = []
    for row in codes:
        gradient = flat64(row_gradient(weights, layout, row)[0])
        norm = float(np.linalg.norm(gradient))
        norms.append(norm)
        total += gradient * min(1.0, clip_norm / norm) if norm > 0 else 0.0
    return total, np.array(norms)


@pytest.fixture
def layout() -> Layout:
    return Layout(CARDINALITIES, 24)


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    yield Ledger(connection, epsilon_limit=None, delta=1e-5)
    connection.close()


@pytest.fixture
def free(ledger: Ledger) -> Entry:
    """An entry that covers everything, for tests of something else."""
    return ledger.spend(key="free", what="test", rdp=None, details={})


@pytest.fixture
def pay(ledger: Ledger) -> Callable[..., Entry]:
    def payer(cost, key="training") -> Entry:
        return ledger.spend(key=key, what="training", rdp=cost, details={})

    return payer
