"""An aggregator and an enrolled device do a round with each other, through mutual TLS."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
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
            assert root_of(tmp_path / "state") == 1
            # Keys are changed while the device is away, and the aggregator goes on.
            second.terminate()
            assert second.wait(60) == 0
            fleet.rotate_updates(root_too=True)
            fleet.rotate_updates(root_too=False)
            wait_for(lambda: roots_of(watcher) == {"2", "3"}, "metadata by the new keys")
            with subprocess.Popen(device, stderr=log) as third:
                try:
                    wait_for(lambda: root_of(tmp_path / "state") == 3, "trust in the new keys")
                finally:
                    third.terminate()
        finally:
            for process in (second, first):
                process.terminate()
    codes = (first.returncode, second.returncode, third.returncode)
    assert codes == (0, 0, 0), (tmp_path / "log").read_text()


def root_of(state_dir: Path) -> int:
    """Return the version of the root that a device goes by."""
    with closing(sqlite3.connect(f"file:{state_dir / 'device.sqlite'}?mode=ro", uri=True)) as store:
        row = store.execute("SELECT value FROM meta WHERE key = 'updates'").fetchone()
    trusted = None if row is None else json.loads(row[0])["trusted"]
    return 0 if trusted is None else int(trusted["root"])


def roots_of(watcher: Party) -> set[str]:
    found = [payload for topic, payload in watcher.got if topic == f"{ROOT}/down/all/update"]
    return set(json.loads(found[-1])["roots"]) if found else set()


def phase_of(watcher: Party) -> str:
    statuses = [payload for topic, payload in watcher.got if topic == f"{ROOT}/down/all/status"]
    return decode_status(statuses[-1]).phase if statuses else ""
