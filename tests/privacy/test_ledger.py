from __future__ import annotations

import math
import sqlite3
import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.errors import BudgetError, LedgerBusyError, LedgerError
from edge_runtime.privacy import ORDERS, Ledger, rdp_gaussian, to_epsilon

DELTA = 1e-5
COST = rdp_gaussian(5.0)


def release(connection, ledger, key, message="m1"):
    connection.execute("BEGIN IMMEDIATE")
    ledger.mark_released(key, message)
    connection.execute("COMMIT")


def test_spends_add_up_and_survive_reopening(open_ledger):
    ledger, connection = open_ledger()
    first = ledger.spend(key="a", what="census", rdp=COST, details={"sigma": "5"})
    second = ledger.spend(key="b", what="training", rdp=2 * COST, details={})
    assert (first.number, second.number) == (1, 2)
    assert second.epsilon_after == to_epsilon(3 * COST, DELTA)
    assert ledger.epsilon_left() == pytest.approx(8.0 - ledger.epsilon_spent())
    connection.close()
    again, _ = open_ledger()
    assert np.array_equal(again.rdp_spent(), COST + 2 * COST)
    assert [(e.key, e.what, e.details) for e in again.entries()] == [
        ("a", "census", {"sigma": "5"}),
        ("b", "training", {}),
    ]
    assert again.find("b").covers(2 * COST)
    assert again.find("nothing") is None


def test_over_the_limit_is_refused_and_nothing_recorded(open_ledger):
    ledger, _ = open_ledger(epsilon_limit=1.0)
    ledger.spend(key="a", what="census", rdp=rdp_gaussian(10.0), details={})
    spent = ledger.epsilon_spent()
    with pytest.raises(BudgetError, match="left") as caught:
        ledger.spend(key="b", what="training", rdp=rdp_gaussian(1.0), details={})
    assert caught.value.spent == spent
    assert caught.value.needed > caught.value.limit == 1.0
    assert ledger.epsilon_spent() == spent
    assert ledger.find("b") is None
    # What still fits is still possible.
    ledger.spend(key="c", what="small", rdp=rdp_gaussian(30.0), details={})


def test_exactly_the_limit_is_allowed(open_ledger):
    ledger, _ = open_ledger(epsilon_limit=to_epsilon(COST, DELTA))
    ledger.spend(key="a", what="all of it", rdp=COST, details={})
    assert ledger.epsilon_left() == 0.0
    with pytest.raises(BudgetError):
        ledger.spend(key="b", what="more", rdp=rdp_gaussian(1000.0), details={})


def test_same_key_before_release_spends_once(open_ledger):
    ledger, connection = open_ledger()
    first = ledger.spend(key="a", what="census", rdp=COST, details={"sigma": 5})
    connection.close()
    ledger, _ = open_ledger()
    again = ledger.spend(key="a", what="census", rdp=0.5 * COST, details={"sigma": 9})
    assert again.details == first.details == {"sigma": 5}
    assert np.array_equal(ledger.rdp_spent(), COST)
    with pytest.raises(LedgerError, match="paid for with less"):
        ledger.spend(key="a", what="census", rdp=1.01 * COST, details={})
    with pytest.raises(LedgerError, match="paid for with less"):
        ledger.spend(key="a", what="census", rdp=None, details={})


def test_same_key_after_release_is_refused(open_ledger):
    ledger, connection = open_ledger()
    ledger.spend(key="a", what="census", rdp=COST, details={})
    release(connection, ledger, "a")
    entry = ledger.find("a")
    assert entry.released
    assert entry.message_id == "m1"
    with pytest.raises(LedgerError, match="message m1"):
        ledger.spend(key="a", what="census", rdp=COST, details={})


def test_release_is_part_of_the_callers_transaction(open_ledger):
    ledger, connection = open_ledger()
    ledger.spend(key="a", what="census", rdp=COST, details={})
    with pytest.raises(LedgerError, match="transaction"):
        ledger.mark_released("a", "m1")
    connection.execute("BEGIN IMMEDIATE")
    ledger.mark_released("a", "m1")
    connection.execute("ROLLBACK")
    assert not ledger.find("a").released
    release(connection, ledger, "a")
    for key in ("a", "never spent"):
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match="never spent, or was released"):
            ledger.mark_released(key, "m2")
        connection.execute("ROLLBACK")
    assert ledger.find("a").message_id == "m1"


def test_spend_refuses_inside_an_open_transaction(open_ledger):
    ledger, connection = open_ledger()
    connection.execute("BEGIN")
    with pytest.raises(LedgerError, match="transaction is open"):
        ledger.spend(key="a", what="census", rdp=COST, details={})
    connection.execute("COMMIT")
    assert ledger.entries() == []


def test_commits_are_synced_even_when_somebody_lowered_it(open_ledger):
    ledger, connection = open_ledger()
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    connection.execute("PRAGMA synchronous = OFF")
    seen = []
    connection.set_trace_callback(seen.append)
    ledger.spend(key="a", what="census", rdp=COST, details={})
    connection.set_trace_callback(None)
    order = [s.split()[0] for s in seen]
    assert seen[0] == "PRAGMA synchronous = FULL"
    assert order.index("PRAGMA") < order.index("BEGIN") < order.index("INSERT")
    assert order.index("INSERT") < order.index("COMMIT")
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert not connection.in_transaction


def test_a_failing_disk_leaves_nothing_half_spent(open_ledger):
    ledger, connection = open_ledger()
    ledger.spend(key="a", what="census", rdp=COST, details={})
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(LedgerBusyError, match="full"):
        ledger.spend(key="b", what="training", rdp=COST, details={"padding": "x" * 100_000})
    assert not connection.in_transaction
    assert [e.key for e in ledger.entries()] == ["a"]
    connection.execute("PRAGMA max_page_count = 100000")
    ledger.spend(key="b", what="training", rdp=COST, details={})


def test_without_privacy_needs_no_limit_and_is_never_forgotten(open_ledger):
    ledger, connection = open_ledger(epsilon_limit=4.0)
    with pytest.raises(BudgetError):
        ledger.spend(key="a", what="rows", rdp=None, details={})
    connection.close()
    ledger, connection = open_ledger(epsilon_limit=None)
    entry = ledger.spend(key="a", what="rows", rdp=None, details={})
    assert entry.rdp is None
    assert math.isinf(entry.epsilon_after)
    assert math.isinf(ledger.epsilon_spent())
    assert math.isinf(ledger.epsilon_left())
    ledger.spend(key="b", what="census", rdp=COST, details={})
    connection.close()
    # A limit set afterwards does not make it undone.
    ledger, _ = open_ledger(epsilon_limit=4.0)
    assert math.isinf(ledger.epsilon_spent())
    assert ledger.epsilon_left() == 0.0
    with pytest.raises(BudgetError):
        ledger.spend(key="c", what="census", rdp=rdp_gaussian(1e6), details={})


@pytest.mark.parametrize(
    "bad", [np.zeros(3), np.full_like(ORDERS, np.nan), np.full_like(ORDERS, -1.0)]
)
def test_malformed_costs_are_refused(open_ledger, bad):
    ledger, _ = open_ledger()
    with pytest.raises(LedgerError, match="number >= 0"):
        ledger.spend(key="a", what="census", rdp=bad, details={})
    assert ledger.entries() == []


def test_malformed_limits_are_refused():
    connection = sqlite3.connect(":memory:")
    for limit in (-1.0, math.inf, math.nan):
        with pytest.raises(LedgerError, match="epsilon limit"):
            Ledger(connection, epsilon_limit=limit, delta=DELTA)
    for delta in (0.0, 1.0, math.nan):
        with pytest.raises(LedgerError, match="delta"):
            Ledger(connection, epsilon_limit=1.0, delta=delta)


def test_entries_cannot_be_deleted_lowered_or_recalled(open_ledger):
    ledger, connection = open_ledger()
    ledger.spend(key="a", what="census", rdp=COST, details={})
    release(connection, ledger, "a")
    for attempt in (
        "DELETE FROM ledger_entries",
        "UPDATE ledger_entries SET rdp = zeroblob(648)",
        "UPDATE ledger_entries SET key = 'b'",
        "UPDATE ledger_entries SET released = 0",
    ):
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(attempt)
    assert np.array_equal(ledger.rdp_spent(), COST)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE ledger_entries SET rdp = zeroblob(648) WHERE key = 'a'",
        "UPDATE ledger_entries SET details = '{}' WHERE key = 'b'",
        "DELETE FROM ledger_entries WHERE key = 'a'",
        "UPDATE ledger_entries SET number = 7 WHERE key = 'b'",
    ],
)
def test_damage_is_noticed(open_ledger, damage):
    ledger, connection = open_ledger()
    ledger.spend(key="a", what="census", rdp=COST, details={"sigma": 5})
    ledger.spend(key="b", what="training", rdp=COST, details={"sigma": 6})
    for trigger in ("ledger_no_delete", "ledger_no_change", "ledger_no_recall"):
        connection.execute(f"DROP TRIGGER {trigger}")
    connection.execute(damage)
    for use in (ledger.rdp_spent, ledger.entries, open_ledger):
        with pytest.raises(LedgerError, match="damaged"):
            use()
    with pytest.raises(LedgerError, match="damaged"):
        ledger.spend(key="c", what="more", rdp=COST, details={})


def test_another_grid_of_orders_is_refused(open_ledger):
    _, connection = open_ledger()
    connection.execute("UPDATE ledger_meta SET value = x'00' WHERE name = 'orders'")
    with pytest.raises(LedgerError, match="another version"):
        open_ledger()


def test_clock_jumps_do_not_matter(open_ledger, monkeypatch):
    """A clock that runs backwards, or was copied back with an image, changes nothing."""
    clock = iter(range(2_000_000_000, 0, -100_000_000))
    for name in ("time", "time_ns", "monotonic", "monotonic_ns"):
        monkeypatch.setattr(time, name, lambda: next(clock, 0))
    totals = []
    for key in "abcd":
        ledger, connection = open_ledger()
        ledger.spend(key=key, what="census", rdp=COST, details={})
        totals.append(ledger.epsilon_spent())
        connection.close()
    assert totals == sorted(set(totals))
    _, connection = open_ledger()
    tables = connection.execute("SELECT group_concat(sql) FROM sqlite_master").fetchone()[0]
    assert "CURRENT" not in tables.upper()


def test_threads_on_one_connection_cannot_overspend(ledger_path):
    connection = sqlite3.connect(ledger_path, isolation_level=None, check_same_thread=False)
    limit = to_epsilon(10 * COST, DELTA)
    ledger = Ledger(connection, epsilon_limit=limit, delta=DELTA)
    refused = []

    def spend(name: int) -> None:
        for i in range(5):
            try:
                ledger.spend(key=f"{name}-{i}", what="x", rdp=COST, details={})
            except BudgetError:
                refused.append((name, i))

    threads = [threading.Thread(target=spend, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ledger.entries()) == 10
    assert len(refused) == 10
    assert ledger.epsilon_spent() <= limit
    connection.close()


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.floats(2.0, 60.0), st.sampled_from(["spend", "release"])),
        max_size=20,
    )
)
def test_spent_never_falls_and_never_passes_the_limit(actions):
    connection = sqlite3.connect(":memory:", isolation_level=None)
    ledger = Ledger(connection, epsilon_limit=3.0, delta=DELTA)
    spent = ledger.rdp_spent()
    for number, sigma, action in actions:
        try:
            if action == "spend":
                ledger.spend(key=str(number), what="x", rdp=rdp_gaussian(sigma), details={})
            else:
                connection.execute("BEGIN")
                ledger.mark_released(str(number), "m")
                connection.execute("COMMIT")
        except (LedgerError, BudgetError):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        after = Ledger(connection, epsilon_limit=3.0, delta=DELTA).rdp_spent()
        assert np.all(after >= spent)
        assert to_epsilon(after, DELTA) <= 3.0
        spent = after
    connection.close()
