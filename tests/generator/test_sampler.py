from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import EngineError, KernelError
from edge_runtime.generator import Layout, quantize, sample_codes
from edge_runtime.generator.numpy_engine import NumpyEngine

from .conftest import strong_weights

LAYOUT = Layout((3, 4, 5), 8)
ENGINE = NumpyEngine(
    quantize(strong_weights(LAYOUT), LAYOUT, calibration_rows=64).tensors, layout=LAYOUT
)
KEY = bytes(range(32))
WHOLE = sample_codes(ENGINE, 200, key=KEY, stream=5)


@settings(deadline=None)
@given(st.integers(0, 199), st.integers(0, 200), st.integers(1, 250))
def test_rows_do_not_depend_on_how_they_are_cut(start: int, rows: int, batch: int) -> None:
    rows = min(rows, 200 - start)
    part = sample_codes(ENGINE, rows, key=KEY, stream=5, offset=start, batch=batch)
    np.testing.assert_array_equal(part, WHOLE[start : start + rows])
    assert part.dtype == np.int32
    assert part.flags.c_contiguous


def test_streams_and_keys_are_independent() -> None:
    assert (sample_codes(ENGINE, 200, key=KEY, stream=6) != WHOLE).any(axis=1).mean() > 0.5
    assert (sample_codes(ENGINE, 200, key=bytes(32), stream=5) != WHOLE).any(axis=1).mean() > 0.5


def test_clamped_leading_columns_are_kept_and_followed() -> None:
    first = (np.arange(200) % 3).astype(np.int32)
    one = sample_codes(ENGINE, 200, key=KEY, clamp={0: first}, batch=7)
    np.testing.assert_array_equal(one[:, 0], first)
    second = np.full(200, 3, np.int32)
    two = sample_codes(ENGINE, 200, key=KEY, clamp={0: first, 1: second})
    np.testing.assert_array_equal(two[:, :2], np.stack([first, second], axis=1))
    assert len(np.unique(two[:, 2])) > 1


def test_clamped_rows_follow_the_conditional_distribution() -> None:
    """Clamping the first column equals rejecting rows that do not have the code."""
    free = sample_codes(ENGINE, 60_000, key=KEY)
    chosen = free[free[:, 0] == 2]
    clamped = sample_codes(
        ENGINE, len(chosen), key=KEY, stream=1, clamp={0: np.full(len(chosen), 2, np.int32)}
    )
    assert len(chosen) > 2000
    for column in (1, 2):
        p, q = (
            np.bincount(c[:, column], minlength=LAYOUT.cardinalities[column]) / len(chosen)
            for c in (chosen, clamped)
        )
        assert np.abs(p - q).max() < 4 * np.sqrt(0.5 / len(chosen))


@pytest.mark.parametrize(
    ("clamp", "words"),
    [
        ({1: np.zeros(4, np.int32)}, "columns .1. cannot be clamped"),
        ({0: np.zeros(4, np.int32), 2: np.zeros(4, np.int32)}, "columns .0, 2. cannot"),
        ({i: np.zeros(4, np.int32) for i in range(4)}, "cannot be clamped"),
        ({0: np.zeros(5, np.int32)}, "column 0 must be 4 integers"),
        ({0: np.zeros(4, np.float32)}, "column 0 must be 4 integers"),
        ({0: np.full(4, 3, np.int32)}, "column 0 must lie in 0..2"),
        ({0: np.full(4, -1, np.int32)}, "column 0 must lie in 0..2"),
    ],
)
def test_impossible_clamps_are_refused(clamp: dict[int, np.ndarray], words: str) -> None:
    with pytest.raises(EngineError, match=words):
        sample_codes(ENGINE, 4, key=KEY, clamp=clamp)


def test_impossible_sizes_and_keys_are_refused() -> None:
    for arguments in ({"rows": -1}, {"rows": 1, "offset": -1}, {"rows": 1, "batch": 0}):
        with pytest.raises(EngineError, match="cannot draw"):
            sample_codes(ENGINE, key=KEY, **arguments)
    with pytest.raises(KernelError):
        sample_codes(ENGINE, 1, key=b"short")
    assert sample_codes(ENGINE, 0, key=KEY).shape == (0, 3)
