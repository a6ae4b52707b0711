"""The inbox: a message is verified, written, committed and only then acknowledged.

The order makes an acknowledgement mean "durable": the file is synced first, the catalogue row
commits second, the acknowledgement leaves last. Messages that wait together share all three steps:
one file, one commit, one look at the catalogue. A crash in between leaves a file without a row
(swept at the next start) or a row without an acknowledgement (the device sends again and is
answered "duplicate"); never a row twice.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from edge_runtime.aggregator.catalogue import Catalogue, utc_now
from edge_runtime.aggregator.guard.gate import Gate
from edge_runtime.aggregator.judging import Group, Judge
from edge_runtime.aggregator.pool import Pool, PoolBatch, path_of
from edge_runtime.aggregator.quarantine import Quarantine
from edge_runtime.aggregator.records import MessageRecord
from edge_runtime.generator import Layout
from edge_runtime.messages import Ack, Header, Limits
from edge_runtime.messages.ack import Status
from edge_runtime.reception import Incoming, Parcel, unpack
from edge_runtime.schema import Codec, Schema

__all__ = ["Inbox"]

_LOG = logging.getLogger(__name__)

#: the id in an acknowledgement of bytes that hold none; the device matches by sha256
_NO_ID = ""

#: a reason may quote a peer's text; an acknowledgement stays small
_REASON_CHARS = 500


class Inbox:
    """Turns messages into catalogue rows, files and acknowledgements.

    Parameters
    ----------
    data_dir : Path
        The aggregator's data directory.
    fleet : str
        Only messages of this fleet are accepted.
    schema : Schema
        Only rows of this schema are accepted.
    catalogue : Catalogue
        Where acceptance is committed.
    pool : Pool
        Where batches are written.
    quarantine : Quarantine
        Where everything else is kept.
    max_rows : int
        Rows accepted from one device in one round.
    gate : Gate
        Judges rows statistically.
    limits : Limits, optional
        Sizes that are refused unread.
    """

    def __init__(
        self,
        *,
        data_dir: Path,
        fleet: str,
        schema: Schema,
        catalogue: Catalogue,
        pool: Pool,
        quarantine: Quarantine,
        max_rows: int,
        gate: Gate,
        limits: Limits | None = None,
    ) -> None:
        self._base = data_dir
        self._fleet, self._schema = fleet, schema
        self._catalogue = catalogue
        self._pool = pool
        self._quarantine = quarantine
        self._gate = gate
        self._limits = limits or Limits()
        # Files of the pool that may have been written without being committed.
        self._doubtful: set[str] = set()
        self._judge = Judge(
            data_dir=data_dir,
            fleet=fleet,
            schema=schema,
            catalogue=catalogue,
            max_rows=max_rows,
            gate=gate,
            limits=self._limits,
        )

    def use_codec(self, codec: Codec, layout: Layout | None = None) -> None:
        """From now on messages of this codec are accepted, and updates of networks of this layout.

        Without a layout updates are refused.
        """
        self._judge.use_codec(codec, layout)

    def accept(self, messages: Sequence[Incoming]) -> list[Ack]:
        """Answer messages that nobody has unpacked yet; see `accept_unpacked`."""
        return self.accept_unpacked([unpack(one, limits=self._limits) for one in messages])

    def accept_unpacked(self, parcels: Sequence[Parcel]) -> list[Ack]:
        """Answer messages, in order, with one commit for all of them.

        Parameters
        ----------
        parcels : sequence of Parcel
            As they came; the same message may be among them twice.

        Returns
        -------
        list of Ack
            One per message. What they say is durable.

        Raises
        ------
        OSError, CatalogueError
            If a file cannot be written (a full disk) or the database does not answer: nothing is
            acknowledged, and the devices send again.
        """
        self._remove_uncommitted()
        ids = {one.header.id if one.header else one.sha256 for one in parcels}
        known = self._catalogue.find_messages(ids)
        headers = [one.header for one in parcels if one.header and one.header.id not in known]
        group = Group(self._catalogue, headers, self._gate)
        fresh: dict[str, MessageRecord] = {}
        batches: list[PoolBatch] = []
        acks = [self._one(one, known, fresh, group, batches) for one in parcels]
        self._doubtful = {path_of(batch) for batch in batches}
        paths = self._pool.write(batches, fleet=self._fleet, names=self._schema.names)
        fresh |= {key: fresh[key]._replace(path=path) for key, path in paths.items()}
        self._catalogue.add_messages(list(fresh.values()))
        self._doubtful = set()
        for record in fresh.values():
            if record.kind in ("census", "anchor", "moments") and record.status == "accepted":
                self._gate.heard(record.device)
        return acks

    def _remove_uncommitted(self) -> None:
        """Remove what a group that failed has written: its messages come again in other groups."""
        if self._doubtful:
            # Asked, as a connection that broke while it committed leaves that open.
            known = self._catalogue.paths(among=self._doubtful)
            for path in self._doubtful - known:
                (self._base / path).unlink(missing_ok=True)
            self._doubtful = set()

    def _one(
        self,
        one: Parcel,
        known: Mapping[str, MessageRecord],
        fresh: dict[str, MessageRecord],
        group: Group,
        batches: list[PoolBatch],
    ) -> Ack:
        header, sha256 = one.header, one.sha256
        if header is None:
            return self._unreadable(one, known, fresh)
        before = fresh.get(header.id) or known.get(header.id)
        if before is not None:
            return _answer_again(before, one.device, header, sha256)
        answer = self._judge.judge(one, header, group)
        if answer.status != "accepted":
            _LOG.warning("%s a message of %s: %s", answer.status, one.device, answer.reason)
            path = self._quarantine.keep(
                device=one.device,
                sha256=sha256,
                payload=one.payload,
                status=answer.status,
                reason=answer.reason,
            )
            answer = answer._replace(path=path)
        elif answer.batch is not None:
            batches.append(answer.batch)
        fresh[header.id] = MessageRecord(
            id=header.id,
            device=one.device,
            sequence=header.sequence,
            sha256=sha256,
            kind=header.kind,
            status=answer.status,
            reason=answer.reason,
            round=header.round,
            plan_id=header.plan_id,
            part=header.part,
            parts=header.parts,
            depth=header.depth,
            bundle_digest=header.bundle_digest,
            rows=answer.rows,
            bytes=len(one.payload),
            path=answer.path,
            epsilon=header.privacy.epsilon,
            received_at=utc_now(),
        )
        return _ack(header, sha256, answer.status, answer.reason)

    def _unreadable(
        self, one: Parcel, known: Mapping[str, MessageRecord], fresh: dict[str, MessageRecord]
    ) -> Ack:
        """Refuse bytes without a usable header; they are catalogued by their digest, once."""
        sha256, reason = one.sha256, one.problem
        if sha256 not in known and sha256 not in fresh:
            _LOG.warning("refused bytes from %s: %s", one.device, reason)
            path = self._quarantine.keep(
                device=one.device,
                sha256=sha256,
                payload=one.payload,
                status="refused",
                reason=reason,
            )
            fresh[sha256] = MessageRecord(
                id=sha256,
                device=one.device,
                sequence=0,
                sha256=sha256,
                kind="unreadable",
                status="refused",
                reason=reason,
                round=0,
                plan_id="",
                part=1,
                parts=1,
                depth=0,
                bundle_digest="",
                rows=0,
                bytes=len(one.payload),
                path=path,
                epsilon=None,
                received_at=utc_now(),
            )
        return Ack(
            id=_NO_ID, sequence=0, sha256=sha256, status="refused", reason=reason[:_REASON_CHARS]
        )


def _answer_again(known: MessageRecord, device: str, header: Header, sha256: str) -> Ack:
    """Answer an id that was answered before: the same bytes alike, other bytes never."""
    if (known.device, known.sha256) != (device, sha256):
        reason = f"id {header.id} was used before, by {known.device}, for other bytes"
        _LOG.warning("refused a message of %s: %s", device, reason)
        return _ack(header, sha256, "refused", reason)
    status = "duplicate" if known.status == "accepted" else known.status
    return _ack(header, sha256, status, known.reason)


def _ack(header: Header, sha256: str, status: str, reason: str) -> Ack:
    return Ack(
        id=header.id,
        sequence=header.sequence,
        sha256=sha256,
        status=cast(Status, status),
        reason=reason[:_REASON_CHARS],
    )
