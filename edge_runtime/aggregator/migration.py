"""A data directory of an earlier version is brought up to date at the start of an aggregator.

Version 2 kept every batch in a file of its own. Such files are read as they are; the version
changes because earlier releases would take a file of many batches for one.

Version 1 did not record which bundle a message started from, its plans asked for every column and
for pairs where they now list tables, and its anchors and its files of the pool are named and
marked accordingly. Nothing is lost, and every step may be repeated: the version changes last, so a
crash in between leaves a directory of version 1, which the next start goes on with.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from edge_runtime.aggregator.catalogue_tables import UPGRADED, VERSION, messages, rounds, settings
from edge_runtime.aggregator.database import open_database
from edge_runtime.aggregator.files import write_durably
from edge_runtime.aggregator.pool import Pool, PoolBatch
from edge_runtime.aggregator.records import MessageRecord
from edge_runtime.errors import AggregatorError, MessageError
from edge_runtime.messages import name_of_table
from edge_runtime.messages.tensor_file import pack_tensors, unpack_tensors
from edge_runtime.schema import Schema

__all__ = ["bring_up_to_date"]

_LOG = logging.getLogger(__name__)


def bring_up_to_date(url: str, data_dir: Path) -> bool:
    """Turn an earlier version into the present one; return whether there was anything to do.

    Only for the one process that holds the directory.

    Parameters
    ----------
    url : str
        Of the catalogue; one that does not exist yet is up to date.
    data_dir : Path
        Where the files are that the catalogue names.

    Raises
    ------
    AggregatorError
        If the catalogue cannot be opened, or a file that it names cannot be read.
    """
    engine = open_database(url, tables=sa.MetaData(), create=False)
    try:
        if not sa.inspect(engine).has_table(settings.name):
            return False
        with engine.begin() as connection:
            found = {row.key: row.value for row in connection.execute(sa.select(settings))}
        before = found.get("version")
        if before not in UPGRADED:
            return False
        _LOG.info("bringing %s up to date, from version %s to %s", data_dir, before, VERSION)
        if before == "1":
            schema = Schema.from_json(found["schema"])
            _change_tables(engine, columns=len(schema.columns))
            _change_files(engine, data_dir, fleet=found["fleet"], schema=schema)
        with engine.begin() as connection:
            version = sa.update(settings).where(settings.c.key == "version")
            connection.execute(version.values(value=VERSION))
    finally:
        engine.dispose()
    return True


def _change_tables(engine: sa.Engine, *, columns: int) -> None:
    """Give messages the bundle of their plan, and plans the tables that they ask for."""
    column = messages.c.bundle_digest
    known = {c["name"] for c in sa.inspect(engine).get_columns(messages.name)}
    with engine.begin() as connection:
        if column.name not in known:
            kind = column.type.compile(engine.dialect)
            connection.execute(
                sa.text(
                    f"ALTER TABLE {messages.name} ADD COLUMN {column.name} {kind} "
                    "DEFAULT '' NOT NULL"
                )
            )
        for number, text in connection.execute(sa.select(rounds.c.round, rounds.c.plan)).all():
            plan = _with_tables(json.loads(text), columns)
            connection.execute(
                sa.update(rounds).where(rounds.c.round == number).values(plan=json.dumps(plan))
            )
            connection.execute(
                sa.update(messages)
                .where(messages.c.plan_id == plan["id"])
                .values(bundle_digest=plan["bundle_digest"] or "")
            )


def _with_tables(plan: dict[str, Any], columns: int) -> Mapping[str, Any]:
    anchor = plan["anchor"]
    if anchor is not None and "pairs" in anchor:
        singles = [[column] for column in range(columns)]
        plan["anchor"] = {"share": anchor["share"], "tables": singles + anchor["pairs"]}
    return plan


def _change_files(engine: sa.Engine, data_dir: Path, *, fleet: str, schema: Schema) -> None:
    """Write anchors and the files of the pool as they are written now."""
    pool = Pool(data_dir)
    accepted = sa.select(messages).where(messages.c.status == "accepted")
    with engine.begin() as connection:
        records = [MessageRecord(*row) for row in connection.execute(accepted)]
    for record in records:
        if record.kind == "anchor":
            _rename_tensors(data_dir / record.path)
        elif record.kind == "batch":
            (codes,) = (codes for _, codes in pool.batches([record], names=schema.names))
            batch = PoolBatch(
                record.id, record.device, record.round, record.bundle_digest, record.depth, codes
            )
            paths = pool.write([batch], fleet=fleet, names=schema.names)
            with engine.begin() as connection:
                moved = sa.update(messages).where(messages.c.id == record.id)
                connection.execute(moved.values(path=paths[record.id]))


def _rename_tensors(path: Path) -> None:
    """Rename `one_way.3` and `pair.0.3` of an anchor to `table.3` and `table.0.3`."""
    try:
        header, tensors = unpack_tensors(path.read_bytes())
    except (OSError, MessageError) as error:
        raise AggregatorError(
            f"{path} is in the catalogue but cannot be read: {error}; "
            "restore the data directory from its backup"
        ) from error
    named = {
        name_of_table([int(part) for part in name.split(".")[1:]]): tensor
        for name, tensor in tensors.items()
    }
    write_durably(path, pack_tensors(header, named))
