"""The examples in models/: they run, both formats agree, and their cards say what they are."""

from __future__ import annotations

import hashlib
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime import Generator
from edge_runtime.evaluation import Frame, TargetTask, train_and_score
from edge_runtime.generator import (
    GraphBundle,
    find_runtime,
    load_bundle,
    open_graph,
    sample_codes,
    verify_bundle,
)
from edge_runtime.schema import Table

sys.path.insert(0, str(Path(__file__).parents[2]))  # tools/ is not installed

from tools.models.card import figure
from tools.models.data import Data, load_data
from tools.models.table import example_folders, table

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "models"
FOLDERS = example_folders(MODELS)
RUNTIMES = ("onnx", "tflite")
KEY = b"rows that the tests draw, 32 by."
MOST_BYTES = 2_000_000

every_example = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
needs_tflite = pytest.mark.skipif(find_runtime() is None, reason="no TFLite runtime")


@cache
def example(folder: Path, runtime: str) -> GraphBundle:
    bundle = load_bundle(folder / f"{runtime}.bundle")
    assert isinstance(bundle, GraphBundle)
    return bundle


table_of = cache(load_data)


def data(folder: Path) -> Data:
    return table_of(folder.name.split("-")[0])


@cache
def rows(folder: Path) -> Table:
    return Generator(example(folder, "onnx")).sample(4_000, seed=5)


@cache
def metrics(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return found


def test_the_folder_is_small_and_holds_nothing_else() -> None:
    size = sum(path.stat().st_size for path in MODELS.rglob("*") if path.is_file())
    assert size < MOST_BYTES
    assert sorted(path for path in MODELS.iterdir() if path.is_dir()) == sorted(FOLDERS)


@every_example
@pytest.mark.parametrize("runtime", ["onnx", pytest.param("tflite", marks=needs_tflite)])
def test_a_bundle_keeps_the_contract(folder: Path, runtime: str) -> None:
    bundle = example(folder, runtime)
    assert [check for check in verify_bundle(bundle) if not check.fine] == []
    assert bundle.runtime == runtime
    assert bundle.lineage.privacy["epsilon"] is None
    assert hashlib.sha256(bundle.graph).hexdigest() == metrics(folder)["graph_sha256"][runtime]


@needs_tflite
@every_example
def test_both_formats_draw_the_same_rows(folder: Path) -> None:
    one, two = (
        sample_codes(open_graph(example(folder, runtime)), 3_000, key=KEY) for runtime in RUNTIMES
    )
    sizes = np.asarray(example(folder, "onnx").codec.cardinalities)
    assert (one >= 0).all()
    assert (one < sizes).all()
    assert (one == two).mean() >= 0.999
    assert metrics(folder)["agreement"] >= 0.999


@every_example
def test_the_codec_is_that_of_the_data(folder: Path) -> None:
    """So that the fleets and examples of the documentation can be given these bundles."""
    assert example(folder, "onnx").codec.digest == data(folder).codec.digest
    assert example(folder, "tflite").codec.digest == data(folder).codec.digest


@every_example
def test_single_columns_are_those_of_held_out_rows(folder: Path) -> None:
    """Total variation of each column's codes; a uniform generator would be off by .3 and more."""
    codec = data(folder).codec
    held, made = codec.encode(data(folder).test).codes, codec.encode(rows(folder)).codes
    distances = []
    for column, size in enumerate(codec.cardinalities):
        real, found = (
            np.bincount(codes[:, column], minlength=size) / len(codes) for codes in (held, made)
        )
        distances.append(0.5 * np.abs(real - found).sum())
    assert np.mean(distances) < 0.06
    assert np.max(distances) < 0.15


@every_example
def test_every_label_is_there(folder: Path) -> None:
    """No mode is lost: all digits, all destinations, and about as often as among real rows."""
    names = {"digits": ["label"], "flights": ["late", "origin", "dest", "month"]}
    codec = data(folder).codec
    made = codec.encode(rows(folder)).codes
    for name in names[data(folder).name]:
        column = data(folder).schema.names.index(name)
        size = codec.cardinalities[column]
        real = np.bincount(data(folder).codes[:, column], minlength=size) / data(folder).train.rows
        found = np.bincount(made[:, column], minlength=size) / len(made)
        assert (found[real > 0.002] > 0).all(), name
        often = real > 0.02
        assert (np.abs(found[often] / real[often] - 1) < 0.4).all(), name


@pytest.mark.parametrize("folder", [f for f in FOLDERS if "digits" in f.name], ids=lambda f: f.name)
def test_a_classifier_learns_the_digits_from_synthetic_rows(folder: Path) -> None:
    """Chance is .1, real rows give .95."""
    schema = data(folder).schema
    score = train_and_score(
        Frame.of(rows(folder), schema, synthetic=True),
        Frame.of(data(folder).test, schema),
        TargetTask.of(schema, "label"),
    )
    assert score.value > 0.8


@pytest.mark.parametrize(
    "folder", [f for f in FOLDERS if "flights" in f.name], ids=lambda f: f.name
)
def test_flights_keep_what_columns_have_to_do_with_each_other(folder: Path) -> None:
    """Independent columns would agree on late in two thirds of the rows, and not correlate."""
    frame = rows(folder).to_pandas().dropna()
    assert ((frame["arr_delay"] > 15) == frame["late"].astype(bool)).mean() > 0.9
    numbers = frame[["distance", "air_time", "dep_delay", "arr_delay"]].astype(float)
    assert numbers["distance"].corr(numbers["air_time"]) > 0.7
    assert numbers["dep_delay"].corr(numbers["arr_delay"]) > 0.65


@every_example
def test_the_card_says_what_was_measured(folder: Path) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    known = metrics(folder)
    assert data(folder).source in card
    assert data(folder).licence in card
    for runtime in RUNTIMES:
        size = (folder / f"{runtime}.bundle").stat().st_size
        assert size == known["bytes"][f"{runtime}.bundle"]
        assert f"`{runtime}.bundle` {size:,} bytes" in card
        figures = example(folder, runtime).metrics
        assert {name: figures[name] for name in ("shapes", "pairs", "utility")} == {
            name: known["quality"][name] for name in ("shapes", "pairs", "utility")
        }
    own = next(line for line in card.splitlines() if line.startswith("| **this model** |"))
    names = ("shapes", "pairs", "utility", "closer_to_training", "copies", "codes_missing")
    expected = [figure(known["quality"][name]) for name in names]
    assert [cell.strip() for cell in own.strip("|").split("|")[1:]] == expected
    assert json.loads((MODELS / "reference.json").read_text())[known["data"]] == known["reference"]


def test_the_page_has_the_table_of_all_examples() -> None:
    assert table(MODELS) in (ROOT / "docs/models.md").read_text(encoding="utf-8")
