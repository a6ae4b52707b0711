"""The verbs of one machine, each run as a person or a program would."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from edge_runtime.cli.main import edge_runtime
from edge_runtime.schema import Schema, read_table

from .conftest import Run


def commands() -> list[list[str]]:
    found: list[list[str]] = []
    for name, command in edge_runtime.commands.items():
        found.append([name])
        found += [[name, inner] for inner in getattr(command, "commands", {})]
    return found


def test_every_verb_of_the_tool_is_there() -> None:
    assert {" ".join(names) for names in commands()} >= {
        "demo", "fit", "sample", "impute", "evaluate", "schema infer", "bundle inspect",
        "device run", "aggregator run", "aggregator status", "release",
    }  # fmt: skip


@pytest.mark.parametrize("names", commands(), ids=" ".join)
def test_help_shows_an_example(names: list[str], run: Run) -> None:
    outcome = run(*names, "--help")
    assert outcome.code == 0
    assert "Example:" in outcome.out
    assert f"edge-runtime {names[0]}" in outcome.out.split("Example:")[1]


@pytest.mark.parametrize("names", [[], ["aggregator"], ["bundle"], ["device"], ["schema"]])
def test_no_verb_is_described_by_half_a_sentence(names: list[str], run: Run) -> None:
    listed = run(*names, "--help").out.split("Commands:")[1].split("Example:")[0]
    assert "..." not in listed


def test_top_level(run: Run) -> None:
    assert "schema" in run("--help").out
    assert run("--version").out.startswith("edge-runtime, version 0.")
    assert run("unheard-of").code == 2


def test_schema_infer(rows_csv: Path, tmp_path: Path, run: Run) -> None:
    path = tmp_path / "schema.json"
    outcome = run("schema", "infer", rows_csv, "--condition", "late", "--out", path)
    assert outcome.code == 0
    assert "note: column 'delay': bounds" in outcome.err
    assert "4 columns into" in outcome.out
    schema = Schema.load(path)
    assert schema.names == ("late", "hour", "origin", "delay")
    printed = run("schema", "infer", rows_csv, "--condition", "late")
    assert Schema.from_json(printed.out) == schema  # standard output holds the schema alone
    found = run("schema", "infer", rows_csv, "--name", "x", "--json").json
    assert found["schema"]["name"] == "x"
    assert any("no condition columns" in note for note in found["notes"])


def test_fit_without_privacy_is_said_loudly(
    rows_csv: Path, tmp_path: Path, schema_json: Path, run: Run
) -> None:
    path = tmp_path / "a.bundle"
    outcome = run("fit", rows_csv, "--out", path, "--epochs", 1, "--hidden", 16)
    assert outcome.code == 0
    assert "WITHOUT PRIVACY" in outcome.out
    assert "schema was read off the rows" in outcome.err
    assert f"edge-runtime sample {path}" in outcome.out
    assert "WITHOUT PRIVACY" in run("bundle", "inspect", path).out
    assert "WITHOUT PRIVACY" in run("sample", path, "--rows", 3).err


def test_fit_with_privacy(rows_csv: Path, tmp_path: Path, schema_json: Path, run: Run) -> None:
    path = tmp_path / "b.bundle"
    found = run(
        "fit", rows_csv, "--schema", schema_json, "--epsilon", 3, "--out", path,
        "--epochs", 1, "--hidden", 16, "--json",
    ).json  # fmt: skip
    assert 2.5 < found["privacy"]["epsilon"] <= 3
    assert found["columns"] == ["late", "hour", "origin", "delay"]
    assert found["bytes"] == path.stat().st_size
    shown = run("bundle", "inspect", path)
    assert "epsilon 3" in shown.out or "epsilon 2.9" in shown.out
    assert "-60 .. 300 minutes" in shown.out
    assert "WITHOUT PRIVACY" not in run("sample", path, "--rows", 3).err


def test_sample_to_file_and_pipe(open_bundle: Path, tmp_path: Path, run: Run) -> None:
    csv, parquet = tmp_path / "a.csv", tmp_path / "a.parquet"
    told = run("sample", open_bundle, "--rows", 700, "--out", csv, "--seed", 5)
    assert told.code == 0
    assert "700 rows in" in told.err
    found = run("sample", open_bundle, "--rows", 700, "--out", parquet, "--seed", 5, "--json").json
    assert found["rows"] == 700
    assert found["privacy"]["epsilon"] is None
    inside = run("bundle", "inspect", open_bundle, "--json").json
    schema = Schema.from_json(json.dumps(inside["schema"]))
    assert schema.digest == inside["schema_digest"]
    one, two = read_table(csv, schema), read_table(parquet, schema, synthetic=True)
    refused = run("schema", "infer", parquet)
    assert refused.code == 5
    assert f"bundle {found['bundle_digest']}" in refused.err
    assert one.rows == two.rows == 700
    assert one["delay"].tolist() == two["delay"].tolist()
    assert pq.read_schema(parquet).names == list(schema.names)
    piped = run("sample", open_bundle, "--rows", 700, "--seed", 5)
    assert read_table(io.StringIO(piped.out), schema)["delay"].tolist() == one["delay"].tolist()
    other = run("sample", open_bundle, "--rows", 700, "--seed", 6)
    assert other.out != piped.out


def test_sample_with_conditions(open_bundle: Path, run: Run) -> None:
    outcome = run(
        "sample", open_bundle, "--rows", 40, "--where", "late=true", "--where", "origin=JFK"
    )
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert len(lines) == 41
    assert all(line.startswith("true,") and ",JFK," in line for line in lines[1:])
    missing = run("sample", open_bundle, "--rows", 5, "--where", "delay=")
    assert all(line.endswith(",") for line in missing.out.splitlines()[1:])


def test_evaluate(rows_csv: Path, open_bundle: Path, tmp_path: Path, run: Run) -> None:
    made = tmp_path / "made.parquet"
    assert run("sample", open_bundle, "--rows", 1200, "--out", made).code == 0
    report = tmp_path / "report.html"
    outcome = run(
        "evaluate", rows_csv, made, "--bundle", open_bundle, "--target", "late",
        "--inputs", "hour,origin", "--out", report,
    )  # fmt: skip
    assert outcome.code == 0
    assert "column shapes" in outcome.out
    assert "auc of late" in outcome.out
    assert "WITHOUT PRIVACY" in outcome.out
    assert "<html" in report.read_text(encoding="utf-8")
    assert report.with_suffix(".json").exists()
    found = run("evaluate", rows_csv, made, "--json").json
    assert found["fidelity"]["shapes"] > 0.8
    assert "utility" not in found


@pytest.fixture
def places(rows_csv: Path, open_bundle: Path, schema_json: Path, tmp_path: Path) -> dict[str, Path]:
    return {
        "csv": rows_csv,
        "bundle": open_bundle,
        "schema": schema_json,
        "tmp": tmp_path,
        "absent": tmp_path / "absent",
    }


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["sample", "{absent}"], 2, "does not exist"),
        (["sample", "{csv}"], 7, "error: "),
        (["sample", "{bundle}", "--where", "late"], 2, "not of the form COLUMN=VALUE"),
        (["sample", "{bundle}", "--where", "late=true", "--where", "late=false"], 2, "twice"),
        (["sample", "{bundle}", "--where", "colour=red"], 1, "no column 'colour'"),
        (["sample", "{bundle}", "--where", "late=perhaps"], 5, "'late': not a boolean: 'perhaps'"),
        (["sample", "{bundle}", "--where", "late="], 5, "'late': is never missing"),
        (["sample", "{bundle}", "--where", "origin=XXX"], 5, "they are EWR, JFK, LGA"),
        (["sample", "{bundle}", "--where", "hour=noon"], 5, "not an integer: 'noon'"),
        (["sample", "{bundle}", "--json"], 2, "--json needs --out"),
        (["sample", "{bundle}", "--out", "{tmp}/x.txt"], 5, "expected .csv or .parquet"),
        (["sample", "{bundle}", "--out", "{tmp}/no/x.csv"], 5, "cannot be written"),
        (["fit", "{csv}", "--out", "{tmp}/x", "--epsilon", "-1"], 2, "neither a positive number"),
        (["fit", "{csv}", "--out", "{tmp}/x", "--epsilon", "many"], 2, "neither a positive"),
        (["fit", "{csv}", "--out", "{tmp}/x", "--epsilon", "1"], 4, "edge-runtime schema infer"),
        (["fit", "{schema}", "--out", "{tmp}/x"], 5, "no known kind"),
        (["fit", "{csv}", "--schema", "{csv}", "--out", "{tmp}/x"], 4, "not a schema file"),
        (["schema", "infer", "{csv}", "--condition", "colour"], 4, "no column 'colour'"),
        (["schema", "infer", "{csv}", "--out", "{tmp}/no/x.json"], 1, "No such file"),
        (["bundle", "inspect", "{csv}"], 7, "error: "),
        (["device", "run", "--config", "{csv}"], 2, "rows.csv"),
        (["aggregator", "run", "--config", "{csv}"], 2, "not a TOML file"),
        (["aggregator", "status", "{tmp}"], 1, "error: "),
        (["release", "{tmp}", "--out", "{tmp}/release"], 1, "error: "),
        (["release", "{tmp}"], 2, "--out is needed"),
        (["release", "{tmp}", "--verify"], 1, "is not a release"),
        (["release", "{tmp}", "--verify", "--rows", "3"], 2, "--verify stands alone"),
    ],
)
def test_errors_are_one_line_and_a_code(
    arguments: list[str], code: int, said: str, run: Run, places: dict[str, Path]
) -> None:
    outcome = run(*[text.format(**places) for text in arguments])
    tmp_path = places["tmp"]
    assert outcome.code == code, outcome.err
    assert said in outcome.err
    assert "Traceback" not in outcome.err
    assert list(tmp_path.glob("*.csv")) + list(tmp_path.glob("x*")) == []  # nothing half-written


def test_a_wrong_value_is_named_with_its_place(
    rows_csv: Path, schema_json: Path, tmp_path: Path, run: Run
) -> None:
    broken = tmp_path / "broken.csv"
    text = rows_csv.read_text(encoding="utf-8").splitlines()
    text[7] = "noon,JFK,3,true"
    broken.write_text("\n".join(text) + "\n", encoding="utf-8")
    outcome = run("fit", broken, "--schema", schema_json, "--out", tmp_path / "x.bundle")
    assert outcome.code == 5
    assert "broken.csv, row 7, column 'hour': not an integer: 'noon'" in outcome.err


def test_model_card(open_bundle: Path, run: Run) -> None:
    assert run("bundle", "inspect", open_bundle, "--card").out.startswith("# Generator of flights")
    found = run("bundle", "inspect", open_bundle, "--json").json
    assert found["cardinalities"][0] == 2
    assert found["lineage"]["devices"] == 1


def test_a_pipe_that_closes_early_is_no_error(open_bundle: Path) -> None:
    program = "import sys; from edge_runtime.cli import main; sys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", program, "sample", str(open_bundle), "--rows", "300000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"late,hour")
        process.stdout.close()
        assert process.wait(timeout=60) == 0
        assert b"Traceback" not in process.stderr.read()


_WITHOUT_EXTRAS = """
import sys
for name in "rich pandas pyarrow duckdb ibis onnx sqlalchemy sklearn scipy".split():
    sys.modules[name] = None
from edge_runtime.cli import main
sys.exit(main(sys.argv[1:]))
"""


def base_install(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _WITHOUT_EXTRAS, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    done = base_install("bundle", "inspect", str(tmp_path / "none.bundle"))
    assert done.returncode == 2  # no such file: the verb is there
    done = base_install("aggregator", "status", str(tmp_path))
    assert done.returncode == 3
    assert "pip install 'edge-runtime[aggregator]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_base_install_has_the_verbs_of_a_device() -> None:
    done = base_install("doctor", "--json")
    assert done.returncode == 0, done.stderr
    assert {row["check"] for row in json.loads(done.stdout)} >= {"kernel", "engines", "clock"}
    assert base_install("device", "--help").returncode == 0


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch, rows_csv: Path, tmp_path: Path, run: Run) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edge_runtime.api.read_table", interrupted)
    outcome = run("fit", rows_csv, "--out", tmp_path / "x.bundle")
    assert (outcome.code, outcome.err.strip()) == (130, "stopped")
