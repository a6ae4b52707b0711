"""What the reception makes of a message, and whether the aggregator gets the same."""

from __future__ import annotations

from edge_runtime.messages import DEFAULT_LIMITS, DeviceState, Header
from edge_runtime.reception import Delivery, Incoming, Parcel, unpack
from edge_runtime.reception.frames import decode, encode

__all__ = ["hand_over", "hand_over_message"]


def hand_over_message(kind: str, payload: bytes) -> None:
    """Unpack a message and hand it over; nothing in it may keep the two from each other."""
    _hand_over(Delivery([unpack(Incoming("d", kind, payload), limits=DEFAULT_LIMITS)], {}, {}, 0))


def hand_over(found: Header | DeviceState) -> None:
    """Hand over what was read already."""
    if isinstance(found, Header):
        parcel = Parcel("d", "batch", b"", "", header=found)
        _hand_over(Delivery([parcel], {}, {}, 0))
    else:
        _hand_over(Delivery([], {"d": found}, {}, 0))


def _hand_over(delivery: Delivery) -> None:
    if decode(bytearray(encode(delivery)), Delivery) != delivery:
        raise AssertionError(f"{delivery!r} is another when it has been handed over")
