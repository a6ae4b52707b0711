"""A fleet on this machine for one emulated board: authority, Mosquitto, enrolment, aggregator."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from machine import HOST_ADDRESS

from edge_runtime.aggregator import status
from edge_runtime.errors import AggregatorError
from edge_runtime.fleet.broker import find_broker, free_port
from edge_runtime.fleet.fleet_dir import FleetDir, init_fleet
from edge_runtime.schema import Schema

DEVICE = "board"
EPSILON = 8.0
ROWS = 4000
CLI = [sys.executable, "-c", "from edge_runtime.cli import main; raise SystemExit(main())"]


def frame(seed: int = 0) -> pd.DataFrame:
    """Rows of a shop: small, mixed, with dependences."""
    rng = np.random.default_rng(seed)
    day = rng.integers(0, 7, ROWS)
    items = 1 + rng.poisson(2 + (day > 4))
    return pd.DataFrame(
        {
            "weekend": np.where(day > 4, "yes", "no"),
            "till": rng.choice(["north", "south", "west"], ROWS, p=[0.5, 0.3, 0.2]),
            "items": items.clip(1, 12),
            "paid": (items * rng.gamma(4, 2.5, ROWS)).round(2).clip(0.1, 300),
        }
    )


class BoardFleet:
    """The fleet's processes, from `start` to `stop`.

    Parameters
    ----------
    directory : Path
        Becomes the fleet's directory.
    engine : str
        Of the board.
    source : str
        Where the board has its rows.
    steps : int
        Of training, in each round.
    """

    def __init__(
        self, directory: Path, *, engine: str = "onnx", source: str = "/srv/rows.csv",
        steps: int = 600,
    ) -> None:  # fmt: skip
        self.directory = directory
        self.fleet: FleetDir = init_fleet(
            directory, name="shops", host="127.0.0.1", also=(HOST_ADDRESS,), port=free_port(),
            enrol_port=free_port(), broker_user="root",
        )  # fmt: skip
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.rows = directory / "rows.csv"
        table = frame()
        table.to_csv(self.rows, index=False)
        schema = Schema.infer(table, name="shop", conditions=("weekend",))
        schema.save(directory / "schema.json")
        self._configure(engine, source, steps)

    def _configure(self, engine: str, source: str, steps: int) -> None:
        path = self.directory / "aggregator.toml"
        text = path.read_text(encoding="utf-8").replace(
            'name = "shops"', 'name = "shops"\ndevices = 1'
        )
        text += (
            "\n[rounds]\ncount = 2\nquorum = 1\ndeadline_s = 1800\n"
            f"[train]\nsteps = {steps}\nexpected_batch = 128\n"
            "[rows]\nshare = 0.25\nminimum = 100\nmaximum = 4000\n"
            "[fusion]\nhidden = 32\nepochs = 5\nmax_seconds = 20\n"
        )
        tomllib.loads(text)
        path.write_text(text, encoding="utf-8")
        (self.directory / "device-settings.toml").write_text(
            f'[source]\npath = "{source}"\n[privacy]\nepsilon = {EPSILON}\ndelta = 1e-5\n'
            f'[engine]\nname = "{engine}"\n[training]\ncheckpoint_s = 1.0\ncheckpoint_steps = 10\n',
            encoding="utf-8",
        )

    def start(self) -> None:
        """Start broker, enrolment and aggregator."""
        broker = find_broker("mosquitto")
        assert broker is not None
        self._spawn("broker", [str(broker), "-c", str(self.fleet.access.configuration)])
        self._spawn("enrolment", [*CLI, "fleet", "serve", str(self.directory)])
        config = str(self.directory / "aggregator.toml")
        self._spawn("aggregator", [*CLI, "aggregator", "run", "--config", config])

    def _spawn(self, name: str, command: list[str]) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def token(self) -> str:
        """Return a provisioning file for the board."""
        done = subprocess.run(
            [*CLI, "fleet", "token", str(self.directory), "--device", DEVICE,
             "--host", HOST_ADDRESS],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def status(self) -> dict[str, Any]:
        """Return what the aggregator holds."""
        return status(self.directory / "data")

    def device(self) -> dict[str, Any]:
        """Return the board's last state and what was accepted from it."""
        return self.status()["devices"].get(DEVICE, {})

    def wait(
        self, condition: Callable[[dict[str, Any]], object], what: str, *, timeout_s: float
    ) -> dict[str, Any]:
        """Wait until the aggregator's status fulfils a condition; return it."""
        deadline_s = time.monotonic() + timeout_s
        found: dict[str, Any] = {}
        while True:
            for name, process in self._processes.items():
                assert process.poll() is None, f"{name} ended: {self.log(name)}"
            # Until the aggregator has made its catalogue there is none to look at.
            with contextlib.suppress(AggregatorError):
                found = self.status()
            if found and condition(found):
                return found
            assert time.monotonic() < deadline_s, (
                f"not in time: {what}; device {found.get('devices')}, {self.log('aggregator')}"
            )
            time.sleep(0.2)

    def log(self, name: str) -> str:
        """Return the end of a process's log."""
        return (self.directory / f"{name}.log").read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        """End all processes."""
        for process in reversed(self._processes.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
