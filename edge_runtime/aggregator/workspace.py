"""The aggregator's data directory and catalogue, seen as what fusion and release need."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from edge_runtime.aggregator.anchor import Anchor, DeviceCounts, census_anchor, merge_anchors
from edge_runtime.aggregator.catalogue import Catalogue, utc_now
from edge_runtime.aggregator.config import AggregatorConfig
from edge_runtime.aggregator.files import write_durably
from edge_runtime.aggregator.moments import (
    DeviceMoments,
    Means,
    Moments,
    merge_means,
    merge_moments,
)
from edge_runtime.aggregator.pool import Pool, PoolRows
from edge_runtime.aggregator.records import BundleRecord, MessageRecord
from edge_runtime.aggregator.scores import variance_of
from edge_runtime.aggregator.statement import privacy_facts
from edge_runtime.aggregator.strategies import State
from edge_runtime.aggregator.summaries import read_anchors, read_censuses, read_moments
from edge_runtime.aggregator.updates import StoredUpdates, read_state, write_state
from edge_runtime.errors import AggregatorError, MessageError
from edge_runtime.generator import Bundle, GraphBundle
from edge_runtime.messages import (
    Alarms,
    MomentsRequest,
    decode_alarms,
    decode_plan,
    encode_alarms,
)
from edge_runtime.schema import Census, Codec, Schema

__all__ = ["ANCHOR_SETTINGS", "Workspace"]

_Release = TypeVar("_Release", DeviceCounts, DeviceMoments)

#: settings of the catalogue in which the guard keeps what it found
_ALARMS, _DRIFT, _OUTLYING = "guard.alarms", "guard.drift_rounds", "guard.outlying"

#: share of rows from the anchor in what is fused and released
_PRIOR = "fusion.prior"

#: settings that change what `Workspace.anchor` and the like return
ANCHOR_SETTINGS = (_DRIFT, _PRIOR)


class Workspace:
    """One fleet's data; `edge_runtime.aggregator.opening` makes one.

    Parameters
    ----------
    config : AggregatorConfig
        The configuration that the directory was last used with.
    schema : Schema
        The fleet's schema, as it is published; `Workspace.schema` is what is learnt of it, which
        for ordered rows is the schema of their windows.
    catalogue : Catalogue
        Open.
    """

    def __init__(self, *, config: AggregatorConfig, schema: Schema, catalogue: Catalogue) -> None:
        self.config = config
        self.declared = schema
        self.schema = schema.learnt
        self.catalogue = catalogue
        self.data_dir = config.data_dir
        self.pool = Pool(self.data_dir)

    def close(self) -> None:
        """Close the catalogue."""
        self.catalogue.close()

    def as_of(self, catalogue: Catalogue) -> Workspace:
        """Return the same data seen through another catalogue, such as one of an earlier time."""
        return Workspace(config=self.config, schema=self.declared, catalogue=catalogue)

    @property
    def release_key(self) -> bytes:
        """32 public bytes, fixed when the directory was made: releases are reproducible."""
        value = self.catalogue.setting("release_key")
        try:
            return bytes.fromhex(value or "none")
        except ValueError as error:
            raise self.catalogue.unusable("release_key", error) from error

    def bundle(self, record: BundleRecord | None = None) -> Bundle | None:
        """Return a generator from disk, the one in force by default; None before the first.

        Raises
        ------
        BundleError
            If its file is damaged.
        AggregatorError
            If its file is missing or another one.
        """
        data = self._bundle_bytes(record)
        return None if data is None else Bundle.from_bytes(data)

    def _bundle_bytes(self, record: BundleRecord | None) -> bytes | None:
        if record is None:
            published = self.catalogue.bundles()
            if not published:
                return None
            record = published[-1]
        try:
            data = (self.data_dir / record.path).read_bytes()
        except OSError as error:
            raise AggregatorError(
                f"{record.path} is in the catalogue but cannot be read: {error.strerror}; "
                "restore the data directory from its backup"
            ) from error
        if hashlib.sha256(data).hexdigest() != record.digest:
            raise AggregatorError(f"{record.path} is not the file that the catalogue names")
        return data

    def add_bundle(
        self, bundle: Bundle | GraphBundle, *, status: str, reason: str, state: State | None = None
    ) -> BundleRecord:
        """Write a generator and its strategy's state; commit it as "published" or "rejected"."""
        path = f"bundles/{bundle.digest}.bundle"
        write_state(self._state_path(bundle), state or {})
        write_durably(self.data_dir / path, bundle.to_bytes())
        record = BundleRecord(
            digest=bundle.digest,
            round=bundle.lineage.round,
            depth=bundle.lineage.depth,
            parent=bundle.lineage.parent,
            status=status,
            reason=reason,
            metrics=dict(bundle.metrics),
            path=path,
            created_at=utc_now(),
        )
        self.catalogue.add_bundle(record)
        return record

    def state(self, bundle: Bundle) -> State:
        """Return what the strategy kept with a generator; empty where it keeps nothing.

        Raises
        ------
        AggregatorError
            If its file is damaged.
        """
        return read_state(self._state_path(bundle))

    def _state_path(self, bundle: Bundle | GraphBundle) -> Path:
        return self.data_dir / f"bundles/{bundle.digest}.state"

    def updates(self, bundle: Bundle) -> StoredUpdates:
        """Return the accepted weight updates of a generator, late ones included."""
        rounds = [
            record.round
            for record in self.catalogue.rounds()
            if decode_plan(record.plan.encode()).bundle_digest == bundle.digest
        ]
        records = [
            message
            for number in rounds
            for message in self.catalogue.messages(kind="update", round_number=number)
        ]
        return StoredUpdates(
            data_dir=self.data_dir,
            records=records,
            layout=bundle.layout,
            rows_of=self.rows_of_devices(bundle),
        )

    def pool_rows(self) -> PoolRows:
        """Every accepted row."""
        return self.pool.read(self.catalogue.messages(kind="batch"), names=self.schema.names)

    @property
    def prior_share(self) -> float:
        """Share of rows from the anchor in what the latest fusion was trained on."""
        return self.catalogue.stored(_PRIOR, float) or 0.0

    def note_prior_share(self, share: float) -> None:
        """Keep the share for releases."""
        self.catalogue.put(_PRIOR, repr(share))

    def censuses(self, device: str | None = None) -> dict[str, Census]:
        """Return accepted censuses by device, late ones included; one device's if asked."""
        records = self.catalogue.messages(kind="census", device=device)
        return read_censuses(self.data_dir, records, self.schema)

    def anchor(self, bundle: Bundle) -> Anchor | None:
        """Return the fleet's merged counts of codes; None before the first.

        After a drift of the population a device's older releases no longer count, once it has
        made a newer one.
        """
        merged = merge_anchors(
            self._since_drift(self.releases(bundle.codec)), self.schema.conditions
        )
        censuses = self.censuses()
        # Columns that no round has counted are known from the census alone.
        return (
            merged.filled(census_anchor(bundle.codec, censuses)) if merged and censuses else merged
        )

    def means(self, codec: Codec) -> Means | None:
        """Return the fleet's merged sums of scores; None before the first."""
        sums = self._since_drift(self._moments())
        return merge_means(sums, self._since_drift(self.releases(codec)))

    def moments(self, bundle: Bundle) -> Moments | None:
        """Return the fleet's merged moments; None before the first."""
        sums = self._since_drift(self._moments())
        if not sums:
            return None
        variances = self.score_variances(bundle, sums[-1].request)
        nullable = [d for d in variances if self.schema.columns[d].nullable]
        counts = self._since_drift(self.releases(bundle.codec))
        return merge_moments(sums, counts, variances, nullable=nullable)

    def score_variances(self, bundle: Bundle, request: MomentsRequest) -> dict[int, float]:
        """Return the variance of each column's scores over all rows, as single counts have it."""
        anchor = self.anchor(bundle)
        variances = {}
        for column, scores in zip(request.columns, request.scores, strict=True):
            table = anchor.one_way(column) if anchor is not None else None
            # normal scores have a variance of 1, where nothing else is known
            variances[column] = (
                1.0 if table is None else variance_of(table.distribution, np.array(scores))
            )
        return variances

    def releases(self, codec: Codec, device: str | None = None) -> list[DeviceCounts]:
        """Return everything counted under this codec, in the order of the rounds.

        The rows of conditions that came with moments are among it. One device's only, if asked.
        """
        records = self.catalogue.messages(kind="anchor", device=device)
        counts = read_anchors(self.data_dir, records, codec.cardinalities)
        counts += [r.counts for r in self._moments(device) if r.counts is not None]
        return sorted(counts, key=lambda release: release.round)

    def _moments(self, device: str | None = None) -> list[DeviceMoments]:
        records = self.catalogue.messages(kind="moments", device=device)
        if not records:
            return []
        plans = [decode_plan(record.plan.encode()) for record in self.catalogue.rounds()]
        asked = {plan.id: plan.moments for plan in plans if plan.moments is not None}
        return read_moments(self.data_dir, records, asked)

    def _since_drift(self, releases: Sequence[_Release]) -> list[_Release]:
        """Leave out what devices said before the population drifted, if they spoke after it."""
        latest = max((r.round for r in releases), default=0)
        # A catalogue of an earlier time must not know of a drift that came after it.
        since = max((d for d in self._drifts() if d <= latest), default=0)
        moved = {r.device for r in releases if r.round >= since}
        return [r for r in releases if r.device not in moved or r.round >= since]

    def rows_of_devices(self, bundle: Bundle) -> dict[str, float]:
        """Noisy counts of real rows by device, from the census or else from the anchor."""
        rows = {
            release.device: Census.of(
                [counts.ravel() for counts in release.tables.values()], sigma=release.sigma
            ).rows
            for release in self.releases(bundle.codec)
        }
        return rows | {device: census.rows for device, census in self.censuses().items()}

    def privacy(self) -> dict[str, Any]:
        """Return what is to be stated about privacy now; see `statement.privacy_facts`."""
        totals = self.catalogue.device_totals().values()
        stated = [total.epsilon for total in totals if total.epsilon is not None]
        return privacy_facts(
            epsilon_limit=self.config.privacy.limit,
            epsilon=max(stated, default=0.0),
            delta=self.config.privacy.delta,
            schema=self.schema,
        )

    # what the guard has found ------------------------------------------------------------------

    @property
    def drift_round(self) -> int:
        """The round in which the population was last found changed; 0 when it never was."""
        return max(self._drifts(), default=0)

    def drift_before(self, round_number: int) -> int:
        """Return the last drift before a round; 0 when there was none."""
        return max((d for d in self._drifts() if d < round_number), default=0)

    def note_drift(self, round_number: int) -> None:
        """Remember that the population has changed."""
        drifts = sorted({*self._drifts(), round_number})
        self.catalogue.put(_DRIFT, msgspec.json.encode(drifts).decode())

    def _drifts(self) -> list[int]:
        return self.catalogue.stored(_DRIFT, list[int]) or []

    def outlying(self, round_number: int) -> dict[str, str]:
        """Return devices that were found out of line in a round, with the reason."""
        return self.catalogue.stored(f"{_OUTLYING}.{round_number}", dict[str, str]) or {}

    def note_outlying(self, round_number: int, reasons: Mapping[str, str]) -> None:
        """Remember devices that were found out of line in a round: late messages follow."""
        known = self.outlying(round_number) | dict(reasons)
        self.catalogue.put(f"{_OUTLYING}.{round_number}", msgspec.json.encode(known).decode())

    def alarms(self) -> Alarms:
        """Return the alarms in force; none before the first round."""
        found = self.catalogue.setting(_ALARMS)
        if found is None:
            return Alarms(fleet=self.config.fleet.name)
        try:
            return decode_alarms(found.encode())
        except MessageError as error:
            raise self.catalogue.unusable(_ALARMS, error) from error

    def keep_alarms(self, alarms: Alarms) -> None:
        """Commit the alarms in force."""
        self.catalogue.put(_ALARMS, encode_alarms(alarms).decode())

    def keep_aside(self, record: MessageRecord, reason: str) -> str:
        """Copy an accepted message to quarantine, with the reason; its new path."""
        source = self.data_dir / record.path
        data = self.pool.extract(record) if record.kind == "batch" else source.read_bytes()
        path = f"quarantine/{record.device}/{record.id}{source.suffix}"
        note = {"device": record.device, "id": record.id, "status": "quarantined", "reason": reason}
        target = self.data_dir / path
        write_durably(target.with_suffix(".json"), msgspec.json.format(msgspec.json.encode(note)))
        write_durably(target, data)
        return path

    def forget_files(self, records: Sequence[MessageRecord]) -> None:
        """Remove files of messages that are no longer accepted, unless others are in them."""
        for kind in {record.kind for record in records}:
            paths = {record.path for record in records if record.kind == kind}
            for path in paths - self.catalogue.paths(kind=kind, among=paths):
                (self.data_dir / path).unlink(missing_ok=True)
