"""What aggregator and reception say to each other."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias, TypeVar

import msgspec

from edge_runtime.messages import DeviceState
from edge_runtime.reception.settings import ReceptionSettings
from edge_runtime.reception.unpacking import Parcel

__all__ = [
    "Answers",
    "Close",
    "Collect",
    "Command",
    "Delivery",
    "Hello",
    "Publish",
    "Start",
    "decode",
    "encode",
]

_T = TypeVar("_T")


class Start(msgspec.Struct, frozen=True, tag="start"):
    """Connect to the broker."""


class Publish(msgspec.Struct, frozen=True, tag="publish", gc=False):
    """Publish a message, retained: see `Link.publish`."""

    topic: str
    payload: bytes


class Collect(msgspec.Struct, frozen=True, tag="collect", gc=False):
    """Send one delivery, with at most so many messages, soon and whether there are any or none."""

    most: int


class Answers(msgspec.Struct, frozen=True, tag="answers", gc=False):
    """Acknowledgements: device, key of the seal, body."""

    answers: list[tuple[str, bytes, bytes]]


class Close(msgspec.Struct, frozen=True, tag="close", gc=False):
    """Say farewell, None for what the will says, and end."""

    farewell: bytes | None


#: to the reception, after its settings
Command: TypeAlias = Start | Publish | Collect | Answers | Close


class Hello(msgspec.Struct, frozen=True):
    """The reception's first word: what is wrong with its settings, empty when nothing is."""

    problem: str = ""


class Delivery(msgspec.Struct, frozen=True):
    """What has arrived since the last one.

    Parameters
    ----------
    parcels : list of Parcel
        Messages to be answered.
    states : dict of str to DeviceState
        By device, the latest of those that have said something.
    floods : dict of str to str
        What is to be said about devices that send more than their share.
    unauthentic : int
        Messages dropped since the start as not authentic.
    """

    parcels: list[Parcel]
    states: dict[str, DeviceState]
    floods: dict[str, str]
    unauthentic: int


def encode(frame: Command | Hello | Delivery | ReceptionSettings) -> bytes:
    """Return a frame's bytes."""
    return msgspec.msgpack.encode(frame, enc_hook=str)


def decode(data: bytearray, kind: type[_T]) -> _T:
    """Read a frame of one kind, or of a union of kinds."""
    return msgspec.msgpack.decode(data, type=kind, dec_hook=_path)


def _path(kind: type, value: object) -> Path:
    if kind is not Path or not isinstance(value, str):
        raise ValueError(f"expected a path, got {value!r}")
    return Path(value)
