"""Models that SDV itself trained, saved and samples from (`make test-sdv`)."""

# ruff: noqa: PLC0415 - SDV is imported where it is used: it is not installed everywhere

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from edge_runtime import Generator
from edge_runtime.errors import ModelImportError
from edge_runtime.generator import GraphBundle
from edge_runtime.importing.sdv import import_sdv

from .distances import correlations, distance

pytest.importorskip("sdv", reason="SDV is not installed: make test-sdv")
pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = 20_000
CHANCE = 2.7 * np.sqrt(2 / ROWS)
COLUMNS = {
    "visit": "id",
    "ward": "categorical",
    "age": "numerical",
    "cost": "numerical",
    "seen": "datetime",
    "at": "datetime",
    "member": "boolean",
    "stars": "categorical",
    "constant": "numerical",
    "email": "email",
    "grade": "categorical",
    "size": "categorical",
    "weight": "numerical",
    "flag": "boolean",
}
LEARNT = [name for name in COLUMNS if name not in ("visit", "email")]


def table(rows: int = 480) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    ward = rng.choice(["north", "south", "east"], rows, p=[0.6, 0.3, 0.1]).astype(object)
    start = pd.Timestamp("2024-01-01")
    frame = pd.DataFrame(
        {
            "visit": [f"v{i:05d}" for i in range(rows)],
            "ward": np.where(rng.random(rows) < 0.1, None, ward),
            "age": rng.integers(18, 90, rows),
            "cost": np.round(rng.gamma(2, 100, rows) * (1 + 2 * (ward == "south")), 2),
            "seen": (start + pd.to_timedelta(rng.integers(0, 300, rows), unit="D")).strftime(
                "%d/%m/%Y"
            ),
            "at": start + pd.to_timedelta(rng.integers(0, 300 * 86_400, rows), unit="s"),
            "member": rng.random(rows) < 0.3,
            "stars": rng.choice([1, 2, 5], rows),
            "constant": 7.5,
            "email": [f"a{i}@example.org" for i in range(rows)],
            "grade": rng.choice(["a", "b", "c"], rows, p=[0.5, 0.3, 0.2]),
            "size": rng.choice(["S", "M", "L"], rows),
            "weight": rng.normal(70, 12, rows).round(1),
            "flag": pd.Series(rng.random(rows) < 0.5, dtype=object),
        }
    )
    frame.loc[rng.random(rows) < 0.2, "cost"] = np.nan
    frame.loc[rng.random(rows) < 0.3, "weight"] = np.nan
    frame.loc[rng.random(rows) < 0.1, "flag"] = None
    return frame


def fitted(kind: str, *, epochs: int, constraints: list[Any] | None = None) -> Any:
    """A synthesizer with transformers of the user's own for some columns."""
    from rdt.transformers import BinaryEncoder, FloatFormatter, LabelEncoder, UniformEncoder
    from sdv import single_table
    from sdv.metadata import Metadata

    columns: dict[str, dict[str, str]] = {
        name: {"sdtype": sdtype} for name, sdtype in COLUMNS.items()
    }
    columns["seen"]["datetime_format"] = "%d/%m/%Y"
    metadata = Metadata.load_from_dict(
        {"tables": {"visits": {"primary_key": "visit", "columns": columns}}, "relationships": []}
    )
    settings = {"epochs": epochs, "batch_size": 100, "enable_gpu": False}
    if kind == "CTGAN":
        settings |= {"generator_dim": (48, 32), "discriminator_dim": (32,), "embedding_dim": 24}
    made = getattr(single_table, f"{kind}Synthesizer")(metadata, **settings)
    if constraints:
        made.add_constraints(constraints)
    rows = {"visits": table()}
    made.auto_assign_transformers(rows)
    made.update_transformers(
        {
            "grade": UniformEncoder(),
            "size": LabelEncoder(add_noise=True),
            "weight": FloatFormatter(
                missing_value_generation="from_column", learn_rounding_scheme=True
            ),
            "flag": BinaryEncoder(missing_value_generation="from_column"),
        }
    )
    made.fit(rows)
    return made


@pytest.fixture(scope="module", params=["CTGAN", "TVAE"])
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, Path]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = tmp_path_factory.mktemp("sdv") / f"{request.param}.pkl"
        synthesizer = fitted(request.param, epochs=5)
        synthesizer.save(str(path))
        yield synthesizer, path


@pytest.fixture(scope="module")
def bundle(model: tuple[Any, Path]) -> GraphBundle:
    return import_sdv(model[1])


def plain(frame: pd.DataFrame, kinds: dict[str, str]) -> dict[str, np.ndarray]:
    """The same types for both sides; moments as seconds."""
    made = {}
    for name, kind in kinds.items():
        own = frame[name]
        if kind == "timestamp":
            text = own.dtype == object
            moments = pd.to_datetime(own, utc=True, format="%d/%m/%Y" if text else None)
            made[name] = (moments - pd.Timestamp(0, tz="UTC")).dt.total_seconds().to_numpy()
        elif kind in ("category", "boolean"):
            present = own.astype(object)
            made[name] = present.where(own.notna(), None).to_numpy()
        else:
            made[name] = own.to_numpy(np.float64, na_value=np.nan)
    return made


def test_rows_agree_with_sdvs(model: tuple[Any, Path], bundle: GraphBundle) -> None:
    kinds = {column.name: column.kind for column in bundle.schema.columns}
    assert list(kinds) == LEARNT
    theirs, again = (plain(model[0].sample(ROWS)["visits"], kinds) for _ in range(2))
    ours = plain(Generator(bundle).sample(ROWS, seed=1).to_pandas(), kinds)
    for name in LEARNT:
        # int8 weights, the bins, and the batches' own statistics may move a column by .01
        assert distance(theirs[name], ours[name]) < CHANCE + 0.01, name
    shown = [name for name in LEARNT if name != "constant"]
    first, other, own = (
        correlations([rows[name] for name in shown]) for rows in (theirs, again, ours)
    )
    assert np.abs(first - own).max() < np.abs(first - other).max() + 0.04


def test_what_is_told(model: tuple[Any, Path], bundle: GraphBundle) -> None:
    found = bundle.metrics["import"]
    assert found["sdv_version"].startswith("2.")
    assert found.get("rows") == (480 if found["model"] == "CTGAN" else None)
    assert set(found["left_out"]) == {"visit", "email"}
    columns = {column.name: column for column in bundle.schema.columns}
    assert {name for name, column in columns.items() if column.nullable} == {
        "ward", "cost", "weight", "flag",
    }  # fmt: skip
    assert columns["cost"].decimals == 2
    assert columns["age"].kind == "integer"
    assert bundle.metrics["trial"]["agreement"] > 0.99


def test_the_pickle_is_several_times_the_bundle(
    model: tuple[Any, Path], bundle: GraphBundle
) -> None:
    assert model[1].stat().st_size > 3 * len(bundle.to_bytes())


def test_others_are_refused(tmp_path: Path) -> None:
    from sdv.cag import Inequality
    from sdv.metadata import Metadata
    from sdv.single_table import GaussianCopulaSynthesizer, TVAESynthesizer

    rows = {"visits": table(60)[["age", "cost"]].dropna().assign(retires=lambda f: f["age"] + 60)}
    metadata = Metadata.detect_from_dataframes(rows)
    copula = GaussianCopulaSynthesizer(metadata)
    copula.fit(rows)
    copula.save(str(tmp_path / "copula.pkl"))
    with pytest.raises(ModelImportError, match="a pickle of SDV's GaussianCopulaSynthesizer"):
        import_sdv(tmp_path / "copula.pkl")
    empty = TVAESynthesizer(metadata, enable_gpu=False)
    with pytest.warns(UserWarning, match="fit"):
        empty.save(str(tmp_path / "empty.pkl"))
    with pytest.raises(ModelImportError, match="saved before it was fitted"):
        import_sdv(tmp_path / "empty.pkl")
    constrained = TVAESynthesizer(metadata, epochs=1, enable_gpu=False)
    constrained.add_constraints([Inequality("age", "retires")])
    constrained.fit(rows)
    constrained.save(str(tmp_path / "constrained.pkl"))
    with pytest.raises(ModelImportError, match=r"has constraints \(Inequality\)"):
        import_sdv(tmp_path / "constrained.pkl")
