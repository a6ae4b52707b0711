"""The generator's loops against the reference: each instruction set, draws, decoding, refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime import kernel
from edge_runtime.errors import KernelError
from edge_runtime.kernel import Network, Output, network_reference, reference

KEY = bytes(range(32))
SIZES = (4, 2, 9, 1, 6)
HIDDEN = 21
TENSORS = network_reference.vector_tensors(SIZES, HIDDEN, KEY)


def network(isa: str | None = None, **changes: Any) -> Network:
    given = {"tensors": TENSORS, "cardinalities": SIZES, "hidden": HIDDEN} | changes
    return Network(given.pop("tensors"), isa=isa, **given)


def drawn(net: Network, rows: int, **arguments: Any) -> np.ndarray:
    codes = np.empty((rows, len(net.cardinalities)), np.int32)
    net.draw(rows, key=KEY, codes=codes, **arguments)
    return codes


@pytest.mark.parametrize("isa", kernel.network_isas())
def test_known_answers(isa: str, vectors: Callable[[str], Iterator[Any]]) -> None:
    found = 0
    for words in vectors("generator.txt"):
        key = bytes.fromhex(words.text())
        hidden, columns = words.integer(), words.integer()
        sizes = words.integers(columns)
        rows, digest, last = words.integer(), int(words.text(), 16), words.integers(columns)
        assert words.done()
        tensors = network_reference.vector_tensors(sizes, hidden, key)
        noise = reference.uniform(key, 0, 0, rows * columns).reshape(rows, columns)
        noise[::3, 0] = sizes[0]
        codes = np.empty(noise.shape, np.int32)
        Network(tensors, cardinalities=sizes, hidden=hidden, isa=isa).codes(noise, codes)
        hashed = 0xCBF29CE484222325
        for code in codes.flat:
            hashed = ((hashed ^ int(code)) * 0x100000001B3) % 2**64
        assert hashed == digest
        assert codes[-1].tolist() == last
        found += 1
    assert found == 10


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_shape_equals_the_reference(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 23), min_size=1, max_size=9))
    hidden, rows = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 140))
    key = data.draw(st.binary(min_size=32, max_size=32))
    isa = data.draw(st.sampled_from(kernel.network_isas()))
    tensors = network_reference.vector_tensors(sizes, hidden, key)
    noise = reference.uniform(key, 11, 0, rows * len(sizes)).reshape(rows, -1)
    codes = np.empty(noise.shape, np.int32)
    Network(tensors, cardinalities=sizes, hidden=hidden, isa=isa).codes(noise, codes)
    np.testing.assert_array_equal(
        codes, network_reference.codes(tensors, sizes, hidden, noise), strict=True
    )


def test_the_exponential_is_accurate() -> None:
    x = -np.concatenate([np.linspace(0, 30, 20_001), [126.0, 1e30]]).astype(np.float32)
    exact = np.exp2(np.maximum(x.astype(np.float64), -126))
    assert np.abs(network_reference.exp2_down(x) / exact - 1).max() < 3e-7


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2500), st.integers(1, 2500))
def test_rows_do_not_depend_on_how_they_are_cut(offset: int, rows: int) -> None:
    whole = _whole()
    rows = min(rows, len(whole) - offset)
    np.testing.assert_array_equal(
        drawn(network(), rows, offset=offset, stream=3), whole[offset : offset + rows]
    )


_WHOLE: list[np.ndarray] = []


def _whole() -> np.ndarray:
    if not _WHOLE:
        noise = reference.uniform(KEY, 3, 0, 3000 * len(SIZES)).reshape(3000, -1)
        codes = np.empty(noise.shape, np.int32)
        network().codes(noise, codes)
        _WHOLE.append(codes)
    return _WHOLE[0]


def test_forced_columns_are_kept_and_followed() -> None:
    forced = np.stack([np.arange(3000) % 4, np.arange(3000) % 2]).astype(np.int32)
    codes = drawn(network(), 3000, stream=3, forced=forced)
    np.testing.assert_array_equal(codes[:, :2], forced.T)
    same = (_whole()[:, :2] == forced.T).all(axis=1)
    assert same.sum() > 20
    np.testing.assert_array_equal(codes[same], _whole()[same])


def test_decoded_columns_equal_the_other_functions() -> None:
    rows, offset, stream = 2500, 700, 900
    rng = np.random.default_rng(0)
    knots = np.sort(rng.normal(0, 50, (8, 5)), axis=1)  # the ninth code is missing
    points = rng.integers(-9, 9, (6, 4)).astype(np.int64)
    table = np.array([3, -1, 7, 5], np.int8)
    gone = np.empty(rows, np.bool_)
    outputs = [
        Output(kind="bytes", table=table, out=np.empty(rows, np.int8)),
        Output(kind="codes", out=np.empty(rows, np.int32)),
        Output(kind="linear_f64", table=knots, out=np.empty(rows), missing=gone),
        Output(kind="nothing"),
        Output(kind="points", table=points, out=np.empty(rows, np.int64)),
    ]
    net = network()
    codes = np.empty((rows, 5), np.int32)
    net.draw(rows, key=KEY, offset=offset, codes=codes, outputs=outputs, decode_stream=stream)
    np.testing.assert_array_equal(codes, drawn(net, rows, offset=offset))
    np.testing.assert_array_equal(outputs[0].out, table[codes[:, 0]])
    np.testing.assert_array_equal(outputs[1].out, codes[:, 1])
    real = np.empty(rows)
    u = reference.uniform(KEY, stream + 2, offset, rows)
    kernel.decode_linear(codes[:, 2], u, knots, real)
    np.testing.assert_array_equal(outputs[2].out, real)
    np.testing.assert_array_equal(gone, codes[:, 2] == 8)
    assert np.isnan(real).sum() == gone.sum()
    slot = (reference.uniform(KEY, stream + 4, offset, rows) * 4).astype(np.int64)
    np.testing.assert_array_equal(outputs[4].out, points[codes[:, 4], slot])


def test_an_isa_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("EDGE_RUNTIME_ISA", "EDGE_RUNTIME_NETWORK_ISA"):
        monkeypatch.delenv(variable, raising=False)
    assert kernel.network_isa() == kernel.network_isas()[0] == network().isa
    for variable in ("EDGE_RUNTIME_ISA", "EDGE_RUNTIME_NETWORK_ISA"):
        monkeypatch.setenv(variable, "abacus")
        with pytest.raises(KernelError, match=f"{variable}=abacus cannot run here"):
            network()
    for isa in kernel.network_isas():
        monkeypatch.setenv("EDGE_RUNTIME_NETWORK_ISA", isa)
        assert network().isa == isa


def test_a_family_leaves_options_out() -> None:
    if "avx2" not in kernel.network_isas():
        pytest.skip("no AVX2")
    script = "from edge_runtime import kernel; print(kernel.network_isa())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "EDGE_RUNTIME_ISA": "x86-64-v3"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "avx2"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden": 22}, "w1 is int8"),
        ({"cardinalities": (4, 2, 9, 1, 5)}, "w1 is int8"),
        ({"tensors": TENSORS | {"w2": TENSORS["w2"].astype(np.int16)}}, "w2 is int16"),
        ({"tensors": TENSORS | {"scale3": TENSORS["scale3"] * np.nan}}, "not finite"),
        ({"tensors": TENSORS | {"b3": TENSORS["b3"] + 2**25}}, "outside its domain"),
        ({"isa": "abacus"}, "does not have that instruction set"),
    ],
)
def test_wrong_tensors_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(KernelError, match=words):
        network(**change)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"key": b"short"}, "key is 32 bytes"),
        ({"offset": -1}, "offset -1"),
        ({"offset": 1 << 40}, "offset"),
        ({"stream": 1 << 56}, "stream"),
        ({"rows": -1}, "rows -1"),
        ({"forced": np.zeros((1, 9), np.int32)}, "forced codes"),
        ({"forced": np.zeros((1, 10), np.int64)}, "forced codes"),
        ({"forced": np.full((1, 10), 4, np.int32)}, "outside its column"),
        ({"codes": np.empty((10, 4), np.int32)}, "codes are int32"),
        ({"codes": np.empty((10, 5), np.int64)}, "codes are int64"),
        ({"codes": None}, "an array is missing"),
    ],
)
def test_wrong_draws_are_refused(arguments: dict[str, Any], words: str) -> None:
    usual = {"rows": 10, "key": KEY, "codes": np.empty((10, 5), np.int32)}
    given = usual | arguments
    with pytest.raises(KernelError, match=words):
        network().draw(given.pop("rows"), **given)


def _nothing() -> list[Output]:
    return [Output(kind="nothing") for _ in SIZES]


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (Output(kind="codes"), "lacks an array"),
        (Output(kind="codes", out=np.empty(9, np.int32)), "shape .9,."),
        (Output(kind="codes", out=np.empty(10, np.int64)), "output is int64"),
        (Output(kind="codes", out=np.empty(20, np.int32)[::2]), "output is int32"),
        (Output(kind="bytes", out=np.empty(10, np.int8)), "lacks an array"),
        (
            Output(kind="bytes", out=np.empty(10, np.int8), table=np.zeros(3, np.int8)),
            "outside what the kernel allows",
        ),
        (
            Output(kind="points", out=np.empty(10), table=np.zeros((4, 3))),
            "outside what the kernel allows",
        ),
        (Output(kind="points", out=np.empty(10), table=np.zeros((4, 2), np.int64)), "a table of"),
        (
            Output(kind="linear_f64", out=np.empty(10), table=np.array([[1.0, 0.0]] * 4)),
            "knots of a bin decrease",
        ),
        (Output(kind="nothing", missing=np.empty(9, np.bool_)), "shape .9,."),
    ],
)
def test_wrong_outputs_are_refused(output: Output, words: str) -> None:
    with pytest.raises(KernelError, match=words):
        network().draw(10, key=KEY, outputs=[output, *_nothing()[1:]])
    with pytest.raises(KernelError, match="size"):
        network().draw(10, key=KEY, outputs=_nothing()[1:])
