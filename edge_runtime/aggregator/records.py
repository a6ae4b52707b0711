"""What the catalogue holds, one record type per table."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["BundleRecord", "DeviceTotals", "MessageRecord", "RoundRecord"]


class MessageRecord(NamedTuple):
    """One message that was answered.

    `kind` is that of its header or, where none could be read, "unreadable" (then `id` is the
    SHA-256 of the bytes); `status` is "accepted", "quarantined" or "refused"; `path` is relative
    to the data directory; `bundle_digest` is the parent, which the device started from (empty for
    a census); `depth` counts the generations of synthetic rows behind a batch; `epsilon` is the
    device's statement, None without privacy.
    """

    id: str
    device: str
    sequence: int
    sha256: str
    kind: str
    status: str
    reason: str
    round: int
    plan_id: str
    part: int
    parts: int
    depth: int
    bundle_digest: str
    rows: int
    bytes: int
    path: str
    epsilon: float | None
    received_at: str


class DeviceTotals(NamedTuple):
    """What was accepted from one device; `quarantined` also counts refused messages."""

    batches: int
    rows: int
    quarantined: int
    bytes: int
    epsilon: float | None
    last_round: int


class RoundRecord(NamedTuple):
    """One round: `status` is "open", "fusing" or "closed"; round 0 is the census."""

    round: int
    kind: str
    plan_id: str
    plan: str
    status: str
    started_unix_s: float
    ended_unix_s: float | None
    reason: str


class BundleRecord(NamedTuple):
    """One generator: `status` is "published", "rejected" or "withdrawn"."""

    digest: str
    round: int
    depth: int
    parent: str | None
    status: str
    reason: str
    metrics: dict[str, Any]
    path: str
    created_at: str
