"""A whole small fleet, every process started by the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_runtime.fleet.broker import start_broker
from edge_runtime.schema import read_table

from .conftest import SCHEMA, Run, make_csv

PROGRAM = "import sys; from edge_runtime.cli import main; sys.exit(main())"


class Fleet:
    """The processes and their files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *arguments: str) -> None:
        with (self.directory / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *arguments],
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text(encoding="utf-8")

    def wait(self, what: str, condition: Callable[[], object], timeout_s: float = 90) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            for name, process in self.processes.items():
                assert process.poll() is None, f"{name} ended: {self.log(name)}"
            assert time.monotonic() < end, f"{what}: {self.log('aggregator')}"
            time.sleep(0.1)

    def stop(self, name: str) -> int:
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(timeout=30)

    def end(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    (tmp_path / "schema.json").write_text(SCHEMA, encoding="utf-8")
    made = Fleet(tmp_path)
    with start_broker(tmp_path / "broker") as broker:
        (tmp_path / "aggregator.toml").write_text(
            f"""
            [fleet]
            name = "small"
            devices = 2
            [broker]
            host = "127.0.0.1"
            port = {broker.port}
            [data]
            dir = "data"
            [schema]
            path = "schema.json"
            [privacy]
            epsilon = 8.0
            delta = 1e-5
            [rounds]
            count = 1
            quorum = 2
            deadline_s = 60.0
            [train]
            steps = 120
            expected_batch = 64
            [fusion]
            hidden = 16
            epochs = 2
            """,
            encoding="utf-8",
        )
        for number, name in enumerate(("one", "two")):
            folder = tmp_path / name
            folder.mkdir()
            make_csv(folder / "rows.csv", 900, seed=number)
            (folder / "device.toml").write_text(
                f"""
                [device]
                id = "{name}"
                fleet = "small"
                state_dir = "state"
                [broker]
                port = {broker.port}
                [source]
                path = "rows.csv"
                follow = false
                [privacy]
                epsilon = 8.0
                delta = 1e-5
                """,
                encoding="utf-8",
            )
        yield made
        made.end()


def test_from_rows_to_release(fleet: Fleet, run: Run) -> None:
    home = fleet.directory
    config = home / "aggregator.toml"
    fleet.start("aggregator", "aggregator", "run", "--config", str(config))
    for name in ("one", "two"):
        fleet.start(name, "device", "run", "--config", str(home / name / "device.toml"))
    fleet.wait("release", (home / "data" / "release" / "release.json").exists)

    shown = run("aggregator", "status", config)  # while it runs
    assert shown.code == 0
    assert "done, round 1 of 1" in shown.out
    assert "one" in shown.out
    assert "two" in shown.out
    assert "alarms" in shown.out
    found = run("aggregator", "status", home / "data", "--json").json
    assert found["phase"] == "done"
    assert found["totals"]["rows"] >= 1000
    assert 7 < found["devices"]["one"]["epsilon_spent"] <= 8

    # Ctrl-C and SIGTERM end every process cleanly
    assert [fleet.stop(name) for name in ("one", "two", "aggregator")] == [0, 0, 0]

    out = home / "own"
    told = run("release", config, "--out", out, "--rows", 500)
    assert told.code == 0
    assert "500 synthetic rows" in told.out
    assert read_table(out / "data.parquet", synthetic=True).rows == 500
    again = run("release", home / "data", "--out", home / "again", "--rows", 500, "--json").json
    assert again["rows"] == 500
    assert (home / "again" / "data.parquet").read_bytes() == (out / "data.parquet").read_bytes()
    listed = run("release", home / "data", "--list", "--json").json
    assert [r["rows"] for r in listed][1:] == [500]  # the first was made when the rounds ended
    assert run("release", config, "--list").out.count("epsilon") == 2
    told = run("release", config, "--again", listed[-1]["id"][:6], "--out", home / "copy")
    assert told.code == 0
    for path in out.iterdir():
        assert path.read_bytes() == (home / "copy" / path.name).read_bytes(), path.name
    even = run("release", config, "--out", home / "even", "--mode", "balanced", "--json").json
    assert even["mode"] == "balanced"
    refused = run("fit", out / "data.parquet", "--out", home / "x.bundle")
    assert refused.code == 5
    assert "synthetic rows where real ones belong" in refused.err
    assert "fleet small" in refused.err
    for wrong in (
        ("--verify", "--rows", 5),
        ("--again", "x", "--seed", 1, "--out", home / "y"),
        (),
    ):
        assert run("release", config, *wrong).code == 2
    assert run("release", config, "--again", "nothing", "--out", home / "y").code == 1
    assert run("release", out, "--verify").code == 0
    assert run("release", out, "--verify", "--json").json["intact"]
    facts = json.loads((out / "release.json").read_text(encoding="utf-8"))
    assert facts["privacy"]["epsilon"] <= 8
    (out / "schema.json").write_text("{}", encoding="utf-8")
    changed = run("release", out, "--verify")
    assert changed.code == 1
    assert "changed since it was written: schema.json" in changed.err

    # fresh rows from the release's generator
    fresh = run("sample", home / "again" / "generator.bundle", "--rows", 20)
    assert len(fresh.out.splitlines()) == 21
