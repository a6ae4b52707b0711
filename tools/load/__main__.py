"""A fleet of 10,000 connected devices on one machine, and what its aggregator makes of it.

    python -m tools.load --devices 10000 --rate 1000 --minutes 10

Mosquitto, the aggregator and all light devices are real processes on the loopback interface. Half
way the aggregator is killed and started again. At the end everything that was acknowledged is
looked for in the catalogue and in the pool.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from edge_runtime.errors import EdgeRuntimeError
from edge_runtime.fleet.broker import Broker, start_broker
from edge_runtime.generator import load_bundle
from tools.load.check import check
from tools.load.generator import Settings
from tools.load.processes import Meter, only_child
from tools.load.report import print_table

_ROOT = Path(__file__).parents[2]
_FLEET = "load"
_CONFIG = """
[fleet]
name = "load"
[broker]
port = {port}
[data]
dir = "data"
[schema]
path = "schema.json"
[privacy]
epsilon = "none"
[bundle]
packed = "{bundle}"
[rounds]
count = 1
deadline_s = 1e6
[rows]
maximum = 1000000000
"""
#: between the kill and the next start
_DOWN_S = 2.0


class Aggregator:
    """The real process over one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, anew after a kill."""
        config = self._directory / "aggregator.toml"
        with (self._directory / "aggregator.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edge_runtime.aggregator", "--config", str(config)],
                stdout=log,
                stderr=log,
                cwd=_ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        return self.process


def run(options: argparse.Namespace, directory: Path, broker: Broker) -> dict[str, Any]:
    """Run the fleet once and return its figures."""
    bundle = _ROOT / "models" / "flights-vae" / "onnx.bundle"
    load_bundle(bundle).schema.save(directory / "schema.json")
    config = directory / "aggregator.toml"
    config.write_text(_CONFIG.format(port=broker.port, bundle=bundle))
    settings = Settings(
        host=broker.host,
        port=broker.port,
        fleet=_FLEET,
        bundle=bundle,
        out=directory,
        devices=options.devices,
        rate=options.rate,
        size_bytes=options.bytes,
        seconds=60 * options.minutes,
        resend_s=options.resend,
    ).checked()
    aggregator = Aggregator(directory)
    generator = None
    try:
        command = [sys.executable, "-m", "tools.load.generator"]
        given = json.dumps(settings._asdict(), default=str)
        generator = subprocess.Popen([*command, given], cwd=_ROOT)
        _wait_for(directory / "connected", generator, aggregator.process)
        began_s = time.monotonic()
        meters = {
            "aggregator": Meter(aggregator.process.pid),
            "reception": Meter(only_child(aggregator.process.pid)),
            "broker": Meter(broker.process.pid),
            "generator": Meter(generator.pid),
        }
        killed_s = None
        while generator.poll() is None:
            now_s = time.monotonic() - began_s
            if options.kill and killed_s is None and now_s > settings.seconds / 2:
                killed_s = now_s
                aggregator.process.kill()
                aggregator.process.wait()
                time.sleep(_DOWN_S)
                meters["aggregator"].follow(aggregator.start().pid)
                meters["reception"].follow(only_child(aggregator.process.pid))
            if aggregator.process.poll() is not None:
                raise SystemExit(f"the aggregator ended; see {directory / 'aggregator.log'}")
            time.sleep(0.1)
        for meter in meters.values():
            meter.close()
        if generator.returncode:
            raise SystemExit(f"the generator ended with code {generator.returncode}")
    finally:
        if generator is not None and generator.poll() is None:
            generator.kill()
            generator.wait()
        aggregator.process.terminate()
        aggregator.process.wait()
    figures: dict[str, Any] = json.loads((directory / "report.json").read_text())
    figures |= {
        "bytes": options.bytes,
        "rate": options.rate,
        "killed_s": killed_s,
        "cpu": {name: meter.cpu_s for name, meter in meters.items()},
        "memory": {name: meter.memory for name, meter in meters.items()},
        "found": check(directory / "data", directory / "acknowledged.txt")._asdict(),
    }
    return figures


def _wait_for(path: Path, *processes: subprocess.Popen[bytes]) -> None:
    while not path.exists():
        if any(process.poll() is not None for process in processes):
            raise SystemExit("the generator or the aggregator ended before all were connected")
        time.sleep(0.05)


def main(arguments: list[str] | None = None) -> int:
    """Run, print the table, and fail if a batch was lost or is there twice."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--devices", type=int, default=10_000, help="connected light devices")
    parser.add_argument(
        "--rate", type=float, default=1000.0, help="batches per second, all devices"
    )
    parser.add_argument("--bytes", type=int, default=10_000, help="of a batch, compressed")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long batches are offered")
    parser.add_argument("--resend", type=float, default=30.0, help="seconds before a repeat")
    parser.add_argument("--no-kill", dest="kill", action="store_false", help="no kill half way")
    parser.add_argument("--dir", type=Path, help="keep the run's files here; a new directory")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args(arguments)
    # One descriptor per device, in the generator and again in the broker.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < options.devices + 100:
        parser.error(
            f"{hard} open files are allowed here (ulimit -Hn), {options.devices + 100} needed"
        )
    with contextlib.ExitStack() as stack:
        if options.dir is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="load-")))
        else:
            directory = options.dir.resolve()
            directory.mkdir(parents=True)
        try:
            broker = stack.enter_context(start_broker(directory / "broker"))
            figures = run(options, directory, broker)
        except EdgeRuntimeError as error:
            parser.error(str(error))
    print_table(figures)
    if options.json:
        options.json.write_text(json.dumps(figures))
    found = figures["found"]
    return int(bool(found["lost"] or found["duplicated"] or figures["never_acknowledged"]))


if __name__ == "__main__":
    sys.exit(main())
