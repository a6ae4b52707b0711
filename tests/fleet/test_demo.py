"""The whole demo with every real part, on fewer flights; and what happens when it is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from edge_runtime.aggregator import verify_release
from edge_runtime.cli.demo import demo
from edge_runtime.errors import ConfigError, FleetError
from edge_runtime.evaluation import Report
from edge_runtime.fleet import demo as module
from edge_runtime.fleet import flights as flights_module
from edge_runtime.fleet.configs import FleetSettings
from edge_runtime.fleet.demo import DemoOptions, run_demo
from edge_runtime.fleet.outcome import kept_files
from edge_runtime.generator import Bundle

#: a program that runs the demo on a pickled table
DRIVER = """
import signal
import sys
import pandas
from edge_runtime.fleet import flights
# a shell starts what runs in its background with SIGINT ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
table = pandas.read_pickle(sys.argv.pop(1))
flights.read_flights = lambda: table
from edge_runtime.cli.demo import demo
demo()
"""


def run(few: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    monkeypatch.setattr(flights_module, "read_flights", lambda: few)
    return CliRunner().invoke(demo, arguments)


def processes_of(out: Path) -> list[str]:
    """Command lines of running processes that mention this directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(out) in line and int(entry.name) != os.getpid():
            found.append(line)
    return found


def test_from_data_to_report(
    few_flights: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    result = run(few_flights, monkeypatch, "--rounds", "1", "--devices", "2", "--out", str(out))
    assert result.exit_code == 0, result.output
    for text in ("real rows sent", "AUC for late: (a)", "(c) FedAvg", "(d) the synthetic rows"):
        assert text in result.output
    assert "edge-runtime sample" in result.output
    assert "WITHOUT PRIVACY" not in result.output
    assert processes_of(out) == []

    report = Report.from_json(out / "report.json")
    assert report.private
    fleet, privacy = report.figures["fleet"], report.figures["privacy"]
    assert 0 < privacy["epsilon"] <= 8
    assert fleet["real_rows"] == 2400
    assert fleet["real_rows_sent"] == 0
    assert fleet["rows_accepted"] > 0
    assert [r["name"] for r in fleet["rounds"]] == ["census", "round 1"]
    assert 0 < fleet["rounds"][0]["epsilon"] < fleet["rounds"][1]["epsilon"] <= 8
    assert all(d["bytes_up"] > 0 and d["status"] == "idle" for d in fleet["devices"])
    assert fleet["processes"] >= 5
    assert 10**8 < fleet["peak_memory_bytes"] < 3 * 10**9
    assert [s["kind"] for s in report.figures["utility"]["scores"]] == [
        "real", "local", "federated", "release",
    ]  # fmt: skip
    assert "Rounds" in (out / "report.html").read_text()

    assert verify_release(out / "release") >= 5
    table = pq.read_table(out / "release" / "data.parquet")
    assert table.num_rows == report.figures["rows"]["synthetic"]
    Bundle.load(out / "release" / "generator.bundle")


def test_without_privacy_is_loud_everywhere_and_a_second_run_is_clean(
    few_flights: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    (out / "old").mkdir(parents=True)
    (out / ".edge-runtime-demo").write_text("{}")
    result = run(
        few_flights, monkeypatch,
        "--epsilon", "none", "--rounds", "1", "--devices", "1", "--json", "--out", str(out),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert not (out / "old").exists()
    figures = json.loads(result.stdout)
    assert figures["privacy"]["epsilon"] is None
    assert "WITHOUT PRIVACY" not in result.stdout  # programs read the null
    assert result.stderr.count("WITHOUT PRIVACY") >= 6
    assert "WITHOUT PRIVACY" in (out / "report.html").read_text()
    assert "WITHOUT PRIVACY" in (out / "release" / "PRIVACY.md").read_text()
    assert "WITHOUT PRIVACY" in (out / "release" / "MODEL_CARD.md").read_text()
    assert "WITHOUT PRIVACY" in (out / "logs" / "device-ua.log").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_ends_every_process_and_says_what_was_kept(
    few_flights: pd.DataFrame, tmp_path: Path, number: signal.Signals
) -> None:
    table, out = tmp_path / "table.pickle", tmp_path / "out"
    few_flights.to_pickle(table)
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(table), "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not list(out.glob("devices/*/state/*")):  # until devices are at work
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(processes_of(out)) >= 6
        process.send_signal(number)
        output, _ = process.communicate(timeout=40)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, output
    assert "Every process has ended" in output
    assert "the devices' stores and ledgers (devices)" in output
    assert "Traceback" not in output
    assert processes_of(out) == []
    assert (out / "data" / "held-out.csv").exists()


def test_a_device_that_dies_ends_the_demo_with_its_last_words(
    few_flights: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flights_module, "read_flights", lambda: few_flights)
    write = module.write_device_config

    def broken(path: Path, **parts: object) -> None:
        write(path, **parts)  # type: ignore[arg-type]
        path.write_text(path.read_text() + "\n[nonsense]\nx = 1\n")

    monkeypatch.setattr(module, "write_device_config", broken)
    out = tmp_path / "out"
    with pytest.raises(FleetError, match=r"(?s)device ua ended with exit code 2.*nonsense"):
        run_demo(DemoOptions(out=out, devices=1, settings=FleetSettings(rounds=1)))
    assert processes_of(out) == []


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    result = CliRunner().invoke(demo, ["--out", str(tmp_path)])
    assert isinstance(result.exception, ConfigError)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    assert kept_files(tmp_path) == []


@pytest.mark.parametrize("wrong", ["zero", "0", "-1", "inf", "nan"])
def test_impossible_budgets_are_refused(wrong: str) -> None:
    result = CliRunner().invoke(demo, ["--epsilon", wrong])
    assert result.exit_code == 2
    assert "neither a positive number nor 'none'" in result.output


def test_help_shows_an_example() -> None:
    result = CliRunner().invoke(demo, ["--help"])
    assert result.exit_code == 0
    assert "Example: edge-runtime demo" in result.output
