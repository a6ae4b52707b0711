from __future__ import annotations

import shutil
import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.device.store import Store
from edge_runtime.errors import DamagedStoreError, StoreError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "device.sqlite")


@settings(max_examples=30, deadline=None)
@given(
    parts=st.lists(st.tuples(st.integers(0, 20), st.sampled_from([3, 300, 70_000])), max_size=6),
    seed=st.integers(0, 2**32 - 1),
)
def test_codes_come_back(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[int, int]], seed: int
) -> None:
    store = Store(tmp_path_factory.mktemp("store") / "s")
    rng = np.random.default_rng(seed)
    pieces = [rng.integers(0, top, (rows, 3)).astype(np.int32) for rows, top in parts]
    for piece in pieces:
        store.append_codes("c", piece)
    store.append_codes("other", np.ones((2, 5), dtype=np.int32))
    wanted = np.concatenate([np.zeros((0, 3), np.int32), *pieces])
    found = store.read_codes("c").codes
    if len(wanted):
        assert found.dtype == np.int32
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found, wanted)
    assert store.code_rows("c") == len(wanted)
    store.close()


def test_later_parts_can_be_left_out(store: Store) -> None:
    store.append_codes("c", np.zeros((4, 2), dtype=np.int32))
    part = store.read_codes("c").last_part
    store.append_codes("c", np.ones((3, 2), dtype=np.int32))
    assert store.read_codes("c", up_to_part=part).codes.sum() == 0
    assert store.read_codes("c").codes.sum() == 6


def test_codes_of_other_codecs_are_dropped(store: Store) -> None:
    for name in ("a", "b"):
        store.append_codes(name, np.zeros((4, 2), dtype=np.int32))
    store.drop_codes(keep_digest="b")
    assert (store.code_rows("a"), store.code_rows("b")) == (0, 4)
    store.drop_codes()
    assert store.code_rows("b") == 0


def test_a_full_store_refuses_and_keeps(tmp_path: Path) -> None:
    store = Store(tmp_path / "s", max_code_bytes=100)
    store.append_codes("c", np.zeros((30, 2), dtype=np.int32))
    with pytest.raises(StoreError, match="store_bytes"):
        store.append_codes("c", np.zeros((30, 2), dtype=np.int32))
    assert store.code_rows("c") == 30
    store.append_codes("c", np.zeros((20, 2), dtype=np.int32))
    assert store.code_bytes() == 100


def test_a_transaction_is_all_or_nothing(store: Store) -> None:
    def fail() -> None:
        with store.transaction():
            store.put("a", b"1")
            store.append_codes("c", np.zeros((4, 2), dtype=np.int32))
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        fail()
    assert store.get("a") is None
    assert store.code_rows("c") == 0


def test_what_was_committed_is_there_for_the_next_process(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    store.put("a", b"\x00\xff")
    store.save_checkpoint("p", b"half")
    store.save_checkpoint("p", b"whole")
    assert store.counter("n", add=5) == 5
    assert store.counter("n", add=-2) == 3
    store.close()
    again = Store(tmp_path / "s")
    assert again.get("a") == b"\x00\xff"
    assert again.load_checkpoint("p") == b"whole"
    assert again.counter("n") == 3
    again.delete("a")
    again.drop_checkpoint("p")
    assert again.get("a") is None
    assert again.load_checkpoint("p") is None


def test_two_threads_write_the_same_file(tmp_path: Path) -> None:
    Store(tmp_path / "s").close()
    failures: list[BaseException] = []

    def add(name: str) -> None:
        try:
            store = Store(tmp_path / "s")
            for _ in range(50):
                with store.transaction():
                    store.counter("shared", add=1)
            store.close()
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=add, args=(str(i),)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert Store(tmp_path / "s").counter("shared") == 150


def test_a_damaged_file_is_refused_with_advice(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"this is no database, but it is long enough to be read" * 100)
    with pytest.raises(StoreError, match="keep it aside"):
        Store(tmp_path / "s")


def test_a_file_that_was_known_and_has_lost_its_log_is_not_filled_anew(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    store.put("a", b"1")
    # Everything is in the log until SQLite writes it back.
    shutil.copy(tmp_path / "s", tmp_path / "copy")
    store.close()
    for path in (tmp_path / "copy", tmp_path / "missing"):
        with pytest.raises(DamagedStoreError, match="gone or empty"):
            Store(path, known=True)
    assert Store(tmp_path / "s", known=True).get("a") == b"1"


def test_another_version_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "s").close()
    connection = sqlite3.connect(tmp_path / "s")
    connection.execute("PRAGMA user_version=99")
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match="format 99"):
        Store(tmp_path / "s")


def test_a_disk_that_is_full_is_a_store_error(store: Store) -> None:
    pages = store.connection.execute("PRAGMA page_count").fetchone()[0]
    store.connection.execute(f"PRAGMA max_page_count={pages + 2}")
    store.put("kept", b"1")
    with pytest.raises(StoreError, match="full"):
        store.put("big", bytes(1 << 20))
    with pytest.raises(StoreError, match="nothing accepted before is lost"):
        store.append_codes("c", np.zeros((1 << 16, 4), dtype=np.int32))
    assert store.get("kept") == b"1"
    assert store.get("big") is None


def test_a_locked_file_is_a_store_error(store: Store) -> None:
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store.connection.execute("PRAGMA busy_timeout=50")
    with pytest.raises(StoreError, match="locked"):
        store.put("a", b"1")
    other.execute("ROLLBACK")
    store.put("a", b"1")


def test_a_file_from_before_windows_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    store.append_codes("c", np.zeros((3, 2), np.int32))
    store.connection.execute("DROP TABLE windows")
    store.close()
    again = Store(tmp_path / "s")
    assert again.code_rows("c") == 3
    assert again.connection.execute("SELECT COUNT(*) FROM windows").fetchone() == (0,)
    assert again.code_bytes() == 6
