"""What PrivacyNoise promises apart from its distributions: repeatability, secrecy, refusals."""

from __future__ import annotations

import copy
import math
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime import kernel
from edge_runtime.errors import KernelError
from edge_runtime.kernel import reference
from edge_runtime.kernel._call import check, lib, pointer

SEED = bytes(range(32))


def test_known_answers(vectors: Callable[[str], Iterator[object]]) -> None:
    seen = set()
    for line in vectors("noise.txt"):
        use, seed = line.text(), bytes.fromhex(line.text())
        noise = kernel.PrivacyNoise(seed)
        seen.add(use)
        if use == "training":
            clip_norm, noise_multiplier = line.floats(2, np.float64)
            n = line.integer()
            grad = line.floats(n, np.float32)
            mask = np.array(line.integers(n), np.uint8)
            noise.add_training_noise(
                grad, mask, clip_norm=clip_norm, noise_multiplier=noise_multiplier
            )
            assert grad.tobytes() == line.floats(n, np.float32).tobytes()
            continue
        p = line.floats(1, np.float64)[0] if use == "bernoulli" else 0.0
        sigma = Fraction(*line.integers(2)) if use in ("gaussian", "laplace") else Fraction(1)
        n = line.integer()
        want = line.integers(n)
        out = np.empty(n, {"uniform": np.uint64, "bernoulli": np.uint8}.get(use, np.int64))
        if use == "uniform":
            noise.uniform_u64(out)
        elif use == "bernoulli":
            noise.bernoulli(out, p=p)
        elif use == "gaussian":
            noise.discrete_gaussian(out, sigma=sigma)
        elif use == "laplace":
            noise.discrete_laplace(out, scale=sigma)
        else:
            function = {"base": lib.er_noise_base, "wide": lib.er_noise_wide}[use]
            check(function(noise._handle, pointer(out), n), use)
        assert out.tolist() == want
        assert line.done()
    assert seen == {"uniform", "bernoulli", "gaussian", "laplace", "base", "wide", "training"}


@settings(max_examples=40, deadline=None)
@given(
    numerator=st.integers(1, 2**44 - 1),
    denominator=st.integers(1, 2**20),
    seed=st.binary(min_size=32, max_size=32),
)
def test_the_exact_sampler_is_the_reference(numerator: int, denominator: int, seed: bytes) -> None:
    sigma = min(Fraction(numerator, denominator), Fraction(2**24))
    out = np.empty(12, np.int64)
    kernel.PrivacyNoise(seed).discrete_gaussian(out, sigma=sigma)
    plain = reference.ReferenceNoise(seed)
    want = [plain.discrete_gaussian(sigma.numerator, sigma.denominator) for _ in range(12)]
    assert out.tolist() == want


@settings(max_examples=300, deadline=None)
@given(st.floats(min_value=1e-9, max_value=2.0**24))
def test_a_float_sigma_is_rounded_up_a_little(sigma: float) -> None:
    fraction = kernel.sigma_fraction(sigma)
    assert fraction >= Fraction(sigma)
    assert fraction - Fraction(sigma) <= Fraction(max(sigma, 1.0)) / 2**20
    assert fraction.denominator <= 2**20
    assert fraction.denominator & (fraction.denominator - 1) == 0
    assert fraction <= 2**24


def test_two_objects_never_agree_and_one_never_repeats() -> None:
    first, second = np.empty(1000, np.uint64), np.empty(1000, np.uint64)
    noise = kernel.PrivacyNoise()
    noise.uniform_u64(first)
    kernel.PrivacyNoise().uniform_u64(second)
    assert not np.isin(first, second).any()
    noise.uniform_u64(second)
    assert not np.isin(first, second).any()


@pytest.mark.parametrize("seed", [None, SEED])
def test_a_forked_child_has_noise_of_its_own_unless_seeded(seed: bytes | None) -> None:
    noise = kernel.PrivacyNoise(seed)
    reader, writer = os.pipe()
    noise._lock.acquire()  # as another thread would hold it at the moment of the fork
    child = os.fork()
    if child == 0:  # pragma: no cover - in the child, which coverage does not see
        out = np.empty(100, np.uint64)
        noise.uniform_u64(out)
        os.write(writer, out.tobytes())
        os._exit(0)
    noise._lock.release()
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        theirs = np.frombuffer(pipe.read(), np.uint64)
    assert os.waitpid(child, 0)[1] == 0
    ours = np.empty(100, np.uint64)
    noise.uniform_u64(ours)
    assert theirs.size == 100
    assert bool((ours == theirs).any()) == (seed is not None)


def test_a_fork_is_noticed_by_the_process_number() -> None:
    seeded, fresh = kernel.PrivacyNoise(SEED), kernel.PrivacyNoise()
    handles = seeded._handle, fresh._handle
    seeded._process = fresh._process = -1
    seeded.uniform_u64(np.empty(1, np.uint64))
    fresh.uniform_u64(np.empty(1, np.uint64))
    assert seeded._handle is handles[0]
    assert fresh._handle is not handles[1]


def test_threads_share_one_stream_without_repeating() -> None:
    noise, outs = kernel.PrivacyNoise(SEED), [np.empty(20_000, np.uint64) for _ in range(4)]
    threads = [threading.Thread(target=noise.uniform_u64, args=(out,)) for out in outs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert len(set(np.concatenate(outs).tolist())) == 80_000


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps])
def test_noise_cannot_be_copied(way: Callable[[object], object]) -> None:
    with pytest.raises(KernelError, match="repeated"):
        way(kernel.PrivacyNoise(SEED))


def test_rounding_then_noise_is_on_the_grid_and_masked() -> None:
    grad = np.linspace(-3, 3, 2000, dtype=np.float32)
    mask = (np.arange(2000) % 3 != 0).astype(np.uint8)
    noisy = grad.copy()
    kernel.PrivacyNoise(SEED).add_training_noise(noisy, mask, clip_norm=0.5, noise_multiplier=2.0)
    grid = 2.0 * 0.5 / kernel.TRAINING_SIGMA_INT
    steps = noisy.astype(np.float64) / grid
    assert (np.abs(steps - np.rint(steps)) < 1e-6).all()
    assert (noisy[mask == 0] == 0).all()
    assert (noisy[mask == 1] != grad[mask == 1]).mean() > 0.99
    without, everywhere = grad.copy(), grad.copy()
    kernel.PrivacyNoise(SEED).add_training_noise(without, clip_norm=0.5, noise_multiplier=2.0)
    kernel.PrivacyNoise(SEED).add_training_noise(
        everywhere, np.ones(2000, np.uint8), clip_norm=0.5, noise_multiplier=2.0
    )
    assert without.tobytes() == everywhere.tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, np.float32(3e38)])
def test_an_unusable_gradient_changes_nothing(bad: float) -> None:
    grad = np.array([1.0, 2.0, bad], np.float32)
    before = grad.tobytes()
    noise = kernel.PrivacyNoise(SEED)
    with pytest.raises(KernelError, match="finite"):
        noise.add_training_noise(grad, clip_norm=1.0, noise_multiplier=1.0)
    assert grad.tobytes() == before
    noise.add_training_noise(
        grad, np.array([1, 1, 0], np.uint8), clip_norm=1.0, noise_multiplier=1.0
    )
    assert grad[2] == 0.0


def test_effective_multiplier_charges_each_source() -> None:
    base = kernel.effective_noise_multiplier(1.0, 1, rows=1)
    assert 1 - 2.0**-11 < base < 1.0
    assert kernel.effective_noise_multiplier(1.0, 55_000, rows=1) < base
    assert kernel.effective_noise_multiplier(1.0, 1, rows=512) < 0.97
    chunked = kernel.effective_noise_multiplier(1.0, 55_000, rows=512, summed_in_float32=32)
    assert 0.99 < chunked < base
    # the whole formula, in exact arithmetic
    nm, m, rows = Fraction(3, 2), 10_000, 128
    roundoff = Fraction(131, 2**24)
    summation = 2 * rows * roundoff / (1 - roundoff)
    sensitivity = (1 + Fraction(1, 2**12)) * (1 + summation) + nm * 100 / 2**21
    got = kernel.effective_noise_multiplier(1.5, m, rows=rows)
    assert got <= nm / sensitivity
    assert math.isclose(got, nm / sensitivity, rel_tol=1e-11)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_rounding_and_float32_sums_stay_inside_the_charged_sensitivity(
    data: st.DataObject,
) -> None:
    """The claim itself: remove one row, sum in float32, round; the grid index moves by at most
    what effective_noise_multiplier charges."""
    seed = data.draw(st.integers(0, 2**32))
    rows, m = data.draw(st.integers(1, 120)), data.draw(st.integers(1, 300))
    clip, nm = 1.0, data.draw(st.sampled_from([0.5, 1.0, 8.0]))
    random = np.random.default_rng(seed)
    spread = np.exp(random.normal(size=(rows, 1)) * 3)
    grads = random.normal(size=(rows, m)) * spread
    grads *= np.minimum(1.0, clip / np.linalg.norm(grads, axis=1, keepdims=True))
    # rows that cancel make large partial sums, the worst case of float32
    grads = grads.astype(np.float32)
    total, without = np.zeros(m, np.float32), np.zeros(m, np.float32)
    for i, row in enumerate(grads):
        total += row
        if i != 0:
            without += row
    grid = nm * clip / kernel.TRAINING_SIGMA_INT
    moved = np.rint(total * (1.0 / grid)) - np.rint(without * (1.0 / grid))
    allowed = kernel.TRAINING_SIGMA_INT / kernel.effective_noise_multiplier(nm, m, rows=rows)
    assert np.linalg.norm(moved) <= allowed


NOISE = kernel.PrivacyNoise(SEED)


@pytest.mark.parametrize(
    "call",
    [
        lambda: kernel.PrivacyNoise(b"short"),
        lambda: NOISE.uniform_u64(np.empty(3, np.int64)),
        lambda: NOISE.bernoulli(np.empty(3, np.uint8), p=1.5),
        lambda: NOISE.bernoulli(np.empty(3, np.uint8), p=math.nan),
        lambda: NOISE.bernoulli(np.empty(3, bool), p=0.5),
        lambda: NOISE.discrete_gaussian(np.empty(3, np.int32), sigma=1.0),
        lambda: NOISE.discrete_gaussian(np.empty(3, np.int64), sigma=0.0),
        lambda: NOISE.discrete_gaussian(np.empty(3, np.int64), sigma=math.inf),
        lambda: NOISE.discrete_gaussian(np.empty(3, np.int64), sigma=2.0**25),
        lambda: NOISE.discrete_gaussian(np.empty(3, np.int64), sigma=Fraction(0)),
        lambda: NOISE.discrete_gaussian(np.empty(3, np.int64), sigma=Fraction(-1)),
        lambda: NOISE.discrete_gaussian(np.empty(3, np.int64), sigma=Fraction(1, 2**20 + 1)),
        lambda: NOISE.discrete_gaussian(np.empty(3, np.int64), sigma=Fraction(2**24 + 1)),
        lambda: NOISE.discrete_gaussian(np.empty(3, np.int64), sigma=Fraction(2**44 + 1, 2**20)),
        lambda: NOISE.add_training_noise(np.zeros(3), clip_norm=1.0, noise_multiplier=1.0),
        lambda: NOISE.add_training_noise(
            np.zeros(3, np.float32), clip_norm=-1.0, noise_multiplier=1.0
        ),
        lambda: NOISE.add_training_noise(
            np.zeros(3, np.float32), clip_norm=1.0, noise_multiplier=0.0
        ),
        lambda: NOISE.add_training_noise(
            np.zeros(3, np.float32), np.ones(2, np.uint8), clip_norm=1.0, noise_multiplier=1.0
        ),
        lambda: NOISE.add_training_noise(
            np.zeros(3, np.float32), np.ones(3, bool), clip_norm=1.0, noise_multiplier=1.0
        ),
        lambda: kernel.effective_noise_multiplier(0.0, 10),
        lambda: kernel.effective_noise_multiplier(math.nan, 10),
        lambda: kernel.effective_noise_multiplier(1.0, 0),
        lambda: kernel.effective_noise_multiplier(1.0, 10, rows=0),
        lambda: kernel.effective_noise_multiplier(1.0, 10, rows=10, summed_in_float32=0),
        lambda: kernel.effective_noise_multiplier(1.0, 10, rows=1_000_000),
    ],
)
def test_refusals(call: Callable[[], object]) -> None:
    with pytest.raises(KernelError):
        call()


def fed(words: list[int]) -> reference.ReferenceNoise:
    """A reference stream whose next words are given: rare branches by hand."""
    noise = reference.ReferenceNoise(SEED)
    noise._words = iter(words)
    return noise


def test_the_reference_decides_ties_by_the_digits_that_follow() -> None:
    assert [fed([0, word]).bernoulli(2.0**-40) for word in (0, 2**24 - 1, 2**24)] == [1, 1, 0]
    # 1/3 = .0101...: 32 equal digits, then a smaller, an equal and a larger word
    third = 0x55555555
    assert fed([third, third - 1]).rational(1, 3) == 1
    assert fed([third, third + 1]).rational(1, 3) == 0
    assert fed([third, third, 0]).rational(1, 3) == 1
    assert fed([2**32 - 1, 7]).rational(5, 5) == 1
    reach, entries = reference.base_table()
    for index in (0, 5, reach, 2 * reach - 1):
        for step, want in ((-1, index), (0, index + 1), (1, index + 1)):
            draw = entries[index] + step
            words = [draw >> 32 * w & 0xFFFFFFFF for w in reversed(range(8))]
            assert fed(words).base() == want - reach
