"""The reception: the aggregator's connection to the broker, in a process of its own.

It receives, checks seals and rates, unpacks and fingerprints, and hands over whole groups, so that
two processors work on what one interpreter could not carry. It holds nothing that counts: what is
not acknowledged comes again. `Reception` is what the aggregator uses, `Receiver` what runs in the
process.
"""

from __future__ import annotations

from edge_runtime.reception.desk import Reception
from edge_runtime.reception.frames import Delivery
from edge_runtime.reception.settings import AggregatorTls, LimitSettings, ReceptionSettings
from edge_runtime.reception.unpacking import Incoming, Parcel, Rows, unpack

__all__ = [
    "AggregatorTls",
    "Delivery",
    "Incoming",
    "LimitSettings",
    "Parcel",
    "Reception",
    "ReceptionSettings",
    "Rows",
    "unpack",
]
