"""The durable queue of messages to the aggregator, and the rule of who is sent when.

`Outbox` is the table: messages are put there in the transaction that settles their ledger entry,
and leave it when the aggregator has acknowledged them. `SendWindow` decides, without any clock or
connection of its own, which of them go out now: a few at a time, again after a reconnect or a
timeout, until the application acknowledgement arrives. An MQTT PUBACK never counts: it does not
mean stored.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple

from edge_runtime.device.store import Store
from edge_runtime.errors import OutboxFullError

__all__ = ["Outbox", "Pending", "SendWindow", "Settled"]


class Pending(NamedTuple):
    """A message that waits for its acknowledgement."""

    sequence: int
    id: str
    kind: str
    rows: int
    size: int


class Settled(NamedTuple):
    """What an acknowledgement changed."""

    sequence: int
    id: str
    kind: str
    rows: int
    size: int
    status: str
    reason: str


class Outbox:
    """Messages that are not yet acknowledged, and those that were refused.

    Parameters
    ----------
    store : Store
        The device's file; each thread uses its own.
    max_bytes : int
        Bound of all payloads kept. Refused ones give way first; unacknowledged ones never.
    """

    def __init__(self, store: Store, *, max_bytes: int) -> None:
        self._store = store
        self._max_bytes = max_bytes

    def next_sequence(self) -> int:
        """Take the next sequence number, from 0, in the transaction that also calls `add`."""
        return self._store.counter("outbox.sequence", add=1) - 1

    def add(self, *, sequence: int, id: str, kind: str, payload: bytes, rows: int = 0) -> None:  # noqa: A002 - the field's name on the wire
        """Enqueue a message, inside the caller's transaction.

        Parameters
        ----------
        sequence : int
            From `next_sequence`.
        id : str
            The id in the message's header.
        kind : str
            ``batch`` or ``summary``: the last word of its topic.
        payload : bytes
            The message.
        rows : int
            Synthetic rows in it.

        Raises
        ------
        OutboxFullError
            When the outbox is full; the transaction must not go on.
        """
        self._make_room(len(payload))
        self._store.connection.execute(
            "INSERT INTO outbox (sequence, id, kind, rows, sha256, status, payload) "
            "VALUES (?, ?, ?, ?, ?, 'pending', ?)",
            (sequence, id, kind, rows, hashlib.sha256(payload).hexdigest(), payload),
        )

    def check_room(self, size: int) -> None:
        """Make sure that messages of so many bytes could be enqueued now.

        Raises
        ------
        OutboxFullError
            When they could not, even if refused messages gave way.
        """
        (waiting,) = self._store.connection.execute(
            "SELECT COALESCE(SUM(LENGTH(payload)), 0) FROM outbox WHERE status = 'pending'"
        ).fetchone()
        if waiting + size > self._max_bytes:
            raise self._full()

    def _full(self) -> OutboxFullError:
        return OutboxFullError(
            f"the outbox has reached limits.outbox_bytes = {self._max_bytes} with messages that "
            "nobody has acknowledged; work goes on when the aggregator answers"
        )

    def _make_room(self, size: int) -> None:
        excess = self.size_bytes() + size - self._max_bytes
        if excess <= 0:
            return
        for sequence, length in self._store.connection.execute(
            "SELECT sequence, LENGTH(payload) FROM outbox WHERE status = 'refused' "
            "ORDER BY sequence"
        ).fetchall():
            self._store.connection.execute("DELETE FROM outbox WHERE sequence = ?", (sequence,))
            excess -= length
            if excess <= 0:
                return
        raise self._full()

    def size_bytes(self) -> int:
        """Bytes of all payloads kept, refused ones included."""
        (total,) = self._store.connection.execute(
            "SELECT COALESCE(SUM(LENGTH(payload)), 0) FROM outbox"
        ).fetchone()
        return int(total)

    def __len__(self) -> int:
        """Messages that wait for their acknowledgement."""
        (count,) = self._store.connection.execute(
            "SELECT COUNT(*) FROM outbox WHERE status = 'pending'"
        ).fetchone()
        return int(count)

    def pending(self) -> list[Pending]:
        """All messages that wait, oldest first, without their payloads."""
        return [
            Pending(*row)
            for row in self._store.connection.execute(
                "SELECT sequence, id, kind, rows, LENGTH(payload) FROM outbox "
                "WHERE status = 'pending' ORDER BY sequence"
            )
        ]

    def refused(self) -> list[tuple[str, str]]:
        """Ids and reasons of the messages that were refused and are still kept."""
        return [
            (str(id_), str(reason))
            for id_, reason in self._store.connection.execute(
                "SELECT id, reason FROM outbox WHERE status = 'refused' ORDER BY sequence"
            )
        ]

    def payload(self, sequence: int) -> bytes | None:
        """Bytes of a waiting message, or None when it has left meanwhile."""
        row = self._store.connection.execute(
            "SELECT payload FROM outbox WHERE sequence = ? AND status = 'pending'", (sequence,)
        ).fetchone()
        return None if row is None else bytes(row[0])

    def settle(self, *, sha256: str, status: str, reason: str = "") -> Settled | None:
        """Apply an acknowledgement.

        Messages are found by the digest of their bytes: a payload that the aggregator could not
        decode has no id it could name. `accepted` and `duplicate` are stored there, `quarantined`
        is kept there for an operator: all three leave the outbox. `refused` stays here with its
        reason and is not sent again.

        Returns
        -------
        Settled or None
            None when nothing waits under this digest: an old or foreign acknowledgement.
        """
        with self._store.transaction() as connection:
            row = connection.execute(
                "SELECT sequence, id, kind, rows, LENGTH(payload) FROM outbox "
                "WHERE sha256 = ? AND status = 'pending'",
                (sha256,),
            ).fetchone()
            if row is None:
                return None
            sequence, message_id, kind, rows, size = row
            settled = Settled(sequence, message_id, kind, rows, size, status, reason)
            if status == "refused":
                connection.execute(
                    "UPDATE outbox SET status = 'refused', reason = ? WHERE sequence = ?",
                    (reason, settled.sequence),
                )
            else:
                connection.execute("DELETE FROM outbox WHERE sequence = ?", (settled.sequence,))
            if status in ("accepted", "duplicate"):
                self._store.counter("outbox.rows_accepted", add=settled.rows)
            return settled


@dataclass(kw_only=True)
class SendWindow:
    """Which waiting messages to publish now.

    Parameters
    ----------
    max_messages, max_bytes : int
        Bounds of what is under way at once. One message always fits.
    timeout_s : float
        After this time without an acknowledgement a message is published again.
    """

    max_messages: int = 8
    max_bytes: int = 4 << 20
    timeout_s: float = 30.0
    _sent: dict[int, tuple[float, int]] = field(default_factory=dict)

    def due(self, pending: list[Pending], *, now_s: float) -> list[Pending]:
        """Messages to publish now, oldest first; they count as under way from now on.

        Parameters
        ----------
        pending : list of Pending
            All waiting messages, oldest first.
        now_s : float
            A monotonic clock.
        """
        waiting = {message.sequence for message in pending}
        self._sent = {
            sequence: (sent_s, size)
            for sequence, (sent_s, size) in self._sent.items()
            if sequence in waiting and now_s - sent_s < self.timeout_s
        }
        chosen: list[Pending] = []
        for message in pending:
            if message.sequence in self._sent:
                continue
            under_way = sum(size for _, size in self._sent.values())
            full = under_way + message.size > self.max_bytes
            if self._sent and (full or len(self._sent) >= self.max_messages):
                break
            self._sent[message.sequence] = (now_s, message.size)
            chosen.append(message)
        return chosen

    def next_due_s(self, *, now_s: float) -> float | None:
        """Seconds until the earliest timeout, or None when nothing is under way."""
        if not self._sent:
            return None
        return max(0.0, min(sent_s for sent_s, _ in self._sent.values()) + self.timeout_s - now_s)

    def disconnected(self) -> None:
        """Forget what was under way: after a reconnect all of it is published again."""
        self._sent.clear()
