"""What becomes of a message whose header could be read: accepted, quarantined or refused, and why.

Refused is what no aggregator of this fleet could use; quarantined what is well-formed and must not
be counted. What is accepted is on disk when the answer is given; its catalogue row is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from edge_runtime.aggregator.asked import privacy_problem, unasked
from edge_runtime.aggregator.catalogue import Catalogue
from edge_runtime.aggregator.files import write_durably
from edge_runtime.aggregator.guard.gate import Gate
from edge_runtime.aggregator.pool import Pool
from edge_runtime.aggregator.records import MessageRecord
from edge_runtime.errors import MessageError, ShapeError
from edge_runtime.generator import Layout
from edge_runtime.messages import (
    Header,
    Limits,
    Plan,
    decode_batch,
    decode_plan,
    decode_summary,
    decode_update,
)
from edge_runtime.schema import Codec, Schema, census_cells, census_schema

__all__ = ["Answer", "Incoming", "Judge"]


class Incoming(NamedTuple):
    """One message as it came: `kind` is the topic's, "batch" or "summary"."""

    device: str
    kind: str
    payload: bytes


class Answer(NamedTuple):
    """What becomes of a readable message; `path` is set when it is accepted."""

    status: str
    reason: str = ""
    rows: int = 0
    path: str = ""


class Judge:
    """Decides about readable messages.

    Parameters
    ----------
    data_dir : Path
        Where accepted summaries are written.
    fleet, schema, catalogue, pool, max_rows, gate, limits
        As `Inbox` has them.
    """

    def __init__(
        self,
        *,
        data_dir: Path,
        fleet: str,
        schema: Schema,
        catalogue: Catalogue,
        pool: Pool,
        max_rows: int,
        gate: Gate,
        limits: Limits,
    ) -> None:
        self._base = data_dir
        self._fleet = fleet
        self._schema = schema
        self._catalogue = catalogue
        self._pool = pool
        self._max_rows = max_rows
        self._gate = gate
        self._limits = limits
        self._codec: Codec | None = None
        self._layout: Layout | None = None

    def use_codec(self, codec: Codec, layout: Layout | None) -> None:
        """As `Inbox.use_codec`."""
        self._codec = codec
        self._layout = layout

    def judge(
        self, message: Incoming, header: Header, fresh: Mapping[str, MessageRecord]
    ) -> Answer:
        """Decide about a message with a valid header, and store it when it is accepted.

        Parameters
        ----------
        message : Incoming
            Its header is read, its body is not.
        header : Header
            Of this message; its id was never answered before.
        fresh : mapping of str to MessageRecord
            By id, what was decided and is not committed yet.

        Raises
        ------
        OSError
            If a file cannot be written.
        """
        reason = self._misdirected(message, header)
        if reason:
            return Answer("refused", reason)
        try:
            if header.kind == "batch":
                return self._judge_batch(message, header, fresh)
            return self._judge_summary(message, header, fresh)
        except MessageError as error:
            return Answer("refused", str(error))

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
        self, message: Incoming, header: Header, fresh: Mapping[str, MessageRecord]
    ) -> Answer:
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
            return Answer("quarantined", suspicion, rows)
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
        return Answer("accepted", "", rows, path)

    def _judge_summary(
        self, message: Incoming, header: Header, fresh: Mapping[str, MessageRecord]
    ) -> Answer:
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
            return Answer("quarantined", suspicion)
        path = f"summaries/round={header.round}/device={header.device}/{header.id}.zst"
        write_durably(self._base / path, message.payload)
        return Answer("accepted", "", 0, path)

    def _read_summary(self, message: Incoming, header: Header) -> dict[str, tuple[int, ...]]:
        """Check a summary's body; return its tensors' shapes by name."""
        if header.kind == "update":
            if self._layout is None:
                raise ShapeError("there is no generator yet that an update could change")
            _, delta = decode_update(message.payload, layout=self._layout, limits=self._limits)
            return {name: tensor.shape for name, tensor in delta._asdict().items()}
        codec = self._codec
        sizes = (
            census_cells(census_schema(self._schema))
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
