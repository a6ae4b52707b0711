"""Opening the catalogue's database, and what its failures are called."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from edge_runtime.errors import AggregatorError, CatalogueError
from edge_runtime.process.write_ahead import write_ahead

__all__ = ["name_of", "open_database"]


def open_database(url: str, *, tables: sa.MetaData, create: bool) -> sa.Engine:
    """Connect to a database; from then on its failures are errors of this package.

    Parameters
    ----------
    url : str
        An SQLAlchemy URL.
    tables : MetaData
        What it must hold.
    create : bool
        Whether to create the tables that are missing.

    Raises
    ------
    AggregatorError
        If it cannot be opened or has no such tables.
    """
    try:
        engine = sa.create_engine(url, connect_args=_connect_args(url))
        if engine.dialect.name == "sqlite":
            sa.event.listen(engine, "connect", _prepare_sqlite)
        if create:
            tables.create_all(engine)
        found = set(sa.inspect(engine).get_table_names())
    except (sa.exc.SQLAlchemyError, ImportError) as error:
        raise AggregatorError(
            f"the catalogue {_shown(url)} cannot be opened: {_reason(error)}; "
            "check [data] in aggregator.toml"
        ) from error
    missing = sorted(tables.tables.keys() - found)
    if missing:
        engine.dispose()
        raise AggregatorError(
            f"the catalogue {_shown(url)} cannot be opened: it has no {', '.join(missing)}; it is "
            "no catalogue or a damaged one, restore it from its backup"
        )
    sa.event.listen(engine, "handle_error", _translate)
    return engine


def name_of(url: sa.URL) -> str:
    """Return what people call a database: its file, or its URL without the password."""
    if url.get_backend_name() == "sqlite" and url.database:
        return url.database
    return url.render_as_string()


def _translate(context: sa.engine.ExceptionContext) -> None:
    """Raise what SQLAlchemy is about to raise, as an error that the command line can show."""
    failure = context.sqlalchemy_exception
    if not isinstance(failure, sa.exc.DBAPIError) or context.engine is None:
        return
    text = f"the catalogue {name_of(context.engine.url)}: {_reason(failure)}"
    if isinstance(failure, sa.exc.OperationalError):
        raise CatalogueError(
            f"{text}; see to the database, its disk and its permissions"
        ) from failure.orig
    raise AggregatorError(f"{text}; restore it from its backup") from failure.orig


def _reason(error: Exception) -> str:
    """In one line: SQLAlchemy adds the statement and a link."""
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) and error.orig else error
    return " ".join(str(cause).split())


def _shown(url: str) -> str:
    try:
        return name_of(sa.make_url(url))
    except sa.exc.ArgumentError:
        # Whatever it is, it may hold a password.
        return "that data.catalogue names"


def _connect_args(url: str) -> dict[str, Any]:
    # The inbox, the planner and a status command may meet on one file: wait, do not fail.
    return {"timeout": 30.0} if url.startswith("sqlite") else {}


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    """Return an acknowledged message must survive a power cut: WAL, synced at every commit."""
    write_ahead(connection)
    connection.execute("PRAGMA synchronous=FULL")
