"""What every engine must do; new engines are found in the registry and held to all of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import BundleError, EdgeRuntimeError, EngineError, MissingExtraError
from edge_runtime.generator import (
    ENGINES,
    Bundle,
    Engine,
    Layout,
    Lineage,
    Quantised,
    available_engines,
    build_bundle,
    build_sampler,
    initial_weights,
    open_engine,
    sample,
)
from edge_runtime.schema import Codec, Column, Schema

_SIZES = (3, 9, 2, 17, 1, 6)


def _bundle() -> Bundle:
    schema = Schema(
        name="contract",
        columns=tuple(
            Column(name=f"c{i}", kind="category", values=tuple(f"v{k}" for k in range(size)))
            for i, size in enumerate(_SIZES)
        ),
    )
    codec = Codec(schema=schema, bins={})
    layout = Layout(codec.cardinalities, 40)
    start = initial_weights(layout, seed=3)
    rng = np.random.default_rng(4)
    weights = start._replace(
        w3=start.w3 * np.float32(6), b3=rng.normal(0, 1, layout.width).astype(np.float32)
    )
    lineage = Lineage(parent=None, depth=0, round=0, devices=1, rows=9.0, privacy={"epsilon": None})
    return build_bundle(
        schema, codec, layout, weights, lineage=lineage, tflite=find_spec("tflite") is not None
    )


BUNDLE = _bundle()
NOISE = np.random.default_rng(8).random((700, len(_SIZES)), dtype=np.float32)


@pytest.fixture(params=sorted(ENGINES))
def name(request: pytest.FixtureRequest) -> str:
    if request.param not in available_engines():
        pytest.skip(f"the package of engine {request.param} is not installed")
    return str(request.param)


@pytest.fixture
def engine(name: str) -> Iterator[Engine]:
    opened = open_engine(BUNDLE, engine=name)
    yield opened
    opened.close()


def test_names_itself_and_its_layout(engine: Engine, name: str) -> None:
    assert engine.name == name
    assert engine.layout == BUNDLE.layout


def test_codes_are_int32_in_range(engine: Engine) -> None:
    codes = engine.generate(NOISE)
    assert codes.dtype == np.int32
    assert codes.shape == NOISE.shape
    assert codes.flags.c_contiguous
    assert (codes >= 0).all()
    assert (codes.max(axis=0) == np.array(_SIZES) - 1).all()


def test_extreme_uniforms_stay_in_range(engine: Engine) -> None:
    top = np.nextafter(np.float32(1), np.float32(0))
    for value in (0.0, top, np.float32(1e-45)):
        codes = engine.generate(np.full((3, len(_SIZES)), value, np.float32))
        assert (codes >= 0).all()
        assert (codes < np.array(_SIZES)).all()


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 16, 64, 255, 699])
def test_rows_do_not_depend_on_the_batch(engine: Engine, batch: int) -> None:
    whole = engine.generate(NOISE)
    parts = [engine.generate(NOISE[i : i + batch]) for i in range(0, len(NOISE), batch)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("threads", [2, 3])
def test_rows_do_not_depend_on_threads(engine: Engine, name: str, threads: int) -> None:
    many = np.random.default_rng(1).random((5000, len(_SIZES)), dtype=np.float32)
    wide = open_engine(BUNDLE, engine=name, threads=threads)
    np.testing.assert_array_equal(wide.generate(many), engine.generate(many))
    wide.close()


def test_the_same_noise_gives_the_same_rows_in_any_memory_order(engine: Engine) -> None:
    expected = engine.generate(NOISE)
    np.testing.assert_array_equal(engine.generate(np.asfortranarray(NOISE)), expected)
    spaced = np.zeros((1400, len(_SIZES)), np.float32)
    spaced[::2] = NOISE
    np.testing.assert_array_equal(engine.generate(spaced[::2]), expected)


def test_noise_is_left_as_it_was(engine: Engine) -> None:
    noise = NOISE.copy()
    engine.generate(noise)
    np.testing.assert_array_equal(noise, NOISE)


def test_rows_follow_the_float_network(engine: Engine) -> None:
    n = 30_000
    rng = np.random.default_rng(2)
    a, b, c = (rng.random((n, len(_SIZES)), dtype=np.float32) for _ in range(3))
    exact, other = (sample(BUNDLE.weights, BUNDLE.layout, x) for x in (a, b))
    drawn = engine.generate(c)

    def distance(x: np.ndarray, y: np.ndarray) -> float:
        # The last column depends on all others; (second, fourth) is a wide pair.
        total = 0.0
        for i, j in ((1, 3), (3, 5), (0, 5)):
            pair = [np.bincount(z[:, i] * _SIZES[j] + z[:, j], minlength=300) / n for z in (x, y)]
            total += float(np.abs(pair[0] - pair[1]).sum()) / 2
        return total

    assert distance(exact, drawn) < 1.3 * distance(exact, other)


def test_all_engines_draw_the_same_rows(engine: Engine) -> None:
    """Sums are exact integers; only the exponential may round differently."""
    expected = open_engine(BUNDLE, engine="numpy").generate(NOISE)
    assert (engine.generate(NOISE) == expected).all(axis=1).mean() >= 0.998


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_clamped_codes_are_kept_and_the_rest_follows(data: st.DataObject) -> None:
    column = data.draw(st.integers(0, len(_SIZES) - 1))
    code = data.draw(st.integers(0, _SIZES[column] - 1))
    for name in available_engines():
        engine = _shared(name)
        noise = NOISE[:50].copy()
        noise[::2, column] = code + 1
        codes, free = engine.generate(noise), engine.generate(NOISE[:50])
        assert (codes[::2, column] == code).all()
        np.testing.assert_array_equal(codes[1::2], free[1::2])
        np.testing.assert_array_equal(codes[:, :column], free[:, :column])


_OPEN: dict[str, Engine] = {}


def _shared(name: str) -> Engine:
    if name not in _OPEN:
        _OPEN[name] = open_engine(BUNDLE, engine=name)
    return _OPEN[name]


def test_no_rows(engine: Engine) -> None:
    codes = engine.generate(np.zeros((0, len(_SIZES)), np.float32))
    assert codes.shape == (0, len(_SIZES))
    assert codes.dtype == np.int32


def _with(value: float, column: int) -> np.ndarray:
    noise = NOISE[:10].copy()
    noise[4, column] = value
    return noise


@pytest.mark.parametrize(
    "noise",
    [
        NOISE[:, :-1],
        np.zeros((4, len(_SIZES) + 1), np.float32),
        NOISE[0],
        NOISE[None],
        NOISE.astype(np.float64),
        _with(np.nan, 2),
        _with(np.inf, 2),
        _with(-0.01, 0),
        _with(_SIZES[3] + 1, 3),
    ],
    ids=["narrow", "wide", "vector", "cube", "float64", "nan", "inf", "negative", "beyond"],
)
def test_wrong_noise_is_refused(engine: Engine, noise: np.ndarray) -> None:
    with pytest.raises(EngineError, match="noise"):
        engine.generate(noise)


def test_a_closed_engine_says_so(name: str) -> None:
    engine = open_engine(BUNDLE, engine=name)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.generate(NOISE)


def test_own_weights_replace_those_of_the_bundle(name: str) -> None:
    own = initial_weights(BUNDLE.layout, seed=77)
    own.b3[0] = 60
    codes = open_engine(BUNDLE, engine=name, weights=own).generate(NOISE)
    assert (codes[:, 0] == 0).all()
    lineage = BUNDLE.lineage
    packed = open_engine(BUNDLE.with_weights(own, lineage=lineage), engine=name).generate(NOISE)
    np.testing.assert_array_equal(codes, packed)
    with pytest.raises(EngineError, match="b3"):
        open_engine(BUNDLE, engine=name, weights=own._replace(b3=own.b3[1:]))


def _damage(data: bytes, where: float) -> bytes:
    at = int(where * len(data))
    return data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data + b"\0",
        lambda data: _damage(data, 0.1),
        lambda data: _damage(data, 0.5),
        lambda data: _damage(data, 0.999),
    ],
    ids=["empty", "half", "longer", "early", "middle", "late"],
)
def test_a_damaged_file_never_reaches_the_engine(
    name: str, damage: Callable[[bytes], bytes]
) -> None:
    with pytest.raises((BundleError, EngineError)):
        open_engine(Bundle.from_bytes(damage(BUNDLE.to_bytes())), engine=name)


def test_tensors_of_another_layout_are_refused(name: str) -> None:
    tensors = {k: v[:-1] for k, v in BUNDLE.quantised.tensors.items()}
    wrong = replace(BUNDLE, quantised=Quantised(tensors=tensors, worst_error=0.0))
    with pytest.raises(EngineError, match="must be"):
        open_engine(wrong, engine=name)


@pytest.mark.parametrize("graph", [b"", b"no model", BUNDLE.graph[: len(BUNDLE.graph) // 2]])
def test_a_broken_graph_is_an_engine_error(graph: bytes) -> None:
    with pytest.raises(EngineError, match="refused"):
        open_engine(replace(BUNDLE, graph=graph), engine="onnx")


def test_a_graph_of_another_layout_is_an_engine_error() -> None:
    other = build_sampler(Layout((3, 9), 40))
    with pytest.raises(EngineError):
        open_engine(replace(BUNDLE, graph=other), engine="onnx")


def test_opening_is_strict() -> None:
    with pytest.raises(EngineError, match="unknown engine 'abacus'"):
        open_engine(BUNDLE, engine="abacus")
    with pytest.raises(EngineError, match="at least one thread"):
        open_engine(BUNDLE, threads=0)
    assert open_engine(BUNDLE).name == available_engines()[0]


def test_auto_passes_over_an_engine_that_cannot_run_the_bundle() -> None:
    tensors = dict(BUNDLE.quantised.tensors)
    scale = np.array(tensors["scale3"])
    scale[0] = 1e30
    tensors["scale3"] = scale
    odd = replace(BUNDLE, quantised=Quantised(tensors=tensors, worst_error=0.0))
    assert open_engine(BUNDLE).name == "kernel"
    assert open_engine(odd).name != "kernel"
    with pytest.raises(EngineError, match="kernel refused"):
        open_engine(odd, engine="kernel")


def test_without_other_runtimes_auto_still_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("onnxruntime", "ai_edge_litert", "tflite_runtime"):
        monkeypatch.setitem(sys.modules, module, None)
    assert available_engines() == ("kernel", "numpy")
    assert open_engine(BUNDLE).name == "kernel"
    with pytest.raises(MissingExtraError, match=r"edge-runtime\[onnx\]") as caught:
        open_engine(BUNDLE, engine="onnx")
    assert isinstance(caught.value, EdgeRuntimeError)
    if BUNDLE.tflite is not None:
        with pytest.raises(MissingExtraError, match=r"edge-runtime\[tflite\]"):
            open_engine(BUNDLE, engine="tflite")


def test_a_bundle_without_a_tflite_file_says_where_it_comes_from() -> None:
    plain = replace(BUNDLE, tflite=None)
    with pytest.raises(EngineError, match="fit --tflite"):
        open_engine(plain, engine="tflite")
    assert open_engine(plain, engine="auto").name == "kernel"
