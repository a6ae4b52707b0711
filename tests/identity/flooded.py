"""A whole fleet in a network of its own: nine devices do a round while a tenth floods the broker.

Run in a fresh network namespace (`unshare -Urn`), as the broker's machine has its rules in the
kernel; prints what was found as JSON. Arguments: directory; bytes of the flood's messages, 0: no
flood; whether the rules of flood.nft are loaded.
"""

from __future__ import annotations

import json
import ssl
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from edge_runtime.aggregator import status
from edge_runtime.fleet.fleet_dir import init_fleet
from edge_runtime.messages import TlsFiles
from tests.aggregator.conftest import Device, make_schema, make_table
from tests.aggregator.live import AggregatorProcess, LiveDevice, wait_for
from tests.identity.site import Site

FLEET = "testing"
#: of the broker as devices see it; the aggregator, at 127.0.0.1, is not limited
_HOST = "10.9.9.9"
_CONFIG = """
[fleet]
name = "testing"
devices = 9
[data]
dir = "data"
[schema]
path = "schema.json"
[privacy]
epsilon = 8.0
[rounds]
count = 1
quorum = 9
deadline_s = 600.0
[fusion]
hidden = 32
epochs = 1
batch = 128
[rows]
minimum = 10
maximum = 4000
[release]
on_finish = false
[limits]
device_burst_bytes = 4194304
[broker]
host = "127.0.0.1"
port = {port}
[broker.tls]
ca = "aggregator/ca.pem"
certificate = "aggregator/certificate.pem"
key = "aggregator/key.pem"
"""


class NetSite(Site):
    """A fleet whose broker has two addresses."""

    def make(self, directory: Path) -> Any:
        return init_fleet(
            directory, name=FLEET, host="127.0.0.1", port=8883, enrol_port=8884, also=[_HOST]
        )


class Flood:
    """Publishes on a device's own topic, by its own certificate, as fast as the socket takes it."""

    def __init__(self, tls: TlsFiles, size: int) -> None:
        self.bytes = 0
        self._tls, self._size = tls, size
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        topic = f"er/v1/{FLEET}/up/flood/batch".encode()
        body = struct.pack(">H", len(topic)) + topic + b"\0\x01" + b"z" * self._size
        packet = b"\x32" + _varint(len(body)) + body
        packets = packet * max(1, (1 << 20) // len(packet))
        while True:
            try:
                self._send(packets)
            except OSError:
                continue

    def _send(self, packets: bytes) -> None:
        import socket  # noqa: PLC0415

        with (
            socket.create_connection((_HOST, 8883)) as plain,
            self._tls.context().wrap_socket(plain, server_hostname=_HOST) as link,
        ):
            link.sendall(b"\x10\x11\x00\x04MQTT\x04\x02\x00\x3c\x00\x05flood")
            assert link.recv(4)[3] == 0
            reader = threading.Thread(target=_read_on, args=(link,), daemon=True)
            reader.start()
            while True:
                for start in range(0, len(packets), 1 << 14):
                    self.bytes += link.send(packets[start : start + (1 << 14)])


def _read_on(link: ssl.SSLSocket) -> None:
    try:
        while link.recv(1 << 16):
            pass
    except OSError:
        return


def _varint(number: int) -> bytes:
    out = b""
    while True:
        number, digit = divmod(number, 128)
        out += bytes([digit | (128 if number else 0)])
        if not number:
            return out


def main(directory: Path, size: int, *, rules: bool) -> dict[str, Any]:
    for command in (
        ["ip", "link", "set", "lo", "up"],
        ["ip", "address", "add", f"{_HOST}/32", "dev", "lo"],
    ):
        subprocess.run(command, check=True)
    site = NetSite(directory)
    schema = make_schema()
    schema.save(directory / "schema.json")
    config = directory / "aggregator.toml"
    config.write_text(_CONFIG.format(port=site.fleet.port))
    if rules:
        subprocess.run(["nft", "-f", site.fleet.access.directory / "flood.nft"], check=True)
    process = AggregatorProcess(config)
    devices: list[LiveDevice] = []
    try:
        wait_for((directory / "data" / "catalogue.sqlite").exists, process.text(), 120)
        flood = Flood(site.identity("flood"), size) if size else None
        wait_for(lambda: flood is None or flood.bytes > 1 << 20, "no flood")
        began = time.monotonic()
        for number in range(9):
            name = f"d{number}"
            device = Device(name, make_table(schema, 500, seed=number, origin=number % 4), schema)
            devices.append(
                LiveDevice(
                    device,
                    site.fleet.port,
                    rows=200,
                    host=_HOST,
                    tls=site.identity(name),
                    seed=100 * number,
                )
            )
        wait_for(
            lambda: all(len(one.done) == 2 and not one.outbox for one in devices),
            process.text(),
            150,
        )
        took_s = time.monotonic() - began
        told = process.process.pid
        peak = Path(f"/proc/{told}/status").read_text().split("VmHWM:")[1].split()[0]
        shown = status(directory / "data")
        return {
            "took_s": round(took_s, 2),
            "accepted": {n: shown["devices"][n]["accepted"]["batches"] for n in
                         (f"d{number}" for number in range(9))},
            "flood_mb": round(flood.bytes / 1e6, 1) if flood else 0,
            "flood_messages_taken": (shown["devices"].get("flood", {}).get("accepted") or {}).get(
                "quarantined", 0),
            "flood_said": shown["devices"].get("flood", {}).get("flood", ""),
            "aggregator_peak_mb": int(peak) // 1024,
        }  # fmt: skip
    finally:
        for device in devices:
            device.close()
        process.stop()
        site.close()


if __name__ == "__main__":
    found = main(Path(sys.argv[1]), int(sys.argv[2]), rules=sys.argv[3] == "rules")
    print(json.dumps(found))
