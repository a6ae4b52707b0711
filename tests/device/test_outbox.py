from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.device.outbox import Outbox, Pending, SendWindow
from edge_runtime.device.store import Store
from edge_runtime.errors import StoreError
from edge_runtime.messages import new_id


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "device.sqlite")


def add(store: Store, outbox: Outbox, payload: bytes, *, rows: int = 0) -> str:
    with store.transaction():
        message_id = new_id()
        outbox.add(
            sequence=outbox.next_sequence(), id=message_id, kind="batch", payload=payload, rows=rows
        )
    return message_id


def digest(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


def test_messages_wait_in_order_until_acknowledged(store: Store) -> None:
    outbox = Outbox(store, max_bytes=1000)
    ids = [add(store, outbox, bytes([i]) * 10, rows=i) for i in range(4)]
    assert [message.id for message in outbox.pending()] == ids
    assert [message.sequence for message in outbox.pending()] == [0, 1, 2, 3]
    settled = outbox.settle(sha256=digest(b"\x02" * 10), status="accepted")
    assert settled is not None
    assert (settled.id, settled.rows) == (ids[2], 2)
    assert len(outbox) == 3
    assert outbox.payload(2) is None
    assert outbox.payload(3) == b"\x03" * 10
    assert store.counter("outbox.rows_accepted") == 2


def test_sequences_are_never_used_twice(store: Store, tmp_path: Path) -> None:
    outbox = Outbox(store, max_bytes=1000)
    add(store, outbox, b"a")
    outbox.settle(sha256=digest(b"a"), status="accepted")
    store.close()
    again = Store(tmp_path / "device.sqlite")
    outbox = Outbox(again, max_bytes=1000)
    add(again, outbox, b"b")
    assert [message.sequence for message in outbox.pending()] == [1]


def test_a_lost_transaction_takes_its_message_along(store: Store) -> None:
    outbox = Outbox(store, max_bytes=1000)

    def fail() -> None:
        with store.transaction():
            outbox.add(sequence=outbox.next_sequence(), id=new_id(), kind="batch", payload=b"x")
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(outbox) == 0
    add(store, outbox, b"y")
    assert outbox.pending()[0].sequence == 0


@pytest.mark.parametrize("status", ["accepted", "duplicate", "quarantined"])
def test_stored_messages_leave(store: Store, status: str) -> None:
    outbox = Outbox(store, max_bytes=1000)
    add(store, outbox, b"a", rows=7)
    assert outbox.settle(sha256=digest(b"a"), status=status) is not None
    assert len(outbox) == 0
    assert outbox.size_bytes() == 0
    assert store.counter("outbox.rows_accepted") == (0 if status == "quarantined" else 7)


def test_a_refused_message_is_kept_with_its_reason_and_not_sent_again(store: Store) -> None:
    outbox = Outbox(store, max_bytes=1000)
    message_id = add(store, outbox, b"a", rows=7)
    outbox.settle(sha256=digest(b"a"), status="refused", reason="another codec")
    assert outbox.pending() == []
    assert outbox.refused() == [(message_id, "another codec")]
    assert store.counter("outbox.rows_accepted") == 0


def test_other_bytes_are_not_acknowledged(store: Store) -> None:
    outbox = Outbox(store, max_bytes=1000)
    add(store, outbox, b"a")
    assert outbox.settle(sha256=digest(b"b"), status="accepted") is None
    assert outbox.settle(sha256=digest(b"a"), status="accepted") is not None
    assert outbox.settle(sha256=digest(b"a"), status="duplicate") is None


def test_bounded_refused_ones_give_way_first(store: Store) -> None:
    outbox = Outbox(store, max_bytes=30)
    add(store, outbox, b"a" * 10)
    kept = add(store, outbox, b"b" * 10)
    outbox.settle(sha256=digest(b"a" * 10), status="refused", reason="no")
    add(store, outbox, b"c" * 10)
    assert len(outbox.refused()) == 1
    add(store, outbox, b"d" * 10)
    assert outbox.refused() == []
    assert outbox.size_bytes() == 30
    with pytest.raises(StoreError, match="outbox_bytes"):
        add(store, outbox, b"e")
    assert outbox.pending()[0].id == kept
    with pytest.raises(StoreError, match="outbox_bytes"):
        outbox.check_room(1)
    outbox.settle(sha256=digest(b"d" * 10), status="accepted")
    outbox.check_room(10)


def messages(*sizes: int) -> list[Pending]:
    return [Pending(i, f"{i}", "batch", 0, size) for i, size in enumerate(sizes)]


def test_the_window_bounds_what_is_under_way() -> None:
    window = SendWindow(max_messages=2, max_bytes=100, timeout_s=10)
    waiting = messages(10, 10, 10)
    assert [m.sequence for m in window.due(waiting, now_s=0)] == [0, 1]
    assert window.due(waiting, now_s=1) == []
    # An acknowledgement makes room.
    assert [m.sequence for m in window.due(waiting[1:], now_s=2)] == [2]


def test_a_message_larger_than_the_window_still_goes() -> None:
    window = SendWindow(max_messages=5, max_bytes=100, timeout_s=10)
    waiting = messages(500, 10)
    assert [m.sequence for m in window.due(waiting, now_s=0)] == [0]
    assert window.due(waiting, now_s=1) == []
    assert [m.sequence for m in window.due(waiting[1:], now_s=1)] == [1]


def test_silence_and_reconnects_send_again() -> None:
    window = SendWindow(timeout_s=10)
    waiting = messages(1, 1)
    assert window.next_due_s(now_s=0) is None
    window.due(waiting, now_s=0)
    assert window.next_due_s(now_s=4) == 6
    assert window.due(waiting, now_s=9.9) == []
    assert len(window.due(waiting, now_s=10)) == 2
    window.disconnected()
    assert len(window.due(waiting, now_s=11)) == 2


@given(
    sizes=st.lists(st.integers(1, 60), max_size=30),
    acknowledged=st.lists(st.integers(0, 29), max_size=60),
)
def test_everything_is_sent_once_and_never_too_much_at_once(
    sizes: list[int], acknowledged: list[int]
) -> None:
    window = SendWindow(max_messages=3, max_bytes=100, timeout_s=1e9)
    waiting, sent = messages(*sizes), []
    under_way: list[Pending] = []
    for step in range(len(sizes) + len(acknowledged) + 1):
        new = window.due(waiting, now_s=step)
        sent += [m.sequence for m in new]
        under_way += new
        assert len(under_way) <= 3
        assert len(under_way) <= 1 or sum(m.size for m in under_way) <= 100
        if under_way:
            pick = acknowledged[step % len(acknowledged)] if acknowledged else 0
            gone = under_way.pop(pick % len(under_way))
            waiting.remove(gone)
    assert sorted(sent) == list(range(len(sizes)))
