"""Opening an aggregator's data directory: to run on it, or to look at it without its settings."""

from __future__ import annotations

import secrets
from pathlib import Path

import msgspec

from edge_runtime.aggregator.catalogue import Catalogue
from edge_runtime.aggregator.config import AggregatorConfig, default_catalogue_url
from edge_runtime.aggregator.migration import bring_up_to_date
from edge_runtime.aggregator.sweeping import holds_catalogued
from edge_runtime.aggregator.workspace import Workspace
from edge_runtime.errors import AggregatorError, SchemaError
from edge_runtime.schema import Schema, check_fleet

__all__ = ["create_workspace", "open_workspace"]

_URL_FILE = "catalogue.url"

#: what mends everything that an aggregator stores anew at its start
_START_AGAIN = "start the aggregator once with this release, which stores its aggregator.toml anew"


def create_workspace(config: AggregatorConfig) -> Workspace:
    """Open the configured data directory, creating what is missing and upgrading what is old.

    Raises
    ------
    AggregatorError
        If the directory belongs to another fleet or schema, or to a fleet with privacy where
        this one has none (or the other way round).
    SchemaError
        If the schema file is malformed, or one that a fleet cannot learn by.
    """
    schema = Schema.load(Path(config.schema.path))
    check_fleet(schema)
    config.data_dir.mkdir(parents=True, exist_ok=True)
    if config.data.catalogue:
        # The verbs `status` and `release` get only the directory. The URL may hold a password.
        pointer = config.data_dir / _URL_FILE
        pointer.touch(mode=0o600)
        pointer.write_text(config.data.catalogue, encoding="utf-8")
    bring_up_to_date(config.catalogue_url, config.data_dir)
    catalogue = Catalogue(config.catalogue_url)
    if catalogue.setting("fleet") is None and holds_catalogued(config.data_dir):
        catalogue.close()
        raise AggregatorError(
            f"{config.data_dir} has a pool or summaries, and the catalogue {catalogue.name} knows "
            "nothing of it: it is new, was emptied or belongs to another directory; restore it "
            "from its backup, or use a new data directory"
        )
    private = "no" if config.privacy.limit is None else "yes"
    for key, value, what in (
        ("fleet", config.fleet.name, "fleet"),
        ("schema_digest", schema.digest, "schema"),
        ("private", private, "setting of privacy"),
    ):
        kept = catalogue.remember(key, value)
        if kept != value:
            catalogue.close()
            raise AggregatorError(
                f"{config.data_dir} belongs to another {what} ({kept[:16]}, not {value[:16]}); "
                "use a new data directory"
            )
    catalogue.remember("schema", schema.to_json().decode())
    catalogue.remember("release_key", secrets.token_hex(32))
    kept_config = msgspec.structs.replace(
        config,
        broker=msgspec.structs.replace(config.broker, username=None, password=None, tls=None),
    )
    catalogue.put("config", msgspec.json.encode(kept_config).decode())
    return Workspace(config=config, schema=schema, catalogue=catalogue)


def open_workspace(data_dir: str | Path) -> Workspace:
    """Open an existing data directory, for the verbs that need no broker.

    Raises
    ------
    AggregatorError
        If there is no aggregator's catalogue, or one that this release cannot use.
    """
    data_dir = Path(data_dir)
    url = _catalogue_url(data_dir)
    if not url and not (data_dir / "catalogue.sqlite").exists():
        raise AggregatorError(
            f"{data_dir} has no catalogue: it is not an aggregator's data directory, or no "
            "aggregator ran there yet"
        )
    catalogue = Catalogue(url or default_catalogue_url(data_dir), create=False)
    try:
        config, schema = _stored_config(catalogue), _stored_schema(catalogue)
    except AggregatorError:
        catalogue.close()
        raise
    # The directory may have been moved since.
    config = msgspec.structs.replace(
        config, data=msgspec.structs.replace(config.data, dir=str(data_dir))
    )
    return Workspace(config=config, schema=schema, catalogue=catalogue)


def _catalogue_url(data_dir: Path) -> str:
    """Return the URL that `create_workspace` has left; empty for the database in the directory."""
    pointer = data_dir / _URL_FILE
    try:
        return pointer.read_text(encoding="utf-8").strip() if pointer.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise AggregatorError(f"{pointer} cannot be read: {error}; {_START_AGAIN}") from error


def _stored_config(catalogue: Catalogue) -> AggregatorConfig:
    try:
        return msgspec.json.decode(_left_at_start(catalogue, "config"), type=AggregatorConfig)
    except msgspec.DecodeError as error:
        # Another release knows other settings; aggregator.toml is what counts.
        hint = f"another release has written it; {_START_AGAIN}"
        raise catalogue.unusable("config", error, hint) from error


def _stored_schema(catalogue: Catalogue) -> Schema:
    try:
        return Schema.from_json(_left_at_start(catalogue, "schema"))
    except SchemaError as error:
        raise catalogue.unusable("schema", error) from error


def _left_at_start(catalogue: Catalogue, key: str) -> str:
    value = catalogue.setting(key)
    if value is None:
        raise AggregatorError(f"{catalogue.name}: no aggregator has finished starting there yet")
    return value
