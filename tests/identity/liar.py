"""A broker that lies: everything between a device and its aggregator passes through its hands.

Each side has a real Mosquitto with the fleet's own certificate to talk to, and between the two
stands who hears everything, withholds what it likes, and says on either side whatever it wants.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from edge_runtime.fleet.broker import find_broker, free_port
from edge_runtime.fleet.fleet_dir import FleetDir
from edge_runtime.messages import Link, Topics
from tests.identity.site import wait_for

_RETAINED = (
    "state", "schema", "plan", "status", "alarms", "update", "certificate", "revoked", "bundle",
)  # fmt: skip

_CONFIG = """
per_listener_settings true
max_packet_size 8388608
listener {tls} 127.0.0.1
certfile {directory}/server.pem
keyfile {directory}/server.key
cafile {directory}/ca.pem
require_certificate true
use_identity_as_username true
allow_anonymous false
listener {plain} 127.0.0.1
allow_anonymous true
{user}
"""


class Door:
    """The broker that one side sees, and the liar's way into it."""

    def __init__(self, folder: Path, fleet: FleetDir, hear: Callable[[str, bytes], None]) -> None:
        folder.mkdir()
        self.port, plain = free_port(), free_port()
        config = folder / "mosquitto.conf"
        config.write_text(
            _CONFIG.format(
                tls=self.port, plain=plain, directory=fleet.access.directory,
                user="user root" if os.geteuid() == 0 else "",
            )
        )  # fmt: skip
        program = find_broker("mosquitto")
        assert program is not None
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen([program, "-c", config], stdout=log, stderr=log)
        self.link = Link(
            host="127.0.0.1", port=plain, client_id="liar", topics=["#"],
            on_message=lambda topic, payload, _: hear(topic, payload),
            retry_min_s=0.05, retry_max_s=0.2,
        ).start()  # fmt: skip
        self.link.wait_connected(20)

    def close(self) -> None:
        self.link.close(timeout_s=1)
        self._process.terminate()
        self._process.wait(20)


class Liar:
    """Passes on what it does not withhold, by kind of message.

    Attributes
    ----------
    up, down : list of (str, bytes)
        What devices and the aggregator have sent, in order, passed on or not.
    withheld : set of str
        Kinds that are not passed on.
    """

    def __init__(self, folder: Path, fleet: FleetDir) -> None:
        self.topics = Topics(fleet.name)
        self.up: list[tuple[str, bytes]] = []
        self.down: list[tuple[str, bytes]] = []
        self.withheld: set[str] = set()
        self._stack = ExitStack()
        self.to_devices = Door(folder / "devices", fleet, self._from_device)
        self._stack.callback(self.to_devices.close)
        self.to_aggregator = Door(folder / "aggregator", fleet, self._from_aggregator)
        self._stack.callback(self.to_aggregator.close)

    def close(self) -> None:
        self._stack.close()

    def say(self, topic: str, payload: bytes) -> None:
        """Publish on the side that listens to this topic."""
        address = self.topics.parse(topic)
        door = self.to_aggregator if address.direction == "up" else self.to_devices
        door.link.publish(topic, payload, retain=address.kind in _RETAINED)

    def let_pass(self, *kinds: str) -> None:
        """Withhold these no longer; what is retained of them is passed on now."""
        self.withheld -= {*kinds}
        for kind in kinds:
            found = {t: p for t, p in [*self.up, *self.down] if self.topics.parse(t).kind == kind}
            for topic, payload in found.items() if kind in _RETAINED else ():
                self.say(topic, payload)

    def of(self, topic: str) -> list[bytes]:
        """All that was sent on a topic."""
        return [payload for t, payload in [*self.up, *self.down] if t == topic]

    def wait_for(self, topic: str, *, more_than: int = 0, timeout_s: float = 60.0) -> bytes:
        """Wait until so many messages and one were sent on a topic; return the last."""
        wait_for(lambda: len(self.of(topic)) > more_than, f"more on {topic}", timeout_s)
        return self.of(topic)[-1]

    def _from_device(self, topic: str, payload: bytes) -> None:
        if "/up/" in topic:  # and not what the liar itself has said
            self.up.append((topic, payload))
            self._pass(topic, payload)

    def _from_aggregator(self, topic: str, payload: bytes) -> None:
        if "/down/" in topic:
            self.down.append((topic, payload))
            self._pass(topic, payload)

    def _pass(self, topic: str, payload: bytes) -> None:
        if self.topics.parse(topic).kind not in self.withheld:
            self.say(topic, payload)
