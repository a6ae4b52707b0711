"""From a description to a bundle, without SDV: the rows are those that SDV would draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_runtime import Generator
from edge_runtime.errors import ModelImportError
from edge_runtime.generator import GraphBundle, load_bundle, open_graph
from edge_runtime.importing.sdv import Description, Head, Output, convert
from edge_runtime.importing.sdv.network import fold, rounded
from edge_runtime.importing.sdv.plan import Plan
from edge_runtime.importing.sdv.reference import draw, draw_noise
from edge_runtime.schema import Table

from .as_sdv import sample
from .distances import correlations, distance
from .models import CONDITION, DAY, OUTPUTS, START, describe, heads

ROWS = 20_000
#: Kolmogorov-Smirnov distance of two samples of so many rows, passed by chance once in 10^6
CHANCE = 2.7 * np.sqrt(2 / ROWS)


@pytest.fixture(scope="module", params=["CTGAN", "TVAE"])
def description(request: pytest.FixtureRequest) -> Description:
    return describe(request.param)


@pytest.fixture(scope="module")
def bundle(description: Description) -> GraphBundle:
    return convert(description)


def as_plain(table: Table) -> dict[str, np.ndarray]:
    """Values as `as_sdv.sample` has them."""
    plain = {}
    for column in table.schema.columns:
        values, gone = np.asarray(table.columns[column.name]), table.missing[column.name]
        if column.kind == "boolean":
            plain[column.name] = np.array([False, True, None], object)[values]
        elif column.kind == "category":
            plain[column.name] = values
        else:
            scale = 1e3 if column.kind == "timestamp" else 1
            plain[column.name] = np.where(gone, np.nan, values.astype(np.float64) * scale)
    return plain


def rows_of(bundle: GraphBundle, rows: int = ROWS, seed: int = 1) -> dict[str, np.ndarray]:
    return as_plain(Generator(bundle).sample(rows, seed=seed))


def test_rows_agree_with_sdvs_way_of_drawing(description: Description, bundle: GraphBundle) -> None:
    theirs, ours = sample(description, ROWS, seed=2), rows_of(bundle)
    assert list(ours) == list(theirs)
    listed = {output.name for output in OUTPUTS if output.values is not None}
    for name, values in theirs.items():
        if name in listed and values.dtype == object and ours[name].dtype != object:
            theirs[name] = values.astype(np.float64)
        # int8 weights and the batches' own statistics may move a column by .01
        assert distance(theirs[name], ours[name]) < CHANCE + 0.01, name
    shown = [name for name in ours if name != "constant"]
    pairs = [correlations([rows[name] for name in shown]) for rows in (theirs, ours)]
    assert np.abs(pairs[0] - pairs[1]).max() < 0.05
    # The columns do depend on each other, so that this says something.
    assert np.abs(pairs[0] - np.eye(len(shown))).max() > 0.2


def test_the_graph_draws_what_plain_numpy_draws(
    description: Description, bundle: GraphBundle
) -> None:
    """The same noise, number for number, through the int8 weights."""
    plan = Plan(description.words)
    noise = draw_noise(plan, 5_000, seed=3)
    network = rounded(fold(description, seed=0), description.words, seed=0)
    drawn = draw(network, plan, noise)
    codes = open_graph(bundle).generate(noise)
    names = bundle.schema.names
    heads_by_name = {head.name: i for i, head in enumerate(description.words.heads)}
    ward = codes[:, names.index("ward")]
    assert (ward == drawn.picks[heads_by_name["ward"]]).mean() > 0.9995
    for name in ("age", "cost"):
        column = names.index(name)
        bins = bundle.codec.bins[name]
        output = OUTPUTS[column]
        value = np.round(np.clip(drawn.values[name], output.low, output.high), output.decimals or 0)
        own = bins.encode(value, np.zeros(len(value), bool))[0]
        there = codes[:, column] != bins.bins
        assert (codes[:, column] == own)[there].mean() > 0.9995


def test_what_the_bundle_says(description: Description, bundle: GraphBundle) -> None:
    columns = {column.name: column for column in bundle.schema.columns}
    assert [column.name for column in bundle.schema.columns] == [o.name for o in OUTPUTS]
    nullable = {name for name, column in columns.items() if column.nullable}
    assert nullable == {"ward", "cost", "weight", "member", "at"}
    assert (columns["age"].low, columns["age"].high) == (18, 89)
    assert columns["cost"].decimals == 2
    assert columns["ward"].values == ("north", "south", "east")
    assert bundle.codec.bins["stars"].points is not None
    assert bundle.codec.bins["stars"].points.ravel().tolist() == [1, 2, 5]
    assert bundle.lineage.privacy == {}
    assert "NO PRIVACY STATEMENT" in bundle.card
    found = bundle.metrics["import"]
    assert found["model"] == description.words.model
    assert found["left_out"] == {"visit": "id, made up by AnonymizedFaker, not learnt"}
    assert found["worst_error"] < 0.3
    assert found["changed_codes"] < 0.1
    assert bundle.metrics["trial"]["agreement"] > 0.999
    assert f"{description.words.model}Synthesizer of SDV 2.0.0" in bundle.card


def test_values_keep_their_form(bundle: GraphBundle) -> None:
    rows = rows_of(bundle, 5_000)
    days = rows["day"]
    assert np.array_equal(days % DAY, np.zeros_like(days))
    assert days.min() >= START
    assert days.max() <= START + 240 * DAY
    seconds = rows["at"][~np.isnan(rows["at"])]
    assert np.array_equal(seconds % 1e9, np.zeros_like(seconds))
    assert (seconds % DAY != 0).any()
    cost = rows["cost"][~np.isnan(rows["cost"])]
    assert np.array_equal(cost, np.round(cost, 2))
    assert (cost == 0).mean() > 0.005  # what is clipped stays on the bound
    assert set(rows["age"].tolist()) <= set(range(18, 90))
    assert (rows["constant"] == 7.5).all()


def test_same_description_same_graph_and_codec(
    description: Description, bundle: GraphBundle
) -> None:
    again = convert(Description.from_bytes(description.to_bytes()))
    assert again.graph == bundle.graph
    assert again.codec.to_json() == bundle.codec.to_json()


def test_batch_statistics_are_those_of_sampling() -> None:
    """In eval mode CTGAN normalises with what training kept: other rows, and ours follow."""
    averages = describe("CTGAN", batch_statistics=False)
    theirs = sample(averages, ROWS, seed=4)
    ours, other = rows_of(convert(averages)), rows_of(convert(describe("CTGAN")))
    near = [distance(theirs[name], ours[name]) for name in ("age", "cost", "weight", "at")]
    far = [distance(theirs[name], other[name]) for name in ("age", "cost", "weight", "at")]
    assert max(near) < CHANCE + 0.01
    assert max(far) > 5 * max(near)


def test_the_condition_is_drawn_by_its_frequencies() -> None:
    """A network that copies the condition shows it: every category as often as it is asked for."""
    own = [Head(name="ward", categories=len(CONDITION))]
    outputs = [
        Output(name="ward", kind="category", values=[f"w{i}" for i in range(len(CONDITION))])
    ]
    made = describe("CTGAN", own_heads=own, outputs=outputs)
    last = made.layers[-1]
    weight = np.zeros_like(last.weight)
    weight[-len(CONDITION) :] = 30 * np.eye(len(CONDITION), dtype=np.float32)
    layers = (*made.layers[:-1], type(last)(weight=weight, bias=np.zeros_like(last.bias)))
    ward = rows_of(convert(Description(words=made.words, layers=layers)))["ward"]
    shares = [(ward == f"w{i}").mean() for i in range(len(CONDITION))]
    assert np.abs(np.array(shares) - CONDITION).max() < 5 * np.sqrt(0.25 / ROWS)


@pytest.mark.parametrize("model", ["CTGAN", "TVAE"])
@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_tables_of_one_kind_of_column(model: str, kind: str) -> None:
    wanted = {"discrete": {"ward", "member"}, "continuous": {"age", "constant"}}[kind]
    made = describe(
        model,
        own_heads=[head for head in heads(sigma=0.1 * (model == "TVAE")) if head.name in wanted],
        outputs=[output for output in OUTPUTS if output.name in wanted],
        condition=[0.7, 0.3] if kind == "discrete" else [],
    )
    theirs, ours = sample(made, ROWS, seed=5), rows_of(convert(made))
    assert set(ours) == wanted
    for name in wanted:
        assert distance(theirs[name], ours[name]) < CHANCE + 0.01


def test_where_and_file(tmp_path: Path, bundle: GraphBundle) -> None:
    bundle.save(tmp_path / "imported.bundle")
    assert load_bundle(tmp_path / "imported.bundle").digest == bundle.digest
    generator = Generator.load(tmp_path / "imported.bundle")
    asked: Any = generator.sample(50, where={"ward": "south"}, seed=1)
    assert set(asked.columns["ward"]) == {"south"}


def changed(**words: object) -> Description:
    made = describe("CTGAN")
    return Description(words=msgspec.structs.replace(made.words, **words), layers=made.layers)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (changed(embedding=13), r"layer 0 has weights \[24, 24\] where \[25, 24\] are due"),
        (changed(heads=heads()[:-1]), "does not have the 29 outputs"),
        (changed(outputs=[Output(name="size", kind="number")]), "'size' has no head"),
        (changed(outputs=[Output(name="age", kind="number", gone="x")]), "no head .'x'."),
        (
            changed(outputs=[Output(name="age", kind="number", gone="ward", absent=[True])]),
            "'ward', which has 4 categories, not 1",
        ),
    ],
)
def test_descriptions_that_contradict_themselves_are_refused(
    wrong: Description, message: str
) -> None:
    with pytest.raises(ModelImportError, match=message):
        Description.from_bytes(wrong.to_bytes())


def test_weights_that_are_not_numbers_are_refused() -> None:
    made = describe("TVAE")
    made.layers[1].weight[3, 4] = np.nan
    with pytest.raises(ModelImportError, match="layer 1 has weights that are not numbers"):
        Description.from_bytes(made.to_bytes())


@pytest.mark.parametrize("data", [b"", b"\x80\x04.", b"\x05\0\0\0\0\0\0\0hello", b"\xff" * 64])
def test_bytes_that_are_no_description_are_refused(data: bytes) -> None:
    with pytest.raises(ModelImportError, match="not valid"):
        Description.from_bytes(data)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (Output(name="ward", kind="category", values=["a", "b"]), "lists 2 values, not 4"),
        (Output(name="ward", kind="number"), "lists no values"),
    ],
)
def test_columns_that_contradict_their_head_are_refused(output: Output, message: str) -> None:
    with pytest.raises(ModelImportError, match=message):
        convert(changed(outputs=[output]))
