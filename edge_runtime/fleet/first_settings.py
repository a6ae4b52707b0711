"""The two configuration files that a new fleet begins with, for its operator to edit."""

from __future__ import annotations

__all__ = ["AGGREGATOR", "DEVICE_SETTINGS"]

#: aggregator.toml; fleet, host and port are filled in
AGGREGATOR = """\
# For `edge-runtime aggregator run`, on the machine that has the directory aggregator/. Put the
# table's schema beside it; every setting: python -m pydoc edge_runtime.aggregator.config

[fleet]
name = {name}

[data]
dir = "data"

[schema]
path = "schema.json"

[privacy]
epsilon = 8.0
delta = 1e-5

[broker]
host = {host}
port = {port}

[broker.tls]
ca = "aggregator/ca.pem"
certificate = "aggregator/certificate.pem"
key = "aggregator/key.pem"
revoked = "aggregator/crl.pem"

[updates]
keys = "aggregator/updates"
"""
#: device-settings.toml
DEVICE_SETTINGS = """\
# Sections of device.toml that `edge-runtime fleet token` puts into every provisioning file; see
# docs/device.md for all of them. A section that is missing here must be on the device already.

[source]
kind = "csv"
path = "/var/lib/edge-runtime/rows.csv"

[privacy]
epsilon = 8.0                   # the most a row may ever cost, whatever a plan asks
delta = 1e-5
"""
