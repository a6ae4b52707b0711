"""What the kernel engine adds to the contract: agreement, one call for all, threads."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.errors import EngineError
from edge_runtime.generator import Bundle, Layout, open_engine, quantize, sample_table
from edge_runtime.generator.kernel_engine import KernelEngine
from edge_runtime.generator.numpy_engine import NumpyEngine
from edge_runtime.schema import Codec, Column, Schema, Table

from .conftest import strong_weights

KEY = bytes(range(32))


@pytest.mark.parametrize(
    ("sizes", "hidden"), [((18,) * 14, 128), ((3, 30, 2, 70), 64), ((6,) * 100, 96)]
)
def test_codes_agree_with_the_yardstick(sizes: tuple[int, ...], hidden: int) -> None:
    """Only the rounding of the exponential differs; a code that flips moves the later ones."""
    layout = Layout(sizes, hidden)
    tensors = quantize(strong_weights(layout), layout, calibration_rows=256).tensors
    noise = np.random.default_rng(5).random((5000, layout.columns), dtype=np.float32)
    ours = KernelEngine(tensors, layout=layout).generate(noise)
    theirs = NumpyEngine(tensors, layout=layout).generate(noise)
    assert (ours == theirs).mean() >= 0.999
    assert len(np.unique(ours[:, -1])) > 1


def test_codes_agree_with_onnx(bundle: Bundle) -> None:
    noise = np.random.default_rng(6).random((40_000, bundle.layout.columns), dtype=np.float32)
    ours, theirs = (open_engine(bundle, engine=e).generate(noise) for e in ("kernel", "onnx"))
    assert (ours == theirs).mean() >= 0.999


def mixed() -> tuple[Codec, Table]:
    """Every kind of column, every form of bins, with and without missing values."""
    n = 3000
    rng = np.random.default_rng(3)
    schema = Schema(
        name="mixed",
        columns=(
            Column(name="flag", kind="boolean", nullable=True),
            Column(name="plain", kind="boolean"),
            Column(name="word", kind="category", values=("a", "b"), other=True, nullable=True),
            Column(name="real", kind="number", low=-500.0, high=500.0, nullable=True),
            Column(name="cents", kind="number", low=0.0, high=1e6, decimals=2),
            Column(name="lost", kind="number", low=0.0, high=1e6, decimals=2, nullable=True),
            Column(name="few", kind="integer", low=0, high=9),
            Column(name="points", kind="integer", low=0, high=300),
            Column(name="many", kind="integer", low=-(10**9), high=10**9, nullable=True),
            Column(name="when", kind="timestamp", low=0, high=10**15),
        ),
    )
    gone = rng.random(n) < 0.2
    real, lost = rng.normal(0, 100, n).clip(-500, 500), rng.random(n) * 1e6
    real[gone], lost[gone] = np.nan, np.nan
    columns = {
        "flag": rng.integers(-1, 2, n).astype(np.int8),
        "plain": rng.integers(0, 2, n).astype(np.int8),
        "word": np.array(["a", "b", None], object)[rng.integers(0, 3, n)],
        "real": real,
        "cents": np.round(rng.random(n) * 1e6, 2),
        "lost": np.round(lost, 2),
        "few": rng.integers(0, 10, n),
        "points": rng.integers(0, 301, n),
        "many": np.where(gone, 0, rng.integers(-(10**9), 10**9, n)),
        "when": rng.integers(0, 10**15, n),
    }
    table = Table(schema=schema, columns=columns, missing={"many": gone})
    return Codec.fit(table, schema), table


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("clamp", [{}, {0: 1, 1: 0}])
def test_one_call_equals_sampling_and_decoding_apart(threads: int, clamp: dict[int, int]) -> None:
    codec, _ = mixed()
    forms = {
        "points"
        if bins.points is not None
        else bins.decode(np.zeros(1, np.int32), key=KEY, stream=0, offset=0).dtype.name
        for bins in codec.bins.values()
    }
    assert forms == {"points", "float64", "int64"}
    layout = Layout(codec.cardinalities, 40)
    tensors = quantize(strong_weights(layout), layout, calibration_rows=256).tensors
    rows, offset = 9000, 1234
    forced = {c: np.full(rows, code, np.int32) for c, code in clamp.items()}
    engine = KernelEngine(tensors, layout=layout, threads=threads)
    once = sample_table(engine, codec, rows, key=KEY, offset=offset, clamp=forced)

    class Plain:
        """The same engine under a type that the sampler does not know."""

        name, generate, close = "plain", engine.generate, engine.close
        layout = engine.layout

    apart = sample_table(Plain(), codec, rows, key=KEY, offset=offset, clamp=forced)
    for name in codec.schema.names:
        np.testing.assert_array_equal(once[name], apart[name], strict=True)
        np.testing.assert_array_equal(once.missing[name], apart.missing[name], strict=True)
    assert once.to_arrow().equals(apart.to_arrow())
    assert once.missing["lost"].any()
    engine.close()


def test_a_codec_of_another_layout_is_refused(bundle: Bundle) -> None:
    codec, _ = mixed()
    with pytest.raises(EngineError, match="cardinalities"):
        sample_table(open_engine(bundle), codec, 5, key=KEY)


def test_threads_share_the_rows(bundle: Bundle) -> None:
    noise = np.random.default_rng(1).random((10_001, bundle.layout.columns), dtype=np.float32)
    one = open_engine(bundle, engine="kernel")
    many = open_engine(bundle, engine="kernel", threads=3)
    np.testing.assert_array_equal(many.generate(noise), one.generate(noise))
    noise[9_000, 1] = np.nan
    with pytest.raises(EngineError, match="noise of column 1"):
        many.generate(noise)
    many.close()
    with pytest.raises(EngineError, match="closed"):
        many.generate(noise)
