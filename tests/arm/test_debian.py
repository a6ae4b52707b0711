"""All packages on Debian 12 and 13 for this machine's processor: one life, under its own systemd.

The aggregator's unit starts as it is, walls included; so does the device's, which shows that what
the aggregator publishes is heard.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import container
import pytest
import root as arm_root
from build import PACKAGES, PYTHONS
from container import Container

from tests.arm.board_fleet import frame
from tests.arm.conftest import build, next_revision

pytestmark = [pytest.mark.arm, pytest.mark.deb, pytest.mark.skipif(
    bool(container.missing()), reason=container.missing()
)]  # fmt: skip

AGGREGATOR = "edge-runtime-aggregator"
STATE = f"/var/lib/{AGGREGATOR}"
CONFIG = "/etc/edge-runtime/aggregator.toml"
#: the steps of docs/board.md, on one machine, and rounds that are soon over
OPERATOR = f"""
set -e
cd /srv
edge-runtime fleet init shops --fleet shops --broker 127.0.0.1 --broker-user mosquitto
edge-runtime schema infer rows.csv --condition weekend --out /etc/edge-runtime/schema.json
cp -r shops/aggregator /etc/edge-runtime/
chown -R {AGGREGATOR}: /etc/edge-runtime/aggregator
sed 's|^dir = .*|dir = "{STATE}"|; s|^name = .*|&\\ndevices = 1|' shops/aggregator.toml >{CONFIG}
cat >>{CONFIG} <<'END'
[rounds]
count = 1
quorum = 1
[train]
steps = 50
expected_batch = 128
[rows]
share = 0.25
[fusion]
hidden = 32
epochs = 5
max_seconds = 20
END
printf '[source]\npath = "/srv/rows.csv"\n[privacy]\nepsilon = 8.0\ndelta = 1e-5\n' \\
    >shops/device-settings.toml
systemd-run --unit broker mosquitto -c /srv/shops/broker/mosquitto.conf
systemd-run --unit enrolment edge-runtime fleet serve /srv/shops
"""


class Debian:
    """A booted release with the packages in two revisions in /packages."""

    def __init__(self, release: str, folder: Path) -> None:
        codename, _ = PYTHONS[release]
        self.root, packages = folder / "root", folder / "packages"
        build(packages / "1", "--work", str(folder / "work"), "--arch", "amd64",
              "--release", release, "--packages", *PACKAGES)  # fmt: skip
        (packages / "2").mkdir()
        for file in sorted((packages / "1").iterdir()):
            next_revision(file, packages / "2")
        arm_root.unpack(container.make_debian(codename), self.root)
        frame().to_csv(self.root / "srv/rows.csv", index=False)
        self.machine = Container(
            self.root, binds={packages: "/packages"}, log=folder / "console.log"
        )
        self.machine.wait_ready(timeout_s=120)
        self.run = self.machine.run

    def show(self, unit: str, name: str) -> str:
        return self.run(f"systemctl show --value --property {name} {unit}")


@pytest.fixture(scope="module", params=list(PYTHONS))
def debian(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Debian]:
    with contextlib.ExitStack() as end:
        made = Debian(request.param, tmp_path_factory.mktemp(f"debian{request.param}"))
        end.callback(made.machine.power_off)
        yield made


def test_lintian_of_the_release_finds_no_error(debian: Debian) -> None:
    # These are not compressed; those for people are.
    plain = "uses-no-compression-for-control-tarball,uses-no-compression-for-data-tarball"
    debian.run(f"lintian --fail-on error --suppress-tags {plain} /packages/1/*", timeout_s=1200)


def test_everything_installed_is_found_and_answers_as_it_should(debian: Debian) -> None:
    debian.run("dpkg --install /packages/1/*", timeout_s=600)
    said = debian.run("edge-runtime doctor")
    assert "PROBLEM" not in said
    assert re.search(r"known answers repeated", said)
    assert "onnx (onnxruntime" in said
    every = (
        "import importlib, pkgutil, edge_runtime as package; "
        "names = [m.name for m in pkgutil.walk_packages(package.__path__, 'edge_runtime.')]; "
        "[importlib.import_module(name) for name in names if '__main__' not in name]; "
        "import pyarrow.dataset, sdmetrics.reports, sklearn.ensemble, ibis.backends.duckdb"
    )
    debian.run(f'/opt/edge-runtime/bin/python3 -I -c "{every}"')


def test_not_configured_says_what_to_do_and_is_not_started_again(debian: Debian) -> None:
    said = debian.run(f"systemctl start {AGGREGATOR} || journalctl --no-pager -u {AGGREGATOR}")
    assert "fleet.name must be" in said
    assert debian.show(AGGREGATOR, "ExecMainStatus") == "2"
    assert debian.show(AGGREGATOR, "ActiveState") == "failed"


def test_the_service_does_a_round_with_a_device(debian: Debian) -> None:
    debian.run(OPERATOR)
    debian.run(f"systemctl start {AGGREGATOR}")
    assert debian.show(AGGREGATOR, "User") == AGGREGATOR
    assert debian.run(f"stat -c %U:%a {STATE}") == f"{AGGREGATOR}:750"
    debian.run(
        "edge-runtime fleet token /srv/shops --device till >/etc/edge-runtime/provision.toml"
    )
    debian.run("systemctl start edge-runtime-enrol")
    deadline_s = time.monotonic() + 300
    while "done, round 1" not in (said := debian.run(f"edge-runtime aggregator status {CONFIG}")):
        assert time.monotonic() < deadline_s, said
        time.sleep(1.0)
    assert re.search(r"accepted +[1-9]", said)
    assert re.search(r"updates +signed", said)
    for unit in (AGGREGATOR, "edge-runtime-device"):
        assert debian.show(unit, "ActiveState") == "active"
        assert debian.show(unit, "NRestarts") == "0"


def test_an_upgrade_restarts_it_once_and_keeps_its_state(debian: Debian) -> None:
    started = f"journalctl --no-pager -u {AGGREGATOR} | grep -c Started"
    before = int(debian.run(started))
    config, status = debian.run(f"cat {CONFIG}"), f"edge-runtime aggregator status {CONFIG}"
    generator = re.findall("generator.*", debian.run(status))
    debian.run("dpkg --install /packages/2/*", timeout_s=600)
    assert int(debian.run(started)) == before + 1
    assert debian.show(AGGREGATOR, "ActiveState") == "active"
    assert debian.show(AGGREGATOR, "NRestarts") == "0"
    assert debian.run(f"cat {CONFIG}") == config
    assert re.findall("generator.*", debian.run(status)) == generator


def test_remove_keeps_the_state_and_purge_does_not(debian: Debian) -> None:
    debian.run(f"dpkg --remove {AGGREGATOR}")
    assert debian.run(f"systemctl is-active {AGGREGATOR} || true") == "inactive"
    assert (debian.root / CONFIG.lstrip("/")).exists()
    assert (debian.root / STATE.lstrip("/") / "catalogue.sqlite").exists()
    assert not list((debian.root / "opt/edge-runtime").rglob("pyarrow")), "no bytecode may be left"
    # The device goes on without it.
    assert debian.show("edge-runtime-device", "ActiveState") == "active"
    debian.run(f"dpkg --purge {' '.join(reversed(PACKAGES))}")
    assert not (debian.root / "opt/edge-runtime").exists()
    assert not (debian.root / CONFIG.lstrip("/")).exists()
    assert not (debian.root / STATE.lstrip("/")).exists()
    assert debian.run("systemctl list-unit-files 'edge-runtime*' --no-legend || true") == ""
