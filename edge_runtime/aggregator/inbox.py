"""The inbox: a message is verified, written, committed and only then acknowledged.

The order makes an acknowledgement mean "durable": the file is synced first, the catalogue row
commits second, the acknowledgement leaves last. A crash in between leaves a file without a row
(swept at the next start) or a row without an acknowledgement (the device sends again and is
answered "duplicate"); never a row twice.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from edge_runtime.aggregator.asked import privacy_problem, unasked
from edge_runtime.aggregator.catalogue import Catalogue, utc_now
from edge_runtime.aggregator.files import write_durably
from edge_runtime.aggregator.guard.gate import Gate
from edge_runtime.aggregator.pool import Pool
from edge_runtime.aggregator.quarantine import Quarantine
from edge_runtime.aggregator.records import MessageRecord
from edge_runtime.errors import MessageError, ShapeError
from edge_runtime.generator import Layout
from edge_runtime.messages import (
    Ack,
    Header,
    Limits,
    Plan,
    decode_batch,
    decode_plan,
    decode_summary,
    decode_update,
    peek_batch,
    peek_summary,
)
from edge_runtime.schema import Codec, Schema, census_cells

__all__ = ["Inbox", "Incoming"]

_LOG = logging.getLogger(__name__)

#: the id in an acknowledgement of bytes that hold none; the device matches by sha256
_NO_ID = ""

#: a reason may quote a peer's text; an acknowledgement stays small
_REASON_CHARS = 500


class Incoming(NamedTuple):
    """One message as it came: `kind` is the topic's, "batch" or "summary"."""

    device: str
    kind: str
    payload: bytes


class _Answer(NamedTuple):
    """What becomes of a readable message; `path` is set when it is accepted."""

    status: str
    reason: str = ""
    rows: int = 0
    path: str = ""


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
        self._fleet = fleet
        self._schema = schema
        self._catalogue = catalogue
        self._pool = pool
        self._quarantine = quarantine
        self._max_rows = max_rows
        self._gate = gate
        self._limits = limits or Limits()
        self._codec: Codec | None = None
        self._layout: Layout | None = None

    def use_codec(self, codec: Codec, layout: Layout | None = None) -> None:
        """From now on messages of this codec are accepted, and updates of networks of this layout.

        Without a layout updates are refused.
        """
        self._codec = codec
        self._layout = layout

    def accept(self, messages: Sequence[Incoming]) -> list[Ack]:
        """Answer messages, in order, with one commit for all of them.

        Parameters
        ----------
        messages : sequence of Incoming
            As they came; the same message may be among them twice.

        Returns
        -------
        list of Ack
            One per message. What they say is durable.

        Raises
        ------
        OSError
            If a file cannot be written (a full disk): nothing is acknowledged, and the devices
            send again.
        """
        fresh: dict[str, MessageRecord] = {}
        acks = [self._one(message, fresh) for message in messages]
        self._catalogue.add_messages(list(fresh.values()))
        for record in fresh.values():
            if record.kind in ("census", "anchor", "moments") and record.status == "accepted":
                self._gate.heard(record.device)
        return acks

    def _one(self, message: Incoming, fresh: dict[str, MessageRecord]) -> Ack:
        sha256 = hashlib.sha256(message.payload).hexdigest()
        try:
            peek = peek_batch if message.kind == "batch" else peek_summary
            header = peek(message.payload, limits=self._limits)
        except MessageError as error:
            return self._unreadable(message, sha256, str(error), fresh)
        known = self._known(header.id, fresh)
        if known is not None:
            return _answer_again(known, message, header, sha256)
        answer = self._judge(message, header, fresh)
        if answer.status != "accepted":
            _LOG.warning("%s a message of %s: %s", answer.status, message.device, answer.reason)
            path = self._quarantine.keep(
                device=message.device,
                sha256=sha256,
                payload=message.payload,
                status=answer.status,
                reason=answer.reason,
            )
            answer = answer._replace(path=path)
        fresh[header.id] = MessageRecord(
            id=header.id,
            device=message.device,
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
            bytes=len(message.payload),
            path=answer.path,
            epsilon=header.privacy.epsilon,
            received_at=utc_now(),
        )
        return _ack(header, sha256, answer.status, answer.reason)

    def _known(self, key: str, fresh: dict[str, MessageRecord]) -> MessageRecord | None:
        return fresh.get(key) or self._catalogue.find_messages([key]).get(key)

    def _unreadable(
        self, message: Incoming, sha256: str, reason: str, fresh: dict[str, MessageRecord]
    ) -> Ack:
        """Refuse bytes without a usable header; they are catalogued by their digest, once."""
        if self._known(sha256, fresh) is None:
            _LOG.warning("refused bytes from %s: %s", message.device, reason)
            path = self._quarantine.keep(
                device=message.device,
                sha256=sha256,
                payload=message.payload,
                status="refused",
                reason=reason,
            )
            fresh[sha256] = MessageRecord(
                id=sha256,
                device=message.device,
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
                bytes=len(message.payload),
                path=path,
                epsilon=None,
                received_at=utc_now(),
            )
        return Ack(
            id=_NO_ID, sequence=0, sha256=sha256, status="refused", reason=reason[:_REASON_CHARS]
        )

    def _judge(self, message: Incoming, header: Header, fresh: dict[str, MessageRecord]) -> _Answer:
        """Decide about a message with a valid header, and store it when it is accepted."""
        reason = self._misdirected(message, header)
        if reason:
            return _Answer("refused", reason)
        try:
            if header.kind == "batch":
                return self._judge_batch(message, header, fresh)
            return self._judge_summary(message, header, fresh)
        except MessageError as error:
            return _Answer("refused", str(error))

    def _misdirected(self, message: Incoming, header: Header) -> str:
        """Why a message is not for this aggregator at all, or empty."""
        if header.device != message.device:
            return f"the header names device {header.device}, the topic {message.device}"
        if header.fleet != self._fleet:
            return f"the header names fleet {header.fleet}, this is {self._fleet}"
        if header.schema_digest != self._schema.digest:
            return f"schema {header.schema_digest[:12]} is not this fleet's"
        if header.kind == "census":
            return ""
        codec = self._codec
        if codec is not None and header.codec_digest == codec.digest:
            return ""
        return f"codec {header.codec_digest[:12] or '(none)'} is not this fleet's"

    def _judge_batch(
        self, message: Incoming, header: Header, fresh: dict[str, MessageRecord]
    ) -> _Answer:
        codec = self._codec
        assert codec is not None
        _, codes = decode_batch(
            message.payload,
            cardinalities=codec.cardinalities,
            names=self._schema.names,
            limits=self._limits,
        )
        rows = len(codes)
        suspicion = self._suspicion(header)
        if not suspicion:
            before = self._catalogue.rows_of(header.device, header.round) + sum(
                record.rows
                for record in fresh.values()
                if (record.device, record.round, record.kind, record.status)
                == (header.device, header.round, "batch", "accepted")
            )
            if before + rows > self._max_rows:
                suspicion = (
                    f"{before + rows} rows in round {header.round}, at most {self._max_rows} "
                    "were asked for"
                )
        plan = self._plan(header.plan_id)
        if not suspicion and plan is not None:
            suspicion = self._gate.judge(
                message_id=header.id, device=header.device, plan=plan, codec=codec, codes=codes
            )
        if suspicion:
            return _Answer("quarantined", suspicion, rows)
        path = self._pool.write(
            device=header.device,
            round_number=header.round,
            message_id=header.id,
            fleet=header.fleet,
            bundle_digest=header.bundle_digest,
            depth=header.depth,
            names=self._schema.names,
            codes=codes,
        )
        self._gate.took(
            message_id=header.id, device=header.device, round_number=header.round, codes=codes
        )
        return _Answer("accepted", "", rows, path)

    def _judge_summary(
        self, message: Incoming, header: Header, fresh: dict[str, MessageRecord]
    ) -> _Answer:
        shapes = self._read_summary(message, header)
        suspicion = self._suspicion(header)
        plan = self._plan(header.plan_id)
        if not suspicion and plan is not None:
            suspicion = unasked(header, shapes, plan)
        if not suspicion and header.kind != "census":
            suspicion = self._gate.excluded(header.device, header.round)
        if not suspicion and (
            self._catalogue.has_summary(header.device, header.plan_id, header.kind)
            or any(
                (record.device, record.plan_id, record.kind, record.status)
                == (header.device, header.plan_id, header.kind, "accepted")
                for record in fresh.values()
            )
        ):
            # Counting a device twice would let its rows weigh double.
            suspicion = f"a second {header.kind} of this device for the same plan"
        if suspicion:
            return _Answer("quarantined", suspicion)
        path = f"summaries/round={header.round}/device={header.device}/{header.id}.zst"
        write_durably(self._base / path, message.payload)
        return _Answer("accepted", "", 0, path)

    def _read_summary(self, message: Incoming, header: Header) -> dict[str, tuple[int, ...]]:
        """Check a summary's body; return its tensors' shapes by name."""
        if header.kind == "update":
            if self._layout is None:
                raise ShapeError("there is no generator yet that an update could change")
            _, delta = decode_update(message.payload, layout=self._layout, limits=self._limits)
            return {name: tensor.shape for name, tensor in delta._asdict().items()}
        codec = self._codec
        sizes = (
            census_cells(self._schema)
            if header.kind == "census" or codec is None
            else codec.cardinalities
        )
        _, tensors = decode_summary(message.payload, sizes=sizes, limits=self._limits)
        return {name: tensor.shape for name, tensor in tensors.items()}

    def _suspicion(self, header: Header) -> str:
        """Why a well-formed message must not be counted, or empty."""
        plan = self._plan(header.plan_id)
        if plan is None:
            return f"it answers no plan of this aggregator ({header.plan_id or 'none named'})"
        if plan.round != header.round:
            return f"it names round {header.round}, its plan is of round {plan.round}"
        if (plan.kind == "census") != (header.kind == "census"):
            return f"a {header.kind} does not answer a {plan.kind} plan"
        if header.kind == "batch":
            # A device may still be at work on a bundle that was taken back since.
            parents = {
                b.digest: b.depth
                for b in self._catalogue.bundles(status=None)
                if b.status != "rejected"
            }
            if header.bundle_digest not in parents:
                return f"bundle {header.bundle_digest[:12]} was never published here"
            if header.depth != parents[header.bundle_digest] + 1:
                return (
                    f"depth {header.depth} does not follow its bundle's "
                    f"{parents[header.bundle_digest]}"
                )
        return privacy_problem(header, plan)

    def _plan(self, plan_id: str) -> Plan | None:
        for record in self._catalogue.rounds():
            if record.plan_id == plan_id:
                return decode_plan(record.plan.encode())
        return None


def _answer_again(known: MessageRecord, message: Incoming, header: Header, sha256: str) -> Ack:
    """Answer an id that was answered before: the same bytes alike, other bytes never."""
    if (known.device, known.sha256) != (message.device, sha256):
        reason = f"id {header.id} was used before, by {known.device}, for other bytes"
        _LOG.warning("refused a message of %s: %s", message.device, reason)
        return _ack(header, sha256, "refused", reason)
    status = "duplicate" if known.status == "accepted" else known.status
    return _ack(header, sha256, status, known.reason)


def _ack(header: Header, sha256: str, status: str, reason: str) -> Ack:
    return msgspec.convert(
        {
            "id": header.id,
            "sequence": header.sequence,
            "sha256": sha256,
            "status": status,
            "reason": reason[:_REASON_CHARS],
        },
        Ack,
    )
