"""Codes from logits, timestamps, bits, prepared fills and threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from edge_runtime import kernel
from edge_runtime.errors import KernelError
from edge_runtime.kernel import reference_rows

KEY = bytes(range(32))
ONE_LESS = np.float32(1.0 - 2.0**-24)
NAT = -(2**63)


def test_known_answers(vectors: Callable[[str], Iterator[object]]) -> None:
    seen = 0
    for line in vectors("categorical.txt"):
        temperature = float(line.floats(1, np.float32)[0])
        rows, columns = line.integers(2)
        widths = line.integers(columns)
        logits = line.floats(rows * sum(widths), np.float32).reshape(rows, -1)
        u = line.floats(rows * columns, np.float32).reshape(rows, columns)
        want = np.array(line.integers(rows * columns)).reshape(rows, columns)
        got = kernel.categorical(logits, u, widths, temperature=temperature)
        assert (got == want).all()
        assert line.done()
        seen += 1
    assert seen > 0


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_codes_are_the_references(data: st.DataObject) -> None:
    widths = data.draw(st.lists(st.integers(1, 9) | st.integers(255, 258), min_size=1, max_size=4))
    rows = data.draw(st.integers(0, 35))
    seed = data.draw(st.integers(0, 2**32))
    scale = data.draw(st.sampled_from([0.0, 1.0, 30.0, 1e30]))
    random = np.random.default_rng(seed)
    logits = (random.normal(size=(rows, sum(widths))) * scale).astype(np.float32)
    starts = np.cumsum([0, *widths[:-1]])
    ruled_out = random.random(logits.shape) < 0.3
    ruled_out[:, starts] = False
    logits[ruled_out] = -np.inf
    u = random.choice(np.float32([0.0, 0.25, 0.5, ONE_LESS]), size=(rows, len(widths)))
    u = np.where(random.random(u.shape) < 0.5, random.random(u.shape, np.float32), u)
    temperature = data.draw(st.sampled_from([1.0, 0.1, 7.0]))
    got = kernel.categorical(logits, u, widths, temperature=temperature)
    plain = reference_rows.categorical(logits, u, widths, temperature)
    assert (got == plain).all()
    for column, (start, width) in enumerate(zip(starts, widths, strict=True)):
        codes = got[:, column]
        assert ((codes >= 0) & (codes < width)).all()
        assert not ruled_out[np.arange(rows), start + codes].any()


def test_the_rounding_tail_never_draws_a_category_without_weight() -> None:
    # u = 1 - 2^-24 times a total of many equal weights rounds up to the total itself
    for weights in range(2, 300):
        logits = np.full((1, weights + 5), -np.inf, np.float32)
        logits[0, :weights] = 0.0
        code = kernel.categorical(logits, np.full((1, 1), ONE_LESS), [weights + 5])
        assert code[0, 0] == weights - 1
    logits = np.float32([[-np.inf, -np.inf, 0.0]])
    assert kernel.categorical(logits, np.zeros((1, 1), np.float32), [3])[0, 0] == 2


def test_exponential_of_is_accurate() -> None:
    x = -np.arange(0, 87, 1e-4, dtype=np.float32)
    got = reference_rows.exponential_of(x).astype(np.float64)
    exact = np.exp(x.astype(np.float64))
    assert np.abs(got / exact - 1).max() < 2.0**-22
    assert (reference_rows.exponential_of(np.float32([-87.1, -1e30, -np.inf])) == 0).all()


# Eight chi-square tests with a fixed key: together they reject a right kernel once in a hundred.
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 10.0])
@pytest.mark.parametrize("width", [2, 37])
def test_categories_fit(temperature: float, width: int) -> None:
    rows = 200_000
    logits = np.linspace(-2.0, 1.5, width, dtype=np.float32)
    u = np.empty((rows, 1), np.float32)
    kernel.fill_uniform(u[:, 0], key=KEY, stream=width)
    codes = kernel.categorical(np.tile(logits, (rows, 1)), u, [width], temperature=temperature)
    p = np.exp(logits.astype(np.float64) / temperature)
    counts = np.bincount(codes[:, 0], minlength=width)
    assert stats.chisquare(counts, p / p.sum() * rows).pvalue > 0.01 / 8


def test_layouts_are_read_in_place_or_copied_and_threads_change_nothing() -> None:
    random = np.random.default_rng(2)
    wide = random.normal(size=(6000, 40)).astype(np.float32)
    u = random.random((6000, 5), dtype=np.float32)
    view, part = wide[:, 3:23], u[:, 1:3]
    plain = kernel.categorical(view.copy(), part.copy(), [11, 9])
    assert (kernel.categorical(view, part, [11, 9]) == plain).all()
    assert (kernel.categorical(view[::-1], part[::-1], [11, 9])[::-1] == plain).all()
    assert (kernel.categorical(np.asfortranarray(view), part, [11, 9]) == plain).all()
    table = np.full((6000, 4), -1, np.int32)
    for threads in (1, 2, 5):
        table[:] = -1
        kernel.categorical(view, part, [11, 9], out=table[:, 1:3], threads=threads)
        assert (table[:, 1:3] == plain).all()
        assert (table[:, [0, 3]] == -1).all()
    assert kernel.categorical(view[:0], part[:0], [11, 9]).shape == (0, 2)
    assert (kernel.categorical(view[:1], part[:1], [11, 9]) == plain[:1]).all()


L, U = np.zeros((2, 5), np.float32), np.full((2, 2), 0.5, np.float32)


def changed(array: np.ndarray, value: float) -> np.ndarray:
    array = array.copy()
    array[1, -1] = value
    return array


@pytest.mark.parametrize(
    ("logits", "u", "widths", "options"),
    [
        (changed(L, np.nan), U, [2, 3], {}),
        (changed(L, np.inf), U, [2, 3], {}),
        (np.full((2, 5), -np.inf, np.float32), U, [2, 3], {}),
        (L, changed(U, -0.1), [2, 3], {}),
        (L, changed(U, np.nan), [2, 3], {}),
        (L, changed(U, 4.0), [2, 3], {}),
        (L, changed(U, np.inf), [2, 3], {}),
        (L, U[:1], [2, 3], {}),
        (L, U, [2, 4], {}),
        (L, U, [5, 0], {}),
        (L, U, [], {}),
        (L, U, [2.0, 3.0], {}),
        (L, U, [2**25, 3], {}),
        (L.astype(np.float64), U, [2, 3], {}),
        (L[0], U, [2, 3], {}),
        (L, U, [2, 3], {"temperature": 0.0}),
        (L, U, [2, 3], {"temperature": float("nan")}),
        (L, U, [2, 3], {"threads": 0}),
        (L, U, [2, 3], {"threads": 257}),
        (L, U, [2, 3], {"out": np.empty((2, 3), np.int32)}),
        (L, U, [2, 3], {"out": np.empty((2, 2), np.int64)}),
        (L, U, [2, 3], {"out": np.empty((2, 4), np.int32)[:, ::2]}),
    ],
)
def test_categorical_refuses(
    logits: np.ndarray, u: np.ndarray, widths: list[int], options: dict[str, object]
) -> None:
    with pytest.raises(KernelError):
        kernel.categorical(logits, u, widths, **options)


def test_an_error_in_any_thread_is_reported() -> None:
    logits, u = np.zeros((9000, 2), np.float32), np.zeros((9000, 1), np.float32)
    logits[8999, 1] = np.nan
    with pytest.raises(KernelError, match="not finite"):
        kernel.categorical(logits, u, [2], threads=4)


# ---- timestamps ----


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_timestamps_are_the_references(data: st.DataObject) -> None:
    bins, per_bin = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    elements = st.floats(-1e9, 1e9)
    knots = np.sort(data.draw(hnp.arrays(np.float64, (bins, per_bin), elements=elements)))
    n = data.draw(st.integers(0, 300))
    random = np.random.default_rng(n)
    codes = random.integers(0, bins + 1, n).astype(np.int32)
    u = random.random(n, dtype=np.float32)
    grid = {
        "origin": data.draw(st.integers(-(2**60), 2**60)),
        "step": data.draw(st.integers(1, 2**30)),
        "missing": data.draw(st.sampled_from([NAT, 0, 7])),
    }
    out = np.empty(n, np.int64)
    kernel.decode_timestamp(codes, u, knots, out, **grid)
    assert (out == reference_rows.decode_timestamp(codes, u, knots, **grid)).all()


def test_timestamps_are_exact_whatever_the_date() -> None:
    out = np.empty(3, "datetime64[us]")
    codes, u = np.array([0, 1, 2], np.int32), np.zeros(3, np.float32)
    # 2250-01-01: its microseconds need more bits than a float64 has
    origin = int(np.datetime64("2250-01-01T00:00:00.000001", "us").astype(np.int64))
    knots = np.array([[0.0], [86_400.0]])
    kernel.decode_timestamp(codes, u, knots, out, origin=origin, step=1_000_000)
    assert str(out[0]) == "2250-01-01T00:00:00.000001"
    assert str(out[1]) == "2250-01-02T00:00:00.000001"
    assert np.isnat(out[2])


@pytest.mark.parametrize(
    "changes",
    [
        {"step": 0},
        {"step": -1},
        {"step": 2**63},
        {"origin": 2**63},
        {"origin": 2**63 - 3},
        {"step": 2**62},
        {"out": np.empty(2, np.int32)},
        {"out": np.empty(3, np.int64)},
        {"knots": np.zeros(2)},
        {"knots": np.array([[1.0, 0.0]])},
        {"codes": np.array([0, 2], np.int32)},
    ],
)
def test_timestamps_refuse(changes: dict[str, object]) -> None:
    arguments = {
        "codes": np.zeros(2, np.int32),
        "u": np.zeros(2, np.float32),
        "knots": np.array([[0.0, 5.0]]),
        "out": np.empty(2, np.int64),
    }
    with pytest.raises(KernelError):
        kernel.decode_timestamp(**{**arguments, **changes})


# ---- bits ----


@settings(max_examples=100, deadline=None)
@given(width=st.integers(1, 25), n=st.integers(0, 200), seed=st.integers(0, 2**32))
def test_bits_come_back_and_are_the_references(width: int, n: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 2**width, (n, 2)).astype(np.int32)[:, 1]
    packed = kernel.pack_bits(codes, width)
    assert packed.tobytes() == reference_rows.pack_bits(codes, width).tobytes()
    assert len(packed) == kernel.packed_bytes(n, width)
    packed.flags.writeable = False
    assert (kernel.unpack_bits(packed, n, width) == codes).all()
    assert (reference_rows.unpack_bits(packed, n, width) == codes).all()


def test_bits_refuse() -> None:
    codes = np.array([0, 8], np.int32)
    for bad, width in ((codes, 3), (-codes, 4), (codes, 0), (codes, 26), (codes[None], 4)):
        with pytest.raises(KernelError):
            kernel.pack_bits(bad, width)
    packed = kernel.pack_bits(codes, 4)
    assert kernel.unpack_bits(packed, 2, 4).tolist() == [0, 8]
    for data, n, width in (
        (packed, 3, 4),
        (packed, 1, 4),  # bits behind the last code are set
        (packed, 2, 0),
        (packed, -1, 4),
        (packed.astype(np.int32), 2, 4),
        (packed.tobytes(), 2, 4),
    ):
        with pytest.raises(KernelError):
            kernel.unpack_bits(data, n, width)


# ---- prepared fills and threads ----


@pytest.mark.parametrize("kind", ["uniform", "normal", "exponential"])
def test_prepared_fills_and_threads_give_the_same_numbers(kind: str) -> None:
    fill = getattr(kernel, f"fill_{kind}")
    out, plain = np.empty(700, np.float32), np.empty(700, np.float32)
    prepared = kernel.PreparedFill(kind, out, key=KEY, stream=9)
    for offset in (0, 700, 2**60):
        prepared(offset)
        fill(plain, key=KEY, stream=9, offset=offset)
        assert out.tobytes() == plain.tobytes()
    one, many = np.empty(2**20 + 77, np.float32), np.empty(2**20 + 77, np.float32)
    fill(one, key=KEY, stream=9, offset=5)
    fill(many, key=KEY, stream=9, offset=5, threads=3)
    assert one.tobytes() == many.tobytes()


def test_prepared_fills_refuse() -> None:
    out = np.empty(4, np.float32)
    with pytest.raises(KernelError, match="none of"):
        kernel.PreparedFill("cauchy", out, key=KEY, stream=0)
    with pytest.raises(KernelError):
        kernel.PreparedFill("normal", out.astype(np.float64), key=KEY, stream=0)
    prepared = kernel.PreparedFill("normal", out, key=KEY, stream=0)
    for offset in (-1, 2**60 + 1, 2**64, 0.5):
        with pytest.raises(KernelError, match="offset"):
            prepared(offset)
