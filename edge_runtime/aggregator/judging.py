"""What becomes of a message whose header could be read: accepted, quarantined or refused, and why.

Refused is what no aggregator of this fleet could use; quarantined what is well-formed and must not
be counted. An accepted summary is on disk when the answer is given, the rows of an accepted batch
are for the caller to write; the catalogue knows of neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from edge_runtime.aggregator.asked import privacy_problem, unasked
from edge_runtime.aggregator.catalogue import Catalogue
from edge_runtime.aggregator.files import write_durably
from edge_runtime.aggregator.guard.gate import Gate
from edge_runtime.aggregator.pool import PoolBatch
from edge_runtime.errors import MessageError, ShapeError
from edge_runtime.generator import Layout
from edge_runtime.messages import (
    Header,
    Limits,
    Plan,
    decode_plan,
    decode_summary,
    decode_update,
)
from edge_runtime.reception import Parcel, Rows
from edge_runtime.schema import Codec, Schema, census_cells, census_schema

__all__ = ["Answer", "Group", "Judge"]


class Answer(NamedTuple):
    """What becomes of a readable message: of an accepted one its path, or its rows to write."""

    status: str
    reason: str = ""
    rows: int = 0
    path: str = ""
    batch: PoolBatch | None = None


class Group:
    """What the catalogue says about messages that are judged together, asked once for all of them.

    Parameters
    ----------
    catalogue : Catalogue
        Asked now.
    headers : sequence of Header
        Of the messages.
    gate : Gate
        Knows which devices nothing is taken from.
    """

    def __init__(self, catalogue: Catalogue, headers: Sequence[Header], gate: Gate) -> None:
        self.plans: dict[str, Plan] = {
            record.plan_id: decode_plan(record.plan.encode()) for record in catalogue.rounds()
        }
        # A device may still be at work on a bundle that was taken back since.
        self.depths = {
            bundle.digest: bundle.depth
            for bundle in catalogue.bundles(status=None)
            if bundle.status != "rejected"
        }
        devices = {header.device for header in headers if header.kind == "batch"}
        #: rows by device and round, of this group's accepted batches as well
        self.rows = dict(catalogue.rows_of(devices))
        #: device, plan and kind of this group's accepted summaries
        self.summaries: set[tuple[str, str, str]] = set()
        self._outlying = {number: gate.excluded(number) for number in {h.round for h in headers}}

    def excluded(self, header: Header) -> str:
        """Say why nothing of a message's device is taken in its round; empty when it is."""
        return self._outlying[header.round].get(header.device, "")


class Judge:
    """Decides about readable messages.

    Parameters
    ----------
    data_dir : Path
        Where accepted summaries are written.
    fleet, schema, catalogue, max_rows, gate, limits
        As `Inbox` has them.
    """

    def __init__(
        self,
        *,
        data_dir: Path,
        fleet: str,
        schema: Schema,
        catalogue: Catalogue,
        max_rows: int,
        gate: Gate,
        limits: Limits,
    ) -> None:
        self._base = data_dir
        self._fleet = fleet
        self._schema = schema
        # Both are worked out at every call.
        self._schema_digest, self._names = schema.digest, schema.names
        self._catalogue = catalogue
        self._max_rows = max_rows
        self._gate = gate
        self._limits = limits
        self._codec: Codec | None = None
        self._layout: Layout | None = None

    def use_codec(self, codec: Codec, layout: Layout | None) -> None:
        """As `Inbox.use_codec`."""
        self._codec = codec
        self._layout = layout

    def judge(self, parcel: Parcel, header: Header, group: Group) -> Answer:
        """Decide about a message with a valid header; an accepted summary is stored.

        Parameters
        ----------
        parcel : Parcel
            The message, unpacked.
        header : Header
            Its own; its id was never answered before.
        group : Group
            Of the message and those that are judged with it; learns of what is accepted.

        Raises
        ------
        OSError
            If a file cannot be written.
        """
        reason = self._misdirected(parcel.device, header) or parcel.problem
        if reason:
            return Answer("refused", reason)
        try:
            if parcel.rows is not None:
                return self._judge_batch(parcel.rows, header, group)
            return self._judge_summary(parcel.payload, header, group)
        except MessageError as error:
            return Answer("refused", str(error))

    def _misdirected(self, device: str, header: Header) -> str:
        """Why a message is not for this aggregator at all, or empty."""
        if header.device != device:
            return f"the header names device {header.device}, the topic {device}"
        if header.fleet != self._fleet:
            return f"the header names fleet {header.fleet}, this is {self._fleet}"
        if header.schema_digest != self._schema_digest:
            return f"schema {header.schema_digest[:12]} is not this fleet's"
        if header.kind == "census":
            return ""
        codec = self._codec
        if codec is not None and header.codec_digest == codec.digest:
            return ""
        return f"codec {header.codec_digest[:12] or '(none)'} is not this fleet's"

    def _judge_batch(self, found: Rows, header: Header, group: Group) -> Answer:
        codec = self._codec
        assert codec is not None
        codes = found.codes(cardinalities=codec.cardinalities, names=self._names)
        rows = len(codes)
        suspicion = self._suspicion(header, group)
        if suspicion:
            return Answer("quarantined", suspicion, rows)
        place = header.device, header.round
        total = group.rows.get(place, 0) + rows
        print_ = found.fingerprint
        if total > self._max_rows:
            suspicion = (
                f"{total} rows in round {header.round}, at most {self._max_rows} were asked for"
            )
        else:
            suspicion = group.excluded(header) or self._gate.judge(
                message_id=header.id,
                device=header.device,
                plan=group.plans[header.plan_id],
                codec=codec,
                codes=codes,
                print_=print_,
            )
        if suspicion:
            return Answer("quarantined", suspicion, rows)
        self._gate.took(
            message_id=header.id, device=header.device, round_number=header.round, print_=print_
        )
        group.rows[place] = total
        batch = PoolBatch(
            header.id, header.device, header.round, header.bundle_digest, header.depth, codes
        )
        return Answer("accepted", "", rows, batch=batch)

    def _judge_summary(self, payload: bytes, header: Header, group: Group) -> Answer:
        shapes = self._read_summary(payload, header)
        suspicion = self._suspicion(header, group)
        plan = group.plans.get(header.plan_id)
        if not suspicion and plan is not None:
            suspicion = unasked(header, shapes, plan)
        if not suspicion and header.kind != "census":
            suspicion = group.excluded(header)
        summary = header.device, header.plan_id, header.kind
        if not suspicion and (summary in group.summaries or self._catalogue.has_summary(*summary)):
            # Counting a device twice would let its rows weigh double.
            suspicion = f"a second {header.kind} of this device for the same plan"
        if suspicion:
            return Answer("quarantined", suspicion)
        path = f"summaries/round={header.round}/device={header.device}/{header.id}.zst"
        write_durably(self._base / path, payload)
        group.summaries.add(summary)
        return Answer("accepted", "", 0, path)

    def _read_summary(self, payload: bytes, header: Header) -> dict[str, tuple[int, ...]]:
        """Check a summary's body; return its tensors' shapes by name."""
        if header.kind == "update":
            if self._layout is None:
                raise ShapeError("there is no generator yet that an update could change")
            _, delta = decode_update(payload, layout=self._layout, limits=self._limits)
            return {name: tensor.shape for name, tensor in delta._asdict().items()}
        codec = self._codec
        sizes = (
            census_cells(census_schema(self._schema))
            if header.kind == "census" or codec is None
            else codec.cardinalities
        )
        _, tensors = decode_summary(payload, sizes=sizes, limits=self._limits)
        return {name: tensor.shape for name, tensor in tensors.items()}

    def _suspicion(self, header: Header, group: Group) -> str:
        """Why a well-formed message must not be counted, or empty."""
        plan = group.plans.get(header.plan_id)
        if plan is None:
            return f"it answers no plan of this aggregator ({header.plan_id or 'none named'})"
        if plan.round != header.round:
            return f"it names round {header.round}, its plan is of round {plan.round}"
        if (plan.kind == "census") != (header.kind == "census"):
            return f"a {header.kind} does not answer a {plan.kind} plan"
        if header.kind == "batch":
            depth = group.depths.get(header.bundle_digest)
            if depth is None:
                return f"bundle {header.bundle_digest[:12]} was never published here"
            if header.depth != depth + 1:
                return f"depth {header.depth} does not follow its bundle's {depth}"
        return privacy_problem(header, plan)
