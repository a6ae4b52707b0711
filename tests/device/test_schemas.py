from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edge_runtime.device.planbook import PlanBook
from edge_runtime.device.schemas import SchemaKeeper, offer_schema
from edge_runtime.device.store import Store
from edge_runtime.errors import SchemaError
from edge_runtime.privacy import Ledger, rdp_gaussian
from edge_runtime.schema import Schema


class Parts:
    def __init__(self, directory: Path, *, accept_new: bool = False) -> None:
        self.store = Store(directory / "device.sqlite")
        self.ledger = Ledger(self.store.connection, epsilon_limit=8.0, delta=1e-5)
        self.plans = PlanBook(self.store)
        self.keeper = SchemaKeeper(
            store=self.store, ledger=self.ledger, plans=self.plans, accept_new=accept_new
        )

    def spend(self) -> None:
        self.ledger.spend(key="k", what="w", rdp=rdp_gaussian(5.0), details={})


def test_the_first_schema_is_kept(tmp_path: Path, schema: Schema) -> None:
    parts = Parts(tmp_path)
    assert parts.keeper.current() is None
    assert offer_schema(parts.store, schema.to_json())
    assert not offer_schema(parts.store, schema.to_json())
    assert parts.keeper.current() == schema
    parts.store.close()
    assert Parts(tmp_path).keeper.current() == schema


def test_bytes_that_are_no_schema_are_refused(tmp_path: Path, schema: Schema) -> None:
    parts = Parts(tmp_path)
    with pytest.raises(SchemaError):
        offer_schema(parts.store, b"{}")
    assert parts.keeper.current() is None


def test_another_schema_replaces_one_that_nothing_was_paid_for(
    tmp_path: Path, schema: Schema, kit: SimpleNamespace
) -> None:
    parts = Parts(tmp_path)
    offer_schema(parts.store, schema.to_json())
    parts.keeper.current()
    parts.store.append_codes("c", np.zeros((3, 2), dtype=np.int32))
    plan = kit.census_plan(schema)
    parts.plans.offer(plan)
    other = kit.make_schema("other")
    offer_schema(parts.store, other.to_json())
    assert parts.keeper.current() == other
    assert parts.keeper.refused == ""
    assert parts.store.code_rows("c") == 0
    assert parts.plans.current() is None


def test_another_schema_is_refused_once_something_was_paid(
    tmp_path: Path, schema: Schema, kit: SimpleNamespace
) -> None:
    parts = Parts(tmp_path)
    offer_schema(parts.store, schema.to_json())
    parts.keeper.current()
    parts.spend()
    other = kit.make_schema("other")
    offer_schema(parts.store, other.to_json())
    assert parts.keeper.current() == schema
    assert parts.keeper.refused == other.digest
    assert "accept_new_schema" in parts.keeper.refusal().public
    # The old one coming back lifts the refusal.
    offer_schema(parts.store, schema.to_json())
    assert parts.keeper.current() == schema
    assert parts.keeper.refused == ""


def test_unless_the_configuration_takes_it(
    tmp_path: Path, schema: Schema, kit: SimpleNamespace
) -> None:
    parts = Parts(tmp_path, accept_new=True)
    offer_schema(parts.store, schema.to_json())
    parts.keeper.current()
    parts.spend()
    other = kit.make_schema("other")
    offer_schema(parts.store, other.to_json())
    assert parts.keeper.current() == other
    # What was spent stays spent.
    assert parts.ledger.epsilon_spent() > 0
