from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from edge_runtime.device.planbook import PlanBook
from edge_runtime.device.store import Store
from edge_runtime.schema import Schema


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "device.sqlite")


def test_the_same_plan_is_one_plan(store: Store, kit: SimpleNamespace, schema: Schema) -> None:
    book = PlanBook(store)
    assert book.current() is None
    assert book.latest() is None
    plan = kit.census_plan(schema)
    assert book.offer(plan)
    assert not book.offer(plan)
    assert book.current() == plan
    book.mark(plan.id, "done")
    assert not book.offer(plan)
    assert book.current() is None
    latest = book.latest()
    assert latest is not None
    assert (latest.plan, latest.status) == (plan, "done")


def test_the_newest_plan_wins_unless_another_was_paid_for(
    store: Store, kit: SimpleNamespace, schema: Schema
) -> None:
    book = PlanBook(store)
    first, second, third = (kit.census_plan(schema) for _ in range(3))
    book.offer(first)
    book.offer(second)
    assert book.current() == second
    book.mark(second.id, "running")
    book.offer(third)
    assert book.current() == second
    book.mark(second.id, "done")
    assert book.current() == third


def test_a_declined_plan_is_looked_at_again_only_if_it_is_the_newest(
    store: Store, kit: SimpleNamespace, schema: Schema
) -> None:
    book = PlanBook(store)
    old, new = kit.census_plan(schema), kit.census_plan(schema)
    book.offer(old)
    book.mark(old.id, "declined", "too much")
    book.reconsider_declined()
    assert book.current() == old
    book.mark(old.id, "declined", "too much")
    book.offer(new)
    book.mark(new.id, "done")
    book.reconsider_declined()
    assert book.current() is None


def test_abandoned_plans_are_not_worked_on(
    store: Store, kit: SimpleNamespace, schema: Schema
) -> None:
    book = PlanBook(store)
    plan = kit.census_plan(schema)
    book.offer(plan)
    book.mark(plan.id, "running")
    store.save_checkpoint(plan.id, b"x")
    book.abandon("the schema was replaced", except_schema=schema.digest)
    assert book.current() == plan
    book.abandon("the schema was replaced", except_schema="0" * 64)
    assert book.current() is None
    assert store.load_checkpoint(plan.id) is None
    latest = book.latest()
    assert latest is not None
    assert (latest.status, latest.reason) == ("failed", "the schema was replaced")


def test_marks_take_part_in_the_callers_transaction(
    store: Store, kit: SimpleNamespace, schema: Schema
) -> None:
    book = PlanBook(store)
    plan = kit.census_plan(schema)
    book.offer(plan)

    def fail() -> None:
        with store.transaction():
            book.mark(plan.id, "done")
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        fail()
    assert book.current() == plan


def test_a_plan_of_another_release_does_not_stop_the_device(
    store: Store, kit: SimpleNamespace, schema: Schema, caplog: pytest.LogCaptureFixture
) -> None:
    book = PlanBook(store)
    plan, old = kit.census_plan(schema), kit.census_plan(schema)
    book.offer(plan)
    book.offer(old)
    store.save_checkpoint(old.id, b"half done")
    with store.transaction() as connection:
        connection.execute(
            "UPDATE plans SET plan = ?, status = 'running' WHERE id = ?",
            (b'{"version":1,"pairs":[[0,1]]}', old.id),
        )
    again = PlanBook(store)
    assert "plans of another release that cannot be read are dropped: 1" in caplog.text
    assert store.load_checkpoint(old.id) is None
    latest = again.latest()
    assert latest is not None
    assert latest.plan == plan
    # The aggregator's own upgrade sends it again, in words that can be read.
    assert again.offer(old)
    assert again.current() == old
