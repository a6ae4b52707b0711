"""`impute`, and what `sample` says of rows drawn in vain."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest

from edge_runtime.schema import Schema, read_table

from .conftest import SCHEMA, Run


@pytest.fixture(scope="module")
def holes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("holes") / "holes.csv"
    path.write_text("hour,origin,delay,late\n7,,4,false\n,JFK,,true\n22,LGA,90,\n5,EWR,0,false\n")
    return path


def test_impute_fills_cells_and_says_how(
    open_bundle: Path, holes: Path, tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "filled.csv"
    outcome = run("impute", open_bundle, holes, "--out", out)
    assert outcome.code == 0
    assert "4 cells of 3 of 4 rows" in outcome.out
    assert "3 exact, 0 sampled" in outcome.out
    assert "WITHOUT PRIVACY" in outcome.err
    lines = out.read_text().splitlines()
    assert lines[0] == "late,hour,origin,delay"
    assert lines[1].startswith("false,7,")
    assert lines[1].endswith(",4")
    assert lines[4] == "false,5,EWR,0"
    assert ",," not in out.read_text()


def test_impute_draws_as_many_files_as_asked(
    open_bundle: Path, holes: Path, tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "filled.parquet"
    outcome = run("impute", open_bundle, holes, "--out", out, "--draws", 3, "--seed", 5, "--json")
    assert outcome.code == 0
    files = [Path(name) for name in outcome.json["files"]]
    assert [path.name for path in files] == [f"filled.{n}.parquet" for n in (1, 2, 3)]
    assert outcome.json["cells"] == 4
    schema = Schema.from_json(SCHEMA)
    tables = [read_table(path, schema, synthetic=True) for path in files]
    assert {table.rows for table in tables} == {4}
    assert len({table.columns["delay"][1] for table in tables}) > 1
    assert tables[0].synthetic is not None
    again = run("impute", open_bundle, holes, "--out", tmp_path / "b.csv", "--draws", 1)
    assert again.code == 0
    assert (tmp_path / "b.1.csv").exists()


def test_impute_refuses_what_does_not_fit(open_bundle: Path, tmp_path: Path, run: Run) -> None:
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("hour,origin,delay\n7,JFK,4\n")
    outcome = run("impute", open_bundle, wrong, "--out", tmp_path / "x.csv")
    assert outcome.code == 5
    assert "no column 'late'" in outcome.err
    assert not (tmp_path / "x.csv").exists()


def test_sample_says_how_many_rows_were_drawn_in_vain(
    open_bundle: Path, rows_csv: Path, tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "new.csv"
    plain = run("sample", open_bundle, "--rows", 50, "--where", "late=true", "--out", out)
    assert "accepted" not in plain.err

    document = json.loads(SCHEMA)
    document["constraints"] = [{"kind": "order", "columns": ["hour", "delay"]}]
    bound = tmp_path / "bound.json"
    bound.write_text(json.dumps(document))
    header, *lines = rows_csv.read_text().splitlines()
    fine = [line for line in lines if in_order(*line.split(",")[::2])]
    kept = tmp_path / "kept.csv"
    kept.write_text("\n".join([header, *fine]))
    bundle = tmp_path / "bound.bundle"
    options = ["--schema", str(bound), "--epochs", "2", "--hidden", "32", "--out", str(bundle)]
    assert run("fit", rows_csv, *options).code == 5  # its rows break the constraint
    assert run("fit", kept, *options).code == 0
    outcome = run("sample", bundle, "--rows", 500, "--out", out)
    assert outcome.code == 0
    assert "rows drawn were accepted" in outcome.err
    shown = run("sample", bundle, "--rows", 500, "--out", out, "--json").json
    assert 0.2 < shown["acceptance"] < 1
    assert shown["drawn"] >= 500
    table = read_table(out, Schema.load(bound))  # which checks it
    assert table.rows == 500


def test_sample_draws_series_of_a_length(tmp_path: Path, run: Run) -> None:
    rows = tmp_path / "rows.csv"
    lines = [f"{who},{at},{(at * 7 + who) % 10}" for who in range(10) for at in range(300)]
    rows.write_text("\n".join(["who,at,x", *lines]))
    schema = tmp_path / "schema.json"
    schema.write_text(
        json.dumps(
            {
                "format": "edge-runtime-schema", "version": 1, "name": "steps",
                "columns": [
                    {"name": "who", "kind": "integer", "low": 0, "high": 9},
                    {"name": "at", "kind": "integer", "low": 0, "high": 999},
                    {"name": "x", "kind": "integer", "low": 0, "high": 9},
                ],
                "sequence": {"lags": 1, "entity": "who", "order": "at", "every": 1},
            }
        )
    )  # fmt: skip
    bundle, out = tmp_path / "b.bundle", tmp_path / "series.csv"
    options = ["--schema", schema, "--epochs", 40, "--hidden", 32, "--out", bundle]
    fitted = run("fit", rows, *options)
    assert fitted.code == 0
    assert "2,990 windows x 2 columns" in fitted.out
    assert "--rows 100 --length 500" in fitted.out
    assert "a row is a window: 2 rows side by side" in run("sample", bundle, "--rows", 3).err
    made = run("sample", bundle, "--rows", 3, "--length", 20, "--out", out)
    assert made.code == 0
    assert "window" not in made.err
    assert "60 rows in" in made.err
    header, *lines = out.read_text().splitlines()
    assert header == "who,step,x"
    x = [int(line.split(",")[2]) for line in lines[:20]]
    # Each value follows from the one before: 7 more, modulo 10.
    assert sum(b == (a + 7) % 10 for a, b in itertools.pairwise(x)) >= 17
    # The file has a step where the schema has an order; a bundle of windows knows neither's bounds.
    compared = run("evaluate", rows, out, "--schema", schema)
    assert compared.code == 0
    assert re.search(r"autocorrelations, mean difference +0\.\d+ \(real against real", compared.out)
    refused = run("evaluate", rows, out, "--bundle", bundle)
    assert refused.code != 0
    assert "--schema" in refused.err


def in_order(hour: str, delay: str) -> bool:
    return not delay or int(hour) <= int(delay)
