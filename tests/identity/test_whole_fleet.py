"""An aggregator and an enrolled device do a round with each other, through mutual TLS."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from edge_runtime.device.enrol import enrol
from edge_runtime.fleet.issuing import serve
from edge_runtime.fleet.tokens import make_provision
from edge_runtime.messages import decode_status
from tests.cli.conftest import SCHEMA, make_csv
from tests.identity.site import ROOT, Party, Site, wait_for


def test_a_census_through_mutual_tls(site: Site, tmp_path: Path) -> None:
    fleet = site.fleet
    rows = make_csv(tmp_path / "rows.csv", 600)
    (fleet.path / "schema.json").write_text(SCHEMA)
    config = fleet.path / "aggregator.toml"
    config.write_text(
        config.read_text().replace('name = "clinics"', 'name = "clinics"\ndevices = 1')
    )
    settings = fleet.path / "device-settings.toml"
    settings.write_text(settings.read_text().replace("/var/lib/edge-runtime/rows.csv", str(rows)))
    with fleet.register() as register:
        text = make_provision(fleet, register, device="ward-7")
        fleet.write_access(register)
    fleet.access.reload()
    (tmp_path / "p.toml").write_text(text)
    stop = threading.Event()
    service = threading.Thread(target=serve, args=(fleet.path,), kwargs={"stop": stop})
    service.start()
    try:
        enrol(source=tmp_path / "p.toml", state_dir=tmp_path / "state",
              config=tmp_path / "device.toml", timeout_s=60)  # fmt: skip
    finally:
        stop.set()
        service.join()
    watcher = site.device("watcher")
    program = "import sys; from edge_runtime.cli import main; sys.exit(main())"
    aggregator = [sys.executable, "-c", program, "aggregator", "run", "--config", config]
    device = [sys.executable, "-m", "edge_runtime.device", "--config", tmp_path / "device.toml"]
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(aggregator, stderr=log) as first,
        subprocess.Popen(device, stderr=log) as second,
    ):
        try:
            wait_for(
                lambda: first.poll() is not None or phase_of(watcher) in ("fusing", "round"),
                "a census that is over", timeout_s=180,
            )  # fmt: skip
        finally:
            for process in (second, first):
                process.terminate()
    assert (first.returncode, second.returncode) == (0, 0), (tmp_path / "log").read_text()


def phase_of(watcher: Party) -> str:
    statuses = [payload for topic, payload in watcher.got if topic == f"{ROOT}/down/all/status"]
    return decode_status(statuses[-1]).phase if statuses else ""
