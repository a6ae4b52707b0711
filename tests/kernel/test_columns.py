from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_runtime import kernel
from edge_runtime.errors import KernelError
from edge_runtime.kernel import reference

TYPES = {"f64": np.float64, "f32": np.float32, "i64": np.int64}


def test_known_answers(vectors: Callable[[str], Iterator[object]]) -> None:
    seen = set()
    for line in vectors("columns.txt"):
        use = line.text()
        seen.add(use)
        if use == "pairs":
            ka, kb, n = line.integers(3)
            a, b = (np.array(line.integers(n), np.int32) for _ in range(2))
            want = np.array(line.integers(ka * kb)).reshape(ka, kb)
            assert (kernel.count_pairs(a, b, ka, kb) == want).all()
            assert (kernel.count_codes(a, ka) == want.sum(axis=1)).all()
            continue
        if use == "bits":
            width, n = line.integers(2)
            codes, packed = np.array(line.integers(n), np.int32), bytes.fromhex(line.text())
            assert kernel.pack_bits(codes, width).tobytes() == packed
            back = kernel.unpack_bits(np.frombuffer(packed, np.uint8), n, width)
            assert (back == codes).all()
            continue
        grid = line.integers(3) if use == "grid" else None
        decimals, bins, per_bin = line.integers(3)
        knots = line.floats(bins * per_bin, np.float64).reshape(bins, per_bin)
        n = line.integer()
        codes, u = np.array(line.integers(n), np.int32), line.floats(n, np.float32)
        dtype = np.int64 if use == "grid" else TYPES[use]
        want = np.array(line.integers(n)) if dtype is np.int64 else line.floats(n, dtype)
        out = np.empty(n, dtype)
        places = None if decimals == 127 or use == "i64" else decimals
        if grid is not None:
            origin, step, missing = grid
            kernel.decode_timestamp(codes, u, knots, out, origin=origin, step=step, missing=missing)
            assert (out == want).all()
            continue
        kernel.decode_linear(codes, u, knots, out, decimals=places)
        np.testing.assert_array_equal(out, want)
        assert line.done()
    assert seen == {"f64", "f32", "i64", "grid", "pairs", "bits"}


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_decoding_is_the_reference_and_stays_inside_the_bin(data: st.DataObject) -> None:
    bins, per_bin = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 9))
    size = data.draw(st.sampled_from([1e-3, 1.0, 1e6, 1e15]))
    shape = (bins, per_bin)
    knots = np.sort(data.draw(hnp.arrays(np.float64, shape, elements=st.floats(-size, size))))
    n = data.draw(st.integers(0, 20))
    codes = data.draw(hnp.arrays(np.int32, n, elements=st.integers(0, bins)))
    units = st.one_of(st.floats(0, 1, width=32, exclude_max=True), st.just(float(1 - 2**-24)))
    u = data.draw(hnp.arrays(np.float32, n, elements=units))
    dtype = data.draw(st.sampled_from(sorted(TYPES)))
    decimals = None if dtype == "i64" else data.draw(st.none() | st.integers(-15, 15))
    out = np.empty(n, TYPES[dtype])
    kernel.decode_linear(codes, u, knots, out, decimals=decimals)
    plain = reference.decode_linear(codes, u, knots, TYPES[dtype], decimals)
    np.testing.assert_array_equal(out, plain)
    known = codes < bins
    if dtype == "f64":
        assert np.isnan(out[~known]).all()
        assert (out[known] >= knots[codes[known], 0]).all()
        assert (out[known] <= knots[codes[known], -1]).all()
    if dtype == "i64":
        low, high = np.ceil(knots[codes[known], 0]), np.floor(knots[codes[known], -1])
        inside = low <= high
        assert (out[~known] == 0).all()
        assert (out[known][inside] >= low[inside]).all()
        assert (out[known][inside] <= high[inside]).all()


def test_half_goes_to_even_and_decimals_are_the_nearest_double() -> None:
    codes, u = np.zeros(4, np.int32), np.array([0.0, 0.25, 0.5, 0.75], np.float32)
    whole = np.empty(4, np.int64)
    kernel.decode_linear(codes, u, np.array([[0.5, 4.5]]), whole)
    assert whole.tolist() == [1, 2, 2, 4]  # .5 to 1 (the bin starts there), 1.5, 2.5, 3.5
    tenths = np.empty(4, np.float64)
    kernel.decode_linear(codes, u, np.array([[0.1, 0.5]]), tenths, decimals=1)
    assert tenths.tolist() == [0.1, 0.2, 0.3, 0.4]
    tens = np.empty(4, np.float64)
    kernel.decode_linear(codes, u, np.array([[0.0, 80.0]]), tens, decimals=-1)
    assert tens.tolist() == [0.0, 20.0, 40.0, 60.0]


def test_columns_of_a_table_are_read_in_place_or_copied() -> None:
    table = np.arange(60, dtype=np.int32).reshape(20, 3) % 5
    units = np.linspace(0, 0.99, 60, dtype=np.float32).reshape(20, 3)
    knots = np.arange(10.0).reshape(5, 2)
    want, got = np.empty(20), np.empty(20)
    column, unit = table[:, 1], units[:, 2]
    kernel.decode_linear(column.copy(), unit.copy(), knots, want)
    kernel.decode_linear(column, unit, knots, got)
    assert (want == got).all()
    kernel.decode_linear(column[::-1], unit[::-1], np.asfortranarray(knots), got)
    assert (want[::-1] == got).all()
    repeated = np.broadcast_to(np.int32(3), 20)
    assert kernel.count_codes(repeated, 5).tolist() == [0, 0, 0, 20, 0]


@settings(max_examples=60, deadline=None)
@given(
    ka=st.integers(1, 40), kb=st.integers(1, 40), n=st.integers(0, 200), seed=st.integers(0, 2**32)
)
def test_counts_are_the_reference(ka: int, kb: int, n: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    table = np.empty((n, 2), np.int32)
    table[:, 0], table[:, 1] = random.integers(0, ka, n), random.integers(0, kb, n)
    a, b = table[:, 0], table[:, 1]
    pairs = kernel.count_pairs(a, b, ka, kb)
    assert (pairs == reference.count_pairs(a, b, ka, kb)).all()
    assert (kernel.count_codes(a, ka) == reference.count_codes(a, ka)).all()
    assert (pairs.sum(axis=0) == kernel.count_codes(b, kb)).all()


CODES, UNITS, KNOTS = (
    np.array([0, 1], np.int32),
    np.array([0.0, 0.5], np.float32),
    np.array([[0.0, 1.0], [2.0, 3.0]]),
)


@pytest.mark.parametrize(
    ("codes", "u", "knots", "decimals"),
    [
        (np.array([0, 3], np.int32), UNITS, KNOTS, None),
        (np.array([0, -1], np.int32), UNITS, KNOTS, None),
        (CODES.astype(np.int64), UNITS, KNOTS, None),
        (CODES[:1], UNITS, KNOTS, None),
        (CODES, np.array([0.0, 1.0], np.float32), KNOTS, None),
        (CODES, np.array([0.0, np.nan], np.float32), KNOTS, None),
        (CODES, UNITS[:1], KNOTS, None),
        (CODES, UNITS, KNOTS[::-1, ::-1], None),
        (CODES, UNITS, np.array([[0.0, np.inf]]), None),
        (CODES, UNITS, np.array([[-1e308, 1e308]]), None),
        (CODES, UNITS, KNOTS.astype(np.float32), None),
        (CODES, UNITS, KNOTS[0], None),
        (CODES, UNITS, np.empty((0, 2)), None),
        (CODES, UNITS, np.empty((2, 0)), None),
        (CODES, UNITS, KNOTS, 16),
        (CODES, UNITS, KNOTS, -16),
    ],
)
@pytest.mark.parametrize("dtype", TYPES.values(), ids=TYPES)
def test_decoding_refuses(
    codes: np.ndarray, u: np.ndarray, knots: np.ndarray, decimals: int | None, dtype: type
) -> None:
    with pytest.raises(KernelError):
        kernel.decode_linear(codes, u, knots, np.empty(2, dtype), decimals=decimals)


def test_integers_beyond_64_bits_are_refused() -> None:
    out = np.empty(2, np.int64)
    with pytest.raises(KernelError):
        kernel.decode_linear(CODES, UNITS, np.array([[0.0, 1e19], [1e19, 1e19]]), out)


@pytest.mark.parametrize(
    ("a", "b", "ka", "kb"),
    [
        (np.array([0, 2], np.int32), CODES, 2, 2),
        (CODES, np.array([-1, 0], np.int32), 2, 2),
        (CODES, CODES[:1], 2, 2),
        (CODES, CODES, 0, 2),
        (CODES, CODES, 2, -2),
        (CODES, CODES, 2**13, 2**13),
        (CODES.astype(np.int16), CODES, 2, 2),
    ],
)
def test_counting_refuses(a: np.ndarray, b: np.ndarray, ka: int, kb: int) -> None:
    with pytest.raises(KernelError):
        kernel.count_pairs(a, b, ka, kb)


@pytest.mark.parametrize("cardinality", [0, -1, 1, 2**24 + 1])
def test_counting_codes_refuses(cardinality: int) -> None:
    with pytest.raises(KernelError):
        kernel.count_codes(CODES, cardinality)
