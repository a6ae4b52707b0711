"""What was released, from what: enough to write the same bytes again when the pool has grown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from edge_runtime.aggregator.catalogue import Catalogue
from edge_runtime.aggregator.records import MessageRecord
from edge_runtime.errors import AggregatorError

__all__ = ["CatalogueAsOf", "ReleaseBook", "ReleaseRecord"]

_metadata = sa.MetaData()

_releases = sa.Table(
    "releases",
    _metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(16), nullable=False, unique=True),
    sa.Column("mode", sa.String(16), nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("bundle_digest", sa.String(64), nullable=False),
    sa.Column("facts", sa.JSON, nullable=False),
    sa.Column("sums_sha256", sa.String(64), nullable=False),
    sa.Column("created_at", sa.String(40), nullable=False),
)

# The messages one by one: late ones are sorted in among those of their round, and one that is
# quarantined afterwards must not change what was released before.
_seen = sa.Table(
    "release_messages",
    _metadata,
    sa.Column("release_id", sa.String(16), primary_key=True),
    sa.Column("message_id", sa.String(64), primary_key=True),
)

#: ids in one query: databases limit their parameters
_AT_ONCE = 500


class ReleaseRecord(NamedTuple):
    """One release.

    `id` follows from everything it was drawn from; `mode` is "pool", "balanced" or "matched";
    `facts` holds what was known at the time and cannot be derived later (privacy spent, the
    guard's judgements, versions of the software); `sums_sha256` is the digest of its SHA256SUMS.
    """

    id: str
    mode: str
    rows: int
    seed: int
    bundle_digest: str
    facts: dict[str, Any]
    sums_sha256: str
    created_at: str


class ReleaseBook:
    """Releases in the catalogue's database.

    Parameters
    ----------
    catalogue : Catalogue
        Open.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._engine = catalogue.engine
        _metadata.create_all(self._engine)

    def add(self, record: ReleaseRecord, messages: Sequence[MessageRecord]) -> None:
        """Commit a release and the messages that it saw, in one transaction."""
        with self._engine.begin() as connection:
            connection.execute(sa.insert(_releases).values(**record._asdict()))
            connection.execute(
                sa.insert(_seen), [{"release_id": record.id, "message_id": m.id} for m in messages]
            )

    def all(self) -> list[ReleaseRecord]:
        """Return all releases in the order they were made."""
        columns = [c for c in _releases.c if c.name != "number"]
        with self._engine.begin() as connection:
            rows = connection.execute(sa.select(*columns).order_by(_releases.c.number))
            return [ReleaseRecord(*row) for row in rows]

    def find(self, release_id: str) -> ReleaseRecord:
        """Return a release by its id, or by a beginning of it that no other has.

        Raises
        ------
        AggregatorError
            If there is none, or more than one.
        """
        made = self.all()
        found = [r for r in made if release_id and r.id.startswith(release_id)]
        if len(found) != 1:
            what = "is the beginning of several releases" if found else "is no release"
            known = ", ".join(r.id for r in (found or made)) or "none was made"
            raise AggregatorError(f"{release_id!r} {what} of this fleet: {known}")
        return found[0]

    def messages(self, record: ReleaseRecord) -> list[MessageRecord]:
        """Return the messages that a release saw, in the catalogue's order.

        Raises
        ------
        AggregatorError
            If the catalogue has lost some.
        """
        query = sa.select(_seen.c.message_id).where(_seen.c.release_id == record.id)
        with self._engine.begin() as connection:
            ids = [str(row.message_id) for row in connection.execute(query)]
        found: list[MessageRecord] = []
        for start in range(0, len(ids), _AT_ONCE):
            found += self._catalogue.find_messages(ids[start : start + _AT_ONCE]).values()
        if len(found) != len(ids):
            raise AggregatorError(
                f"release {record.id} saw {len(ids)} messages, the catalogue has {len(found)} of "
                "them; restore it from its backup"
            )
        return sorted(found, key=lambda m: (m.round, m.device, m.sequence, m.id))


class CatalogueAsOf(Catalogue):
    """A catalogue that knows certain accepted messages only; everything else is as it is now.

    Parameters
    ----------
    catalogue : Catalogue
        Stays the owner of the connections.
    messages : sequence of MessageRecord
        In the catalogue's order.
    settings : mapping of str to str or None
        Settings that are as they were then.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        messages: Sequence[MessageRecord],
        settings: Mapping[str, str | None],
    ) -> None:
        self._engine = catalogue.engine
        self._known = list(messages)
        self._settings = dict(settings)

    def setting(self, key: str) -> str | None:
        """As `Catalogue.setting`, as it was then."""
        return self._settings[key] if key in self._settings else super().setting(key)

    def messages(
        self,
        *,
        kind: str,
        status: str = "accepted",
        round_number: int | None = None,
        device: str | None = None,
    ) -> list[MessageRecord]:
        """As `Catalogue.messages`, of those known."""
        if status != "accepted":
            return []
        return [
            m for m in self._known
            if m.kind == kind
            and (round_number is None or m.round == round_number)
            and (device is None or m.device == device)
        ]  # fmt: skip
