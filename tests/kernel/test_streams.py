from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edge_runtime import kernel
from edge_runtime.errors import KernelError
from edge_runtime.kernel import reference
from edge_runtime.kernel._call import ffi, lib

KEY = bytes(range(32))
FILLS = {
    "uniform": kernel.fill_uniform,
    "normal": kernel.fill_normal,
    "exponential": kernel.fill_exponential,
}
# Eight tests of fit with fixed seeds below: together they reject a right kernel once in a hundred.
ALPHA = 0.01 / 8


def test_published_chacha_vectors(vectors: Callable[[str], Iterator[object]]) -> None:
    seen = set()
    for line in vectors("chacha.txt"):
        rounds, key = line.integer(), bytes.fromhex(line.text())
        counter, nonce, want = line.integer(), line.integer(), bytes.fromhex(line.text())
        out = ffi.new("uint32_t[16]")
        assert lib.er_chacha_block(out, key, len(key), counter, nonce, rounds) == lib.ER_OK
        assert np.array(list(out), "<u4").tobytes() == want
        plain = reference.chacha_block(key, counter, nonce, rounds)
        assert np.array(plain, "<u4").tobytes() == want
        seen.add(rounds)
    assert seen == {8, 20}


def test_known_answers(vectors: Callable[[str], Iterator[object]]) -> None:
    for line in vectors("streams.txt"):
        fill, key = FILLS[line.text()], bytes.fromhex(line.text())
        stream, offset, n = line.integers(3)
        out = np.empty(n, np.float32)
        fill(out, key=key, stream=stream, offset=offset)
        assert out.tobytes() == line.floats(n, np.float32).tobytes()
        assert line.done()


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(FILLS)),
    key=st.binary(min_size=32, max_size=32),
    stream=st.integers(0, 2**56 - 1),
    offset=st.integers(0, 2**60),
    n=st.integers(0, 600),
)
def test_reference_bit_for_bit(name: str, key: bytes, stream: int, offset: int, n: int) -> None:
    out = np.empty(n, np.float32)
    FILLS[name](out, key=key, stream=stream, offset=offset)
    plain = getattr(reference, name)(key, stream, offset, n)
    assert out.tobytes() == plain.tobytes()


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(FILLS)),
    offset=st.integers(0, 5000),
    n=st.integers(1, 3000),
    cuts=st.lists(st.integers(0, 3000), max_size=6),
)
def test_splitting_changes_nothing(name: str, offset: int, n: int, cuts: list[int]) -> None:
    whole, parts = np.empty(n, np.float32), np.empty(n, np.float32)
    FILLS[name](whole, key=KEY, stream=4, offset=offset)
    edges = sorted({0, n, *(cut for cut in cuts if cut < n)})
    for first, last in pairwise(edges):
        FILLS[name](parts[first:last], key=KEY, stream=4, offset=offset + first)
    assert whole.tobytes() == parts.tobytes()


def test_keys_streams_and_uses_are_unrelated() -> None:
    outs = []
    other = bytes([*KEY[:31], KEY[31] ^ 1])
    for key, stream in ((KEY, 0), (KEY, 1), (other, 0)):
        out = np.empty(100_000, np.float32)
        kernel.fill_uniform(out, key=key, stream=stream)
        outs.append(out)
    normal = np.empty(100_000, np.float32)
    kernel.fill_normal(normal, key=KEY, stream=0)
    outs.append(normal)
    correlations = np.abs(np.corrcoef(outs) - np.eye(4))
    assert correlations.max() < 5 / np.sqrt(100_000)


def test_uniform_fit() -> None:
    u = np.empty(1_000_000, np.float32)
    kernel.fill_uniform(u, key=KEY, stream=11)
    assert u.min() >= 0.0
    assert u.max() < 1.0
    cells = np.bincount((u * 1024).astype(int), minlength=1024)
    assert stats.chisquare(cells).pvalue > ALPHA
    low_bits = np.bincount((u * 2**24).astype(np.int64) % 256, minlength=256)
    assert stats.chisquare(low_bits).pvalue > ALPHA
    coarse = (u * 32).astype(int)
    serial = np.bincount(coarse[:-1:2] * 32 + coarse[1::2], minlength=1024)
    assert stats.chisquare(serial).pvalue > ALPHA
    # words of one block lie 16 apart, blocks of one lane are neighbours
    apart = np.bincount(coarse[:-16] * 32 + coarse[16:], minlength=1024)[:1024]
    expected = len(u) / 1024
    assert abs(apart.mean() - expected) < 0.1
    assert stats.chisquare(apart).pvalue > ALPHA


def test_normal_fit() -> None:
    x = np.empty(1_000_000, np.float32)
    kernel.fill_normal(x, key=KEY, stream=12)
    edges = [NormalDist().inv_cdf(i / 512) for i in range(1, 512)]
    cells = np.bincount(np.searchsorted(edges, x), minlength=512)
    assert stats.chisquare(cells).pvalue > ALPHA
    # the two halves of a group are sine and cosine of the same radius: no correlation of squares
    groups = x[: len(x) // 256 * 256].reshape(-1, 2, 128).astype(np.float64)
    pairs = np.corrcoef(groups[:, 0].ravel() ** 2, groups[:, 1].ravel() ** 2)[0, 1]
    assert 2 * NormalDist().cdf(-abs(pairs) * np.sqrt(len(x) / 2)) > ALPHA
    z = x.astype(np.float64)
    deviation = abs((z**4).mean() - 3.0) / np.sqrt(96.0 / len(z))
    assert 2 * NormalDist().cdf(-deviation) > ALPHA
    assert 4.0 < np.abs(z).max() < 6.8


def test_normal_accuracy_against_float64() -> None:
    words = np.arange(0, 2**32, 65_537, dtype=np.uint64)
    x0 = words.astype(np.uint32)
    u = ((x0 >> 1).astype(np.float64) + 0.5) * 2.0**-31
    got = reference._minus_log_uniform(x0).astype(np.float64)
    exact = np.where(u < 0.5, -np.log(u), -np.log1p(-((~x0 >> 1).astype(np.float64) + 0.5) / 2**31))
    assert np.max(np.abs(got - exact) / exact) < 3e-7


@pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS)
@pytest.mark.parametrize(
    ("out", "changes"),
    [
        (np.empty(4, np.float64), {}),
        (np.empty((2, 2), np.float32), {}),
        (np.empty(8, np.float32)[::2], {}),
        ([0.0], {}),
        (np.empty(4, np.float32), {"key": b"short"}),
        (np.empty(4, np.float32), {"key": "x" * 32}),
        (np.empty(4, np.float32), {"stream": -1}),
        (np.empty(4, np.float32), {"stream": 2**56}),
        (np.empty(4, np.float32), {"offset": -1}),
        (np.empty(4, np.float32), {"offset": 2**60 + 1}),
    ],
)
def test_refusals(fill: Callable[..., None], out: np.ndarray, changes: dict[str, object]) -> None:
    with pytest.raises(KernelError):
        fill(out, **{"key": KEY, "stream": 0, "offset": 0, **changes})


def test_a_read_only_array_is_refused() -> None:
    out = np.empty(4, np.float32)
    out.flags.writeable = False
    with pytest.raises(KernelError, match="writable"):
        kernel.fill_uniform(out, key=KEY, stream=0)
