"""Which schema the device works by: the first that arrived, unless nothing was paid for it."""

from __future__ import annotations

import logging

from edge_runtime.device.planbook import PlanBook
from edge_runtime.device.store import Store
from edge_runtime.errors import SchemaError
from edge_runtime.privacy import Ledger
from edge_runtime.schema import Schema, check_fleet

__all__ = ["KEPT_KEY", "SchemaKeeper", "offer_schema"]

_LOG = logging.getLogger(__name__)

#: under which the store keeps the schema in force
KEPT_KEY = "schema"
_OFFERED = "schema.offered"


def offer_schema(store: Store, data: bytes) -> bool:
    """Note a schema that arrived; the worker looks at it between two plans.

    Returns
    -------
    bool
        Whether it differs from the last one offered.

    Raises
    ------
    SchemaError
        When the bytes are not a schema, or one that no fleet can learn by; nothing is noted.
    """
    schema = Schema.from_json(data)
    # The device's own promise depends on it: the aggregator is not trusted with it.
    check_fleet(schema)
    canonical = schema.to_json()
    if store.get(_OFFERED) == canonical:
        return False
    store.put(_OFFERED, canonical)
    return True


class SchemaKeeper:
    """Adopts an offered schema or refuses it.

    Bounds and categories are public promises about real rows: with another schema every count
    would have to be paid for again. So a device that has spent anything keeps its schema, unless
    its own configuration says otherwise.

    Parameters
    ----------
    store, ledger, plans : Store, Ledger, PlanBook
        Of the calling thread.
    accept_new : bool
        The configuration's ``privacy.accept_new_schema``.
    """

    def __init__(self, *, store: Store, ledger: Ledger, plans: PlanBook, accept_new: bool) -> None:
        self._store = store
        self._ledger = ledger
        self._plans = plans
        self._accept_new = accept_new
        #: digest of the offered schema that was refused, or empty
        self.refused = ""

    def current(self) -> Schema | None:
        """Return the schema in force, after a look at what was offered; None before the first.

        Raises
        ------
        SchemaError
            When the stored schema is damaged.
        """
        kept, offered = self._store.get(KEPT_KEY), self._store.get(_OFFERED)
        self.refused = ""
        if offered is not None and offered != kept:
            if kept is None or self._accept_new or not self._ledger.entries():
                self._adopt(offered, first=kept is None)
                kept = offered
            else:
                self.refused = Schema.from_json(offered).learnt.digest
        return None if kept is None else Schema.from_json(kept)

    def _adopt(self, data: bytes, *, first: bool) -> None:
        with self._store.transaction():
            self._store.put(KEPT_KEY, data)
            self._store.drop_codes()
            self._store.delete("intake")
        schema = Schema.from_json(data)
        if not first:
            self._plans.abandon("the schema was replaced", except_schema=schema.learnt.digest)
        _LOG.info("schema %r adopted (%s)", schema.name, schema.digest[:12])

    def refusal(self) -> SchemaError:
        """Say why the offered schema is refused, and the way out."""
        return SchemaError(
            f"schema {self.refused[:12]} differs from the one that privacy was already spent on; "
            "set privacy.accept_new_schema = true in the device's configuration to take it"
        )
