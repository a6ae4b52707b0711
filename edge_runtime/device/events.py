"""What the agent's own thread is told, by the other threads and by signals."""

from __future__ import annotations

from typing import NamedTuple

from edge_runtime.device.agreement import Answer
from edge_runtime.updates import Verdict

__all__ = [
    "Agreed",
    "BundleWanted",
    "Connected",
    "Event",
    "LetIn",
    "Message",
    "News",
    "StateChanged",
    "Stop",
    "Verified",
]


class Message(NamedTuple):
    """A message came."""

    topic: str
    payload: bytes


class Connected(NamedTuple):
    """The broker let the device in, once more."""


class News(NamedTuple):
    """The worker queued messages, or ended."""


class BundleWanted(NamedTuple):
    """A plan waits for this bundle."""

    digest: str


class Verified(NamedTuple):
    """Metadata of an update was looked at."""

    verdict: Verdict


class Agreed(NamedTuple):
    """The aggregator's certificate was looked at, and its key agreed on or not."""

    answer: Answer


class LetIn(NamedTuple):
    """A file that the update gate let in."""

    kind: str
    digest: str
    payload: bytes


class StateChanged(NamedTuple):
    """The state that the fleet sees is another."""


class Stop(NamedTuple):
    """To end, and why."""

    reason: str


Event = Message | Connected | News | StateChanged | BundleWanted | Verified | Agreed | LetIn | Stop
