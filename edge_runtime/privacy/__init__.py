"""What releases cost in privacy, and the durable account of it."""

from __future__ import annotations

from edge_runtime.privacy.accountant import (
    ORDERS,
    rdp_gaussian,
    rdp_subsampled_gaussian,
    to_epsilon,
)
from edge_runtime.privacy.calibration import calibrate_counts, calibrate_noise, smallest_noise
from edge_runtime.privacy.counts import release_counts, round_sigma
from edge_runtime.privacy.ledger import Entry, Ledger, read_entries

__all__ = [
    "ORDERS",
    "Entry",
    "Ledger",
    "calibrate_counts",
    "calibrate_noise",
    "rdp_gaussian",
    "rdp_subsampled_gaussian",
    "read_entries",
    "release_counts",
    "round_sigma",
    "smallest_noise",
    "to_epsilon",
]
