"""The whole path on one machine: data, broker, aggregator, devices, release, report.

Every part is the real one in a process of its own; this module only prepares, starts, watches and
judges. What it knows of the fleet it learns from the broker and from the release, as anyone could.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from edge_runtime.errors import FleetError
from edge_runtime.evaluation import Report, evaluate
from edge_runtime.fleet.broker import start_broker
from edge_runtime.fleet.configs import (
    FLEET,
    FleetSettings,
    write_aggregator_config,
    write_device_config,
)
from edge_runtime.fleet.flights import INPUTS, TARGET, FlightsData, prepare_flights, read_rows
from edge_runtime.fleet.ledger_figures import fleet_figures
from edge_runtime.fleet.observer import Observer, Snapshot
from edge_runtime.fleet.processes import Child, MemoryWatch, Processes
from edge_runtime.fleet.view import FleetView
from edge_runtime.fleet.workdir import WorkDir

__all__ = ["DemoOptions", "DemoResult", "run_demo"]

_POLL_S = 0.25
#: the fleet itself; a hundred seconds are usual on two cores
_FLEET_TIMEOUT_S = 600.0
_BASELINES_TIMEOUT_S = 300.0


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What `edge-runtime demo` is asked for.

    Parameters
    ----------
    out : Path
        Everything is written there.
    devices : int or None
        The largest carriers only; all with at least 500 rows when None.
    settings : FleetSettings
        Budget, rounds and seed.
    """

    out: Path
    devices: int | None = None
    settings: FleetSettings = field(default_factory=FleetSettings)


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What a run produced.

    Parameters
    ----------
    report : Report
    release, bundle, html, json : Path
        The dataset, the generator, and the report for people and programs.
    seconds : float
    peak_memory_bytes : int
        Of all processes together.
    """

    report: Report
    release: Path
    bundle: Path
    html: Path
    json: Path
    seconds: float
    peak_memory_bytes: int


def run_demo(options: DemoOptions, *, console: Console | None = None) -> DemoResult:
    """Run a fleet over the flights table and judge what it released.

    Raises
    ------
    ConfigError
        `out` is not ours to write.
    MissingExtraError
        A package of the demo extra is missing.
    FleetError
        A process ended early or the fleet did not finish; the message names its log.
    KeyboardInterrupt
        Ctrl-C, after every process has ended.
    """
    shown = console or Console()
    started = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(_terminated_as_interrupt())
        facts = {"devices": options.devices, **asdict(options.settings)}
        work = stack.enter_context(WorkDir(options.out, facts))
        memory = stack.enter_context(MemoryWatch())
        data = _prepare(options, work, shown)
        fleet = _Fleet(options.settings, work, data)
        snapshot = fleet.run(shown, memory)
        shown.print("comparing the release with real rows ...")
        report = _judge(fleet, snapshot)
        seconds = time.monotonic() - started
        report = report.with_fleet(
            {
                **report.figures["fleet"],
                "seconds": seconds,
                "peak_memory_bytes": memory.peak_bytes,
                "processes": memory.peak_processes,
            }
        )
        html, figures = work / "report.html", work / "report.json"
        report.to_html(html)
        report.to_json(figures)
        return DemoResult(
            report=report,
            release=work / "release" / "data.parquet",
            bundle=work / "release" / "generator.bundle",
            html=html,
            json=figures,
            seconds=seconds,
            peak_memory_bytes=memory.peak_bytes,
        )


def _prepare(options: DemoOptions, work: WorkDir, console: Console) -> FlightsData:
    data = prepare_flights(work / "data", devices=options.devices, seed=options.settings.seed)
    console.print(
        f"{data.rows + data.held_out:,} flights of {len(data.devices)} carriers; each device sees "
        f"its own carrier's only; {data.held_out:,} are held out",
        highlight=False,
    )
    return data


class _Fleet:
    """Broker, aggregator, devices and the baselines' process, from start to release."""

    def __init__(self, settings: FleetSettings, work: WorkDir, data: FlightsData) -> None:
        self.settings = settings
        self.work = work
        self.data = data
        self.aggregator_dir = work / "aggregator"
        self.baselines_path = work / "baselines.json"
        self.broker_name = ""

    def run(self, console: Console, memory: MemoryWatch) -> Snapshot:
        """Run until the release is written and the baselines are measured; end every process."""
        private = self.settings.epsilon is not None
        with ExitStack() as stack:
            broker = start_broker(self.work / "broker")
            stack.callback(broker.stop)
            self.broker_name = broker.name
            processes = stack.enter_context(Processes())
            observer = stack.enter_context(
                Observer(host=broker.host, port=broker.port, fleet=FLEET)
            )
            self._start(processes, broker.port)
            baselines = processes.start_module(
                "edge_runtime.fleet.baselines",
                [
                    "--data", str(self.work / "data"),
                    "--out", str(self.baselines_path),
                    "--seed", str(self.settings.seed),
                ],
                name="baselines",
                log=self.work / "logs" / "baselines.log",
                # Yields to the fleet: it fills the moments when devices wait for each other.
                nice=15,
            )  # fmt: skip
            names = {device.device: device.carrier for device in self.data.devices}
            view = stack.enter_context(FleetView(console=console, names=names, private=private))
            snapshot = self._watch(processes, baselines, observer, view, memory)
            # Devices and the aggregator say good-bye on the broker before it goes.
            processes.stop([child for child in processes.children if child is not baselines])
            self._await_baselines(processes, baselines, view, snapshot)
        return snapshot

    def _start(self, processes: Processes, port: int) -> None:
        config = self.aggregator_dir / "aggregator.toml"
        write_aggregator_config(config, data=self.data, port=port, settings=self.settings)
        processes.start_module(
            "edge_runtime.aggregator",
            ["--config", str(config)],
            name="aggregator",
            log=self.work / "logs" / "aggregator.log",
        )
        for device in self.data.devices:
            path = self.work / "devices" / device.device / "device.toml"
            write_device_config(path, device=device, port=port, settings=self.settings)
            processes.start_module(
                "edge_runtime.device",
                ["--config", str(path)],
                name=f"device {device.device}",
                log=self.work / "logs" / f"device-{device.device}.log",
            )

    def _watch(
        self,
        processes: Processes,
        baselines: Child,
        observer: Observer,
        view: FleetView,
        memory: MemoryWatch,
    ) -> Snapshot:
        deadline = time.monotonic() + _FLEET_TIMEOUT_S
        while True:
            snapshot = observer.snapshot()
            view.update(snapshot, memory_bytes=memory.peak_bytes)
            processes.check(may_end=[baselines])
            status = snapshot.aggregator
            if status is not None and status.phase == "done":
                break
            if status is not None and status.phase == "failed":
                raise FleetError(f"the aggregator gave up: {status.reason}")
            if time.monotonic() > deadline:
                raise FleetError(
                    f"the fleet did not finish within {_FLEET_TIMEOUT_S:.0f} s; the logs are in "
                    f"{self.work / 'logs'}"
                )
            time.sleep(_POLL_S)
        release = self.aggregator_dir / "data" / "release"
        if not (release / "data.parquet").is_file():
            raise FleetError(f"no release was written: {status.reason}")
        release.rename(self.work / "release")
        return snapshot

    def _await_baselines(
        self, processes: Processes, baselines: Child, view: FleetView, snapshot: Snapshot
    ) -> None:
        deadline = time.monotonic() + _BASELINES_TIMEOUT_S
        while baselines.running and time.monotonic() < deadline:
            view.update(snapshot, note="measuring the baselines on real rows")
            time.sleep(_POLL_S)
        processes.check(may_end=[baselines])
        if not self.baselines_path.is_file():
            raise FleetError(
                f"the baselines were not measured within {_BASELINES_TIMEOUT_S:.0f} s; see "
                f"{baselines.log}"
            )


def _judge(fleet: _Fleet, snapshot: Snapshot) -> Report:
    """Compare the release with real rows; the first moment at which rows of devices meet."""
    import pandas as pd  # noqa: PLC0415 - belongs to the aggregator extra

    work, data = fleet.work, fleet.data
    told: dict[str, Any] = json.loads((work / "release" / "release.json").read_text())
    baselines: list[dict[str, Any]] = json.loads(fleet.baselines_path.read_text())
    fleet_part, privacy = fleet_figures(
        fleet.aggregator_dir / "data", data=data, snapshot=snapshot, release=told
    )
    report = evaluate(
        pd.concat([read_rows(device.path) for device in data.devices], ignore_index=True),
        work / "release" / "data.parquet",
        schema=data.schema,
        holdout=read_rows(data.held_out_path),
        target=TARGET,
        inputs=INPUTS,
        public_scaling=True,
        privacy=privacy,
        baselines=baselines,
        title="Flights from New York: what a fleet of carriers learnt",
        seed=fleet.settings.seed,
    )
    made_with = {
        "broker": fleet.broker_name,
        "seed": fleet.settings.seed,
        "bundle": str(told.get("bundle_digest", ""))[:16],
        "schema": data.schema.digest[:16],
    }
    return Report({**report.figures, "fleet": fleet_part, "made_with": made_with})


@contextmanager
def _terminated_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP like Ctrl-C, so that children are ended then as well."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
