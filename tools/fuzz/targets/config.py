"""Files that people write: device.toml, aggregator.toml, provisioning files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from edge_runtime.aggregator.config import load_config as load_aggregator
from edge_runtime.device.config import load_config as load_device
from edge_runtime.device.provisioning import load_provision
from edge_runtime.errors import ConfigError
from tools.fuzz.contract import Decoder
from tools.fuzz.mutations import mutate_toml

__all__ = ["DECODERS", "seeds"]

_DIRECTORY = tempfile.TemporaryDirectory(prefix="er-fuzz-")


def _file(load: Callable[[Path], object]) -> Callable[[bytes], object]:
    path = Path(_DIRECTORY.name) / "file.toml"

    def run(data: bytes) -> object:
        path.write_bytes(data)
        return load(path)

    return run


DECODERS = tuple(
    Decoder(name, _file(load), (ConfigError,), mutate_toml)
    for name, load in (
        ("device", load_device),
        ("aggregator", load_aggregator),
        ("provision", load_provision),
    )
)

_DEVICE = """\
[device]
id = "board-17"
fleet = "demo"
state_dir = "state"
log_level = "info"
[broker]
host = "127.0.0.1"
port = 1883
username = ""
password_file = ""
keepalive_s = 30
ack_timeout_s = 30.0
[broker.tls]
ca = "ca.pem"
certificate = "device.pem"
key = "device.key"
[source]
kind = "csv"
path = "rows.csv"
follow = true
poll_s = 5.0
[privacy]
epsilon = 8.0
delta = 1e-5
accept_new_schema = false
[engine]
name = "auto"
threads = 1
[training]
checkpoint_s = 10.0
minimum_rows = 50
[limits]
store_bytes = 1073741824
temperature_slow_c = 75.0
temperature_stop_c = 85.0
memory_bytes = 0
"""
_AGGREGATOR = """\
seed = 1
[fleet]
name = "testing"
devices = 2
[broker]
host = "127.0.0.1"
[data]
dir = "data"
[schema]
path = "schema.json"
[privacy]
epsilon = 8.0
delta = 1e-5
[rounds]
count = 2
quorum = 2
deadline_s = 60.0
census_share = 0.08
anchor_share = "auto"
score_share = 0.0
[train]
steps = 300
expected_batch = 512
[rows]
share = 0.25
minimum = 500
maximum = 12000
[fusion]
hidden = 128
bins = "auto"
prior = "auto"
[guard]
misfit = 0.5
[release]
rows = 0
[limits]
queue_messages = 1024
"""
_PROVISION = f"""\
[device]
id = "board-17"
[fleet]
name = "clinics"
host = "broker.example"
port = 8883
issued_unix_s = 1780000000
ca = '''
-----BEGIN CERTIFICATE-----
-----END CERTIFICATE-----
'''
[token]
id = "{"0" * 32}"
secret = "{"a" * 43}"
[source]
path = "/data/rows.csv"
[privacy]
epsilon = "none"
"""


def seeds() -> dict[str, list[bytes]]:
    """Make valid inputs."""
    return {
        "device": [_DEVICE.encode()],
        "aggregator": [_AGGREGATOR.encode()],
        "provision": [_PROVISION.encode()],
    }
