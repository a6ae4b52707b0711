"""doctor and diag look at a device whose agent is connected, and leave it so."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.device.config import DeviceConfig, load_config
from edge_runtime.device.doctor import examine
from edge_runtime.device.doctor.finding import Finding
from edge_runtime.device.retained import retained_state
from tests.identity.site import ROOT, Site

_DEVICE = """\
[device]
id = "ward-7"
fleet = "clinics"
state_dir = "state"

[broker]
host = "127.0.0.1"
port = {port}

[broker.tls]
ca = "{folder}/ca.pem"
certificate = "{folder}/certificate.pem"
key = "{folder}/key.pem"

[source]
path = "rows.csv"

[privacy]
epsilon = 8.0
"""


def make_config(site: Site, folder: Path, path: Path) -> DeviceConfig:
    path.write_text(_DEVICE.format(port=site.fleet.port, folder=folder))
    return load_config(path)


def certificate_row(config: DeviceConfig) -> Finding:
    (row,) = [row for row in examine(config) if row.check.startswith("broker certificate")]
    return row


def test_a_connected_agent_keeps_its_connection(site: Site, tmp_path: Path) -> None:
    # The broker takes the client id from the certificate: a second login ends the first.
    agent = site.device("ward-7")
    config = make_config(site, site.directory / "parties" / "ward-7", tmp_path / "device.toml")
    assert not certificate_row(config).problem
    assert "not asked" in retained_state(config)
    aggregator = site.aggregator()
    agent.send(f"{ROOT}/up/ward-7/state", b"here")
    aggregator.wait_got(f"{ROOT}/up/ward-7/state", b"here")
    assert agent.connects == 1


def test_a_revoked_certificate_is_found_without_a_login(site: Site, tmp_path: Path) -> None:
    folder = site.directory / "parties" / "ward-7"
    site.identity("ward-7")
    config = make_config(site, folder, tmp_path / "device.toml")
    assert not certificate_row(config).problem
    site.revoke("ward-7")
    stranger = site.party(site.identity("other"))
    stranger.ready()
    found = certificate_row(config)
    assert "revoked" in found.problem
    assert "enrol the device again" in found.fix
