"""The topic tree of a fleet: `er/v1/<fleet>/{up,down}/...`.

`up` is written by devices and read by the aggregator, `down` the other way round, so that two
access rules per device are enough for a broker.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from edge_runtime.errors import MessageError
from edge_runtime.messages.fields import check_id

__all__ = ["Address", "Topics"]

_UP = ("state", "batch", "summary")
_DOWN = ("ack", "command")
_ALL = ("schema", "plan", "status", "alarms", "update", "certificate", "revoked")
_DIGEST = re.compile(r"\A[0-9a-f]{64}\Z")


class Address(NamedTuple):
    """What a topic says.

    Attributes
    ----------
    direction : str
        `up` or `down`.
    device : str
        The device, or `all`.
    kind : str
        The last fixed level: `state`, `batch`, `summary`, `ack`, `command`, `schema`, `plan`,
        `status`, `alarms`, `update`, `certificate`, `revoked` or `bundle`.
    rest : str
        The digest of a bundle; empty otherwise.
    """

    direction: str
    device: str
    kind: str
    rest: str = ""


class Topics:
    """Builds and parses the topics of one fleet.

    Parameters
    ----------
    fleet : str
        Id of the fleet.

    Raises
    ------
    RangeError
        The id does not fit into a topic.
    """

    def __init__(self, fleet: str) -> None:
        self.fleet = check_id(fleet, what="fleet")
        self._root = f"er/v1/{fleet}"

    def state(self, device: str) -> str:
        """Retained state of a device; also the topic of its will."""
        return self._up(device, "state")

    def batch(self, device: str) -> str:
        """Batches of synthetic codes; never retained."""
        return self._up(device, "batch")

    def summary(self, device: str) -> str:
        """Noisy statistics of a device's real rows; never retained."""
        return self._up(device, "summary")

    def ack(self, device: str) -> str:
        """Application acknowledgements for a device; never retained."""
        return self._down(device, "ack")

    def command(self, device: str) -> str:
        """Reserved for commands to one device."""
        return self._down(device, "command")

    @property
    def schema(self) -> str:
        """The fleet's schema, retained."""
        return f"{self._root}/down/all/schema"

    @property
    def plan(self) -> str:
        """The plan in force, retained."""
        return f"{self._root}/down/all/plan"

    @property
    def status(self) -> str:
        """The aggregator's own state, retained."""
        return f"{self._root}/down/all/status"

    @property
    def update(self) -> str:
        """Signed metadata of schema, plan and bundles, retained; see `edge_runtime.updates`."""
        return f"{self._root}/down/all/update"

    @property
    def certificate(self) -> str:
        """The aggregator's certificate, retained, where messages are sealed; see `seal`."""
        return f"{self._root}/down/all/certificate"

    @property
    def revoked(self) -> str:
        """The fleet's list of revoked certificates, retained, where the aggregator has it."""
        return f"{self._root}/down/all/revoked"

    @property
    def alarms(self) -> str:
        """What the guard has found wrong, retained: for people and monitors, not for devices."""
        return f"{self._root}/down/all/alarms"

    def bundle(self, digest: str) -> str:
        """Return the topic of a retained bundle, named by the SHA-256 of its bytes.

        Raises
        ------
        MessageError
            Not 64 hexadecimal digits.
        """
        if _DIGEST.match(digest) is None:
            raise MessageError(f"bundle digest {digest!r} is not 64 hexadecimal digits")
        return f"{self._root}/down/all/bundle/{digest}"

    @property
    def all_states(self) -> str:
        """Filter for the states of all devices."""
        return f"{self._root}/up/+/state"

    @property
    def all_batches(self) -> str:
        """Filter for the batches of all devices."""
        return f"{self._root}/up/+/batch"

    @property
    def all_summaries(self) -> str:
        """Filter for the summaries of all devices."""
        return f"{self._root}/up/+/summary"

    @property
    def all_bundles(self) -> str:
        """Filter for all retained bundles."""
        return f"{self._root}/down/all/bundle/+"

    def parse(self, topic: str) -> Address:
        """Take a topic of this fleet apart.

        Raises
        ------
        MessageError
            Not a topic of this fleet, or none that this version knows.
        """
        if not topic.startswith(f"{self._root}/"):
            raise MessageError(f"topic {topic!r} is not below {self._root!r}")
        match topic[len(self._root) + 1 :].split("/"):
            case ["up", device, kind] if kind in _UP:
                return Address("up", check_id(device, what="device"), kind)
            case ["down", "all", kind] if kind in _ALL:
                return Address("down", "all", kind)
            case ["down", "all", "bundle", digest] if _DIGEST.match(digest):
                return Address("down", "all", "bundle", digest)
            case ["down", device, kind] if kind in _DOWN:
                return Address("down", check_id(device, what="device"), kind)
        raise MessageError(f"topic {topic!r} is none of this protocol")

    def _up(self, device: str, kind: str) -> str:
        return f"{self._root}/up/{check_id(device, what='device')}/{kind}"

    def _down(self, device: str, kind: str) -> str:
        return f"{self._root}/down/{check_id(device, what='device')}/{kind}"
