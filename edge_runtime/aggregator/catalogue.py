"""The catalogue: what was accepted, published and asked, in one SQL database.

A message counts as accepted when, and only when, its row is committed here; the files of the pool
are written and synced before. SQLite by default, any SQLAlchemy URL otherwise.
"""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa

from edge_runtime.aggregator.catalogue_tables import UPGRADED, VERSION
from edge_runtime.aggregator.catalogue_tables import bundles as _bundles
from edge_runtime.aggregator.catalogue_tables import devices as _devices
from edge_runtime.aggregator.catalogue_tables import messages as _messages
from edge_runtime.aggregator.catalogue_tables import metadata as _metadata
from edge_runtime.aggregator.catalogue_tables import rounds as _rounds
from edge_runtime.aggregator.catalogue_tables import settings as _settings
from edge_runtime.aggregator.database import name_of, open_database
from edge_runtime.aggregator.records import (
    BundleRecord,
    DeviceTotals,
    MessageRecord,
    RoundRecord,
)
from edge_runtime.errors import AggregatorError

__all__ = ["Catalogue", "utc_now"]

_T = TypeVar("_T")


def utc_now() -> str:
    """Return the time as ISO 8601 in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class Catalogue:
    """The aggregator's record; may be used from several threads.

    Parameters
    ----------
    url : str
        An SQLAlchemy URL.
    create : bool
        Whether to create missing tables; otherwise a database without them is refused.

    Raises
    ------
    AggregatorError
        If the database cannot be opened, has no catalogue or one of another version.
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        self._engine = open_database(url, tables=_metadata, create=create)
        # Rows by device and round, of devices that were asked about: see `rows_of`.
        self._rows: dict[str, dict[int, int]] = {}
        self._rows_lock = threading.Lock()
        version = self.setting("version")
        if version is None and create:
            self.remember("version", VERSION)
        elif version != VERSION:
            hint = (
                "start the aggregator once with this release, which brings it up to date"
                if version in UPGRADED
                else "use the release that wrote it, or a new data directory"
            )
            raise AggregatorError(
                f"the catalogue {self.name} has version {version}, this release reads {VERSION}; "
                + hint
            )

    @property
    def engine(self) -> sa.Engine:
        """The database, for records that are kept beside these."""
        return self._engine

    @property
    def name(self) -> str:
        """What people call it: its file, or its URL without the password."""
        return name_of(self._engine.url)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        with self._engine.begin() as connection:
            yield connection

    # settings ---------------------------------------------------------------------------------

    def setting(self, key: str) -> str | None:
        """Return a remembered value, or None."""
        with self._begin() as connection:
            return connection.execute(
                sa.select(_settings.c.value).where(_settings.c.key == key)
            ).scalar()

    def stored(self, key: str, kind: type[_T]) -> _T | None:
        """Return a remembered value that was stored as JSON, or None.

        Raises
        ------
        AggregatorError
            If it is not what this release stores under this key.
        """
        text = self.setting(key)
        if text is None:
            return None
        try:
            return msgspec.json.decode(text, type=kind)
        except (msgspec.DecodeError, RecursionError) as error:
            raise self.unusable(key, error) from error

    def unusable(self, key: str, error: Exception, hint: str = "") -> AggregatorError:
        """Return the error of a remembered value that cannot be used."""
        hint = hint or "restore it from its backup, or use the release that wrote it"
        return AggregatorError(f"{self.name}, setting {key!r}: {error}; {hint}")

    def remember(self, key: str, value: str) -> str:
        """Store a value once; the value that is stored, which may be an earlier one."""
        with self._begin() as connection:
            found = connection.execute(
                sa.select(_settings.c.value).where(_settings.c.key == key)
            ).scalar()
            if found is not None:
                return str(found)
            connection.execute(sa.insert(_settings).values(key=key, value=value))
            return value

    def put(self, key: str, value: str) -> None:
        """Store a value, replacing an earlier one."""
        with self._begin() as connection:
            connection.execute(sa.delete(_settings).where(_settings.c.key == key))
            connection.execute(sa.insert(_settings).values(key=key, value=value))

    # messages ---------------------------------------------------------------------------------

    def add_messages(self, records: Sequence[MessageRecord]) -> None:
        """Commit records of new messages in one transaction."""
        if not records:
            return
        with self._rows_lock:
            with self._begin() as connection:
                connection.execute(sa.insert(_messages), [r._asdict() for r in records])
            for record in records:
                if (record.kind, record.status) == ("batch", "accepted"):
                    rows = self._rows.get(record.device)
                    if rows is not None:
                        rows[record.round] = rows.get(record.round, 0) + record.rows

    def find_messages(self, ids: Iterable[str]) -> dict[str, MessageRecord]:
        """Return records of those ids that are known."""
        query = sa.select(_messages).where(_messages.c.id.in_(list(ids)))
        with self._begin() as connection:
            return {row.id: MessageRecord(*row) for row in connection.execute(query)}

    def requalify(self, records: Sequence[MessageRecord]) -> None:
        """Commit another status, reason and path of known messages, in one transaction."""
        with self._rows_lock, self._begin() as connection:
            for record in records:
                self._rows.pop(record.device, None)
                connection.execute(
                    sa.update(_messages)
                    .where(_messages.c.id == record.id)
                    .values(status=record.status, reason=record.reason, path=record.path)
                )

    def messages(
        self,
        *,
        kind: str,
        status: str = "accepted",
        round_number: int | None = None,
        device: str | None = None,
    ) -> list[MessageRecord]:
        """Return records of one kind, ordered by round, device, sequence and id."""
        query = sa.select(_messages).where(_messages.c.kind == kind, _messages.c.status == status)
        if round_number is not None:
            query = query.where(_messages.c.round == round_number)
        if device is not None:
            query = query.where(_messages.c.device == device)
        query = query.order_by(
            _messages.c.round, _messages.c.device, _messages.c.sequence, _messages.c.id
        )
        with self._begin() as connection:
            return [MessageRecord(*row) for row in connection.execute(query)]

    def latest_batches(self, most: int) -> list[MessageRecord]:
        """Return records of the batches that were accepted last, the earliest of them first."""
        query = (
            sa.select(_messages)
            .where(_messages.c.kind == "batch", _messages.c.status == "accepted")
            .order_by(_messages.c.received_at.desc(), _messages.c.id)
            .limit(most)
        )
        with self._begin() as connection:
            return [MessageRecord(*row) for row in connection.execute(query)][::-1]

    def accepted(self) -> list[MessageRecord]:
        """Return records of all kinds that were accepted, in the order of `messages`."""
        query = (
            sa.select(_messages)
            .where(_messages.c.status == "accepted")
            .order_by(_messages.c.round, _messages.c.device, _messages.c.sequence, _messages.c.id)
        )
        with self._begin() as connection:
            return [MessageRecord(*row) for row in connection.execute(query)]

    def rows_of(self, devices: Iterable[str]) -> Mapping[tuple[str, int], int]:
        """Synthetic rows accepted from devices, by device and round; nothing where none were.

        Of devices that were asked about before they are known without a look at the database, as
        it would take longer with every batch of a device.
        """
        with self._rows_lock:
            asked = set(devices) - self._rows.keys()
            if asked:
                query = (
                    sa.select(_messages.c.device, _messages.c.round, sa.func.sum(_messages.c.rows))
                    .where(
                        _messages.c.device.in_(asked),
                        _messages.c.kind == "batch",
                        _messages.c.status == "accepted",
                    )
                    .group_by(_messages.c.device, _messages.c.round)
                )
                # Known only once the database has answered: what it refuses is asked for again.
                found: dict[str, dict[int, int]] = {device: {} for device in asked}
                with self._begin() as connection:
                    for device, round_number, rows in connection.execute(query):
                        found[device][round_number] = int(rows)
                self._rows |= found
            return {(d, r): n for d in devices for r, n in self._rows[d].items()}

    def paths(self, *, kind: str | None = None, among: Iterable[str] | None = None) -> set[str]:
        """Return where accepted messages are, of one kind or all, of all files or those asked."""
        query = sa.select(_messages.c.path).distinct().where(_messages.c.status == "accepted")
        if kind is not None:
            query = query.where(_messages.c.kind == kind)
        if among is not None:
            query = query.where(_messages.c.path.in_(list(among)))
        with self._begin() as connection:
            return set(connection.execute(query).scalars())

    def has_summary(self, device: str, plan_id: str, kind: str) -> bool:
        """Whether a device's summary of this kind was accepted for a plan."""
        query = sa.select(_messages.c.id).where(
            _messages.c.device == device,
            _messages.c.plan_id == plan_id,
            _messages.c.kind == kind,
            _messages.c.status == "accepted",
        )
        with self._begin() as connection:
            return connection.execute(query.limit(1)).first() is not None

    def complete(self, plan_id: str, kinds: Iterable[str]) -> set[str]:
        """Devices of which every part of every one of these kinds was accepted for a plan."""
        query = (
            sa.select(_messages.c.device, _messages.c.kind)
            .where(_messages.c.plan_id == plan_id, _messages.c.status == "accepted")
            .group_by(_messages.c.device, _messages.c.kind)
            .having(sa.func.count() >= sa.func.max(_messages.c.parts))
        )
        found: dict[str, set[str]] = {}
        with self._begin() as connection:
            for device, kind in connection.execute(query):
                found.setdefault(device, set()).add(kind)
        wanted = set(kinds)
        return {device for device, have in found.items() if wanted <= have}

    def device_totals(self) -> dict[str, DeviceTotals]:
        """Return what was accepted from every device that ever sent a message."""
        accepted = _messages.c.status == "accepted"
        batch = accepted & (_messages.c.kind == "batch")
        query = (
            sa.select(
                _messages.c.device,
                _total(batch, 1),
                _total(batch, _messages.c.rows),
                _total(~accepted, 1),
                _total(accepted, _messages.c.bytes),
                sa.func.max(sa.case((accepted, _messages.c.epsilon))),
                sa.func.coalesce(sa.func.max(sa.case((accepted, _messages.c.round))), 0),
            )
            .group_by(_messages.c.device)
            .order_by(_messages.c.device)
        )
        with self._begin() as connection:
            return {
                device: DeviceTotals(
                    int(batches), int(rows), int(quarantined), int(size), epsilon, int(last)
                )
                for device, batches, rows, quarantined, size, epsilon, last in connection.execute(
                    query
                )
            }

    def totals(self) -> dict[str, int]:
        """Return counts over all messages: batches, rows, summaries, quarantined, bytes."""
        accepted = _messages.c.status == "accepted"
        batch = _messages.c.kind == "batch"
        query = sa.select(
            _total(accepted & batch, 1).label("batches"),
            _total(accepted & batch, _messages.c.rows).label("rows"),
            _total(accepted & ~batch, 1).label("summaries"),
            _total(~accepted, 1).label("quarantined"),
            _total(accepted, _messages.c.bytes).label("bytes"),
        )
        with self._begin() as connection:
            row = connection.execute(query).one()
        return {key: int(value) for key, value in row._mapping.items()}

    # rounds -----------------------------------------------------------------------------------

    def open_round(self, record: RoundRecord) -> None:
        """Commit a new round before its plan is published."""
        with self._begin() as connection:
            connection.execute(sa.insert(_rounds).values(**record._asdict()))

    def replace_plan(self, number: int, plan: str, *, reason: str) -> None:
        """Put a round's plan with a larger share of the fleet in the place of the one before."""
        with self._begin() as connection:
            connection.execute(
                sa.update(_rounds).where(_rounds.c.round == number).values(plan=plan, reason=reason)
            )

    def mark_round(
        self, number: int, status: str, *, reason: str = "", ended_unix_s: float | None = None
    ) -> None:
        """Move a round on to "fusing" or "closed"."""
        values: dict[str, Any] = {"status": status}
        if reason:
            values["reason"] = reason
        if ended_unix_s is not None:
            values["ended_unix_s"] = ended_unix_s
        with self._begin() as connection:
            connection.execute(sa.update(_rounds).where(_rounds.c.round == number).values(**values))

    def rounds(self) -> list[RoundRecord]:
        """All rounds so far, the census first."""
        with self._begin() as connection:
            rows = connection.execute(sa.select(_rounds).order_by(_rounds.c.round))
            return [RoundRecord(*row) for row in rows]

    # bundles ----------------------------------------------------------------------------------

    def add_bundle(self, record: BundleRecord) -> None:
        """Commit a published or rejected generator, after its file is on disk."""
        with self._begin() as connection:
            connection.execute(sa.insert(_bundles).values(**record._asdict()))

    def bundles(self, *, status: str | None = "published") -> list[BundleRecord]:
        """Return generators in the order they were made; `status` None: those of any status."""
        columns = [c for c in _bundles.c if c.name != "number"]
        query = sa.select(*columns).order_by(_bundles.c.number)
        if status is not None:
            query = query.where(_bundles.c.status == status)
        with self._begin() as connection:
            return [BundleRecord(*row) for row in connection.execute(query)]

    def withdraw(self, digests: Iterable[str], *, reason: str) -> None:
        """Take published generators back; the last one that stays published is in force."""
        query = sa.update(_bundles).where(
            _bundles.c.digest.in_(list(digests)), _bundles.c.status == "published"
        )
        with self._begin() as connection:
            connection.execute(query.values(status="withdrawn", reason=reason))

    # devices ----------------------------------------------------------------------------------

    def save_devices(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Remember the last state of devices (builtin types only)."""
        if not states:
            return
        now = utc_now()
        with self._begin() as connection:
            connection.execute(sa.delete(_devices).where(_devices.c.device.in_(list(states))))
            connection.execute(
                sa.insert(_devices),
                [{"device": d, "state": dict(s), "seen_at": now} for d, s in states.items()],
            )

    def devices(self) -> dict[str, dict[str, Any]]:
        """Return the last known state of every device, with `seen_at`."""
        with self._begin() as connection:
            rows = connection.execute(sa.select(_devices).order_by(_devices.c.device))
            return {row.device: {**row.state, "seen_at": row.seen_at} for row in rows}


def _total(condition: sa.ColumnElement[bool], value: Any) -> sa.ColumnElement[int]:
    return sa.func.coalesce(sa.func.sum(sa.case((condition, value), else_=0)), 0)
