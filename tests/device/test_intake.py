from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edge_runtime.device.intake import Intake
from edge_runtime.device.source import CsvSource
from edge_runtime.device.store import Store
from edge_runtime.errors import DataError, StoreError
from edge_runtime.generator import Bundle
from edge_runtime.schema import Codec, Schema, census_counts, read_table


@pytest.fixture
def path(tmp_path: Path, kit: SimpleNamespace) -> Path:
    return kit.write_csv(tmp_path / "rows.csv", kit.make_rows(500))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "device.sqlite")


def intake(store: Store, path: Path, schema: Schema, *, piece_bytes: int = 2000) -> Intake:
    return Intake(store=store, source=CsvSource(path=path, piece_bytes=piece_bytes), schema=schema)


def take_all(taker: Intake, codec: Codec) -> None:
    for _ in range(1000):
        if not taker.advance(codec):
            return
    pytest.fail("the intake never ends")


def test_the_census_counts_every_row_once(store: Store, path: Path, schema: Schema) -> None:
    counts = intake(store, path, schema).census(should_stop=lambda: False)
    assert counts is not None
    wanted = census_counts(read_table(path, schema), schema)
    for found, exact in zip(counts, wanted, strict=True):
        np.testing.assert_array_equal(found, exact)
        assert found.sum() == 500


def test_the_census_stops_when_told(store: Store, path: Path, schema: Schema) -> None:
    assert intake(store, path, schema).census(should_stop=lambda: True) is None


def test_codes_are_those_of_the_whole_table(
    store: Store, path: Path, schema: Schema, bundle: Bundle
) -> None:
    taker = intake(store, path, schema)
    assert taker.codes(bundle.codec).codes.shape == (0, 4)
    take_all(taker, bundle.codec)
    wanted = bundle.codec.encode(read_table(path, schema)).codes
    np.testing.assert_array_equal(taker.codes(bundle.codec).codes, wanted)


def test_narrow_codes_are_the_same_in_less_memory(
    store: Store, path: Path, schema: Schema, bundle: Bundle
) -> None:
    taker = intake(store, path, schema)
    none = taker.narrow_codes(bundle.codec, up_to_part=0)
    assert (none.shape, none.dtype) == ((0, 4), np.uint8)
    take_all(taker, bundle.codec)
    stored = taker.codes(bundle.codec)
    narrow = taker.narrow_codes(bundle.codec, up_to_part=stored.last_part)
    assert narrow.dtype == np.uint8
    np.testing.assert_array_equal(narrow, stored.codes)
    before = taker.codes(bundle.codec, up_to_part=stored.last_part - 1).codes
    assert 0 < len(before) < len(narrow)
    earlier = taker.narrow_codes(bundle.codec, up_to_part=stored.last_part - 1)
    np.testing.assert_array_equal(earlier, before)


def test_new_rows_are_taken_once_also_by_the_next_process(
    store: Store, path: Path, schema: Schema, bundle: Bundle, kit: SimpleNamespace
) -> None:
    take_all(intake(store, path, schema), bundle.codec)
    last = store.read_codes(bundle.codec.digest).last_part
    rows = kit.make_rows(500) + kit.make_rows(70, seed=4)
    kit.write_csv(path, rows)
    store.close()
    again = Store(store.path)
    taker = intake(again, path, schema)
    take_all(taker, bundle.codec)
    take_all(taker, bundle.codec)
    assert taker.codes(bundle.codec).codes.shape[0] == 570
    assert taker.codes(bundle.codec, up_to_part=last).codes.shape[0] == 500


def test_another_codec_reads_the_source_again(
    store: Store, path: Path, schema: Schema, bundle: Bundle
) -> None:
    other = Codec.fit(read_table(path, schema), schema, max_bins=4)
    assert other.digest != bundle.codec.digest
    taker = intake(store, path, schema)
    take_all(taker, bundle.codec)
    take_all(taker, other)
    assert taker.codes(other).codes.shape[0] == 500
    assert taker.codes(bundle.codec).codes.shape[0] == 0


def test_a_replaced_source_replaces_the_codes(
    store: Store, path: Path, schema: Schema, bundle: Bundle, kit: SimpleNamespace
) -> None:
    taker = intake(store, path, schema)
    take_all(taker, bundle.codec)
    kit.write_csv(path, kit.make_rows(40, seed=8))
    counts = taker.census(should_stop=lambda: False)
    assert counts is not None
    assert counts[0].sum() == 40
    take_all(taker, bundle.codec)
    assert taker.codes(bundle.codec).codes.shape[0] == 40


def test_a_wrong_row_takes_nothing_of_its_piece(
    store: Store, path: Path, schema: Schema, bundle: Bundle
) -> None:
    taker = intake(store, path, schema)
    take_all(taker, bundle.codec)
    whole = path.read_bytes()
    path.write_bytes(whole + b"true,5,EWR,100.0\ntrue,noon,EWR,100.0\n")
    with pytest.raises(DataError, match="noon"):
        taker.advance(bundle.codec)
    assert taker.codes(bundle.codec).codes.shape[0] == 500
    path.write_bytes(whole + b"true,5,EWR,100.0\ntrue,12,EWR,100.0\n")
    take_all(taker, bundle.codec)
    assert taker.codes(bundle.codec).codes.shape[0] == 502


def test_a_full_store_stops_the_intake_and_loses_nothing(
    tmp_path: Path, path: Path, schema: Schema, bundle: Bundle
) -> None:
    store = Store(tmp_path / "small.sqlite", max_code_bytes=1000)
    taker = intake(store, path, schema)
    with pytest.raises(StoreError, match="store_bytes"):
        take_all(taker, bundle.codec)
    taken = taker.codes(bundle.codec).codes
    assert 0 < len(taken) <= 250
    larger = Store(tmp_path / "small.sqlite", max_code_bytes=100_000)
    taker = intake(larger, path, schema)
    take_all(taker, bundle.codec)
    np.testing.assert_array_equal(taker.codes(bundle.codec).codes[: len(taken)], taken)
    assert taker.codes(bundle.codec).codes.shape[0] == 500
