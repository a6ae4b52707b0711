"""Ordered rows of a source become windows in the store: each row in one, each window once.

What privacy per window rests on is tested at the end: the rows of one window more or less change
one window that counts, whatever the order in which rows arrive.
"""

from __future__ import annotations

import collections
import random
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.device.holdout import held_out
from edge_runtime.device.intake import Intake
from edge_runtime.device.schemas import offer_schema
from edge_runtime.device.series import SeriesIntake, open_intake
from edge_runtime.device.source import CsvSource
from edge_runtime.device.store import Store
from edge_runtime.errors import SchemaError, StoreError
from edge_runtime.schema import (
    Codec,
    Column,
    Schema,
    Sequence,
    census_counts,
    census_schema,
    census_sensitivity_squared,
    read_table,
    shared_codec,
    steps_of_windows,
    to_windows,
)

STEPS = 3
SCHEMA = Schema(
    name="pumps",
    columns=(
        Column(name="state", kind="category", values=("idle", "run"), condition=True),
        Column(name="pump", kind="integer", low=0, high=99),
        Column(name="at", kind="number", low=0, high=10_000),
        Column(name="x", kind="integer", low=0, high=63),
        Column(name="on", kind="boolean", nullable=True),
    ),
    sequence=Sequence(lags=STEPS - 1, entity="pump", order="at", every=2.0, static=("state",)),
)
Row = tuple[str, int, float, int, str]


def reading(pump: int, slot: int, x: int | None = None, state: str = "run") -> Row:
    return (state, pump, 2.0 * slot, slot % 64 if x is None else x, "true" if slot % 2 else "")


def write(path: Path, rows: list[Row], *, broken_off: str = "") -> Path:
    lines = [",".join(SCHEMA.names), *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n" + broken_off, encoding="utf-8")
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "device.sqlite")


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    rows = [reading(1, slot, state=s) for s in ("run", "idle") for slot in range(300)]
    rows = [(*row[:1], i // 300, *row[2:]) for i, row in enumerate(rows)]
    path = write(tmp_path_factory.mktemp("public") / "public.csv", rows)
    return shared_codec(to_windows(read_table(path, SCHEMA), overlapping=False).table)


def intake(store: Store, path: Path, *, follow: bool = True, piece_bytes: int = 60) -> Intake:
    source = CsvSource(path=path, follow=follow, piece_bytes=piece_bytes)
    return open_intake(store=store, source=source, schema=SCHEMA)


def taken(taker: Intake, codec: Codec) -> list[tuple[int, ...]]:
    for _ in range(10_000):
        if not taker.advance(codec):
            return [tuple(row) for row in taker.codes(codec).codes.tolist()]
    pytest.fail("the intake never ends")


def xs(codec: Codec, windows: list[tuple[int, ...]]) -> list[tuple[int | None, ...]]:
    """The values of x in each window; every value has a code of its own."""
    at = [codec.schema.index(f"x@{step}") for step in range(STEPS)]
    gone = codec.cardinalities[at[0]] - 1
    return [tuple(None if row[d] == gone else row[d] for d in at) for row in windows]


def test_the_schema_says_which_intake(store: Store, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", [])
    assert isinstance(intake(store, path), SeriesIntake)
    plain = Schema(name="plain", columns=SCHEMA.columns)
    made = open_intake(store=store, source=CsvSource(path=path), schema=plain)
    assert type(made) is Intake


def test_a_whole_file_gives_the_windows_of_the_table(
    store: Store, tmp_path: Path, codec: Codec
) -> None:
    rows = [reading(pump, slot) for slot in range(40) for pump in (1, 2, 3) if slot % 7]
    path = write(tmp_path / "rows.csv", rows)
    wanted = codec.encode(to_windows(read_table(path, SCHEMA), overlapping=False).table).codes
    found = taken(intake(store, path, follow=False), codec)
    assert sorted(found) == sorted(map(tuple, wanted.tolist()))


def test_the_last_window_of_each_entity_waits(store: Store, tmp_path: Path, codec: Codec) -> None:
    path = write(tmp_path / "rows.csv", [reading(1, 0), reading(2, 0), reading(1, 1)])
    taker = intake(store, path)
    assert taken(taker, codec) == []
    # Complete, but a row of it may still come twice or late: only what follows ends it.
    write(path, [reading(1, 0), reading(2, 0), reading(1, 1), reading(1, 2)])
    assert taken(taker, codec) == []
    write(path, [reading(1, 0), reading(2, 0), reading(1, 1), reading(1, 2), reading(1, 3)])
    assert xs(codec, taken(taker, codec)) == [(0, 1, 2)]
    # Nothing new: nothing changes, and when the source is said to have ended the rest counts.
    assert xs(codec, taken(intake(store, path), codec)) == [(0, 1, 2)]
    assert xs(codec, taken(intake(store, path, follow=False), codec)) == [(0, 1, 2)], (
        "one row of three is no window"
    )
    write(path, [*(reading(1, slot) for slot in range(4)), reading(1, 4), reading(2, 1)])
    found = xs(codec, taken(intake(Store(store.path), path, follow=False), codec))
    assert sorted(found) == [(0, 1, 2), (3, 4, None)]


def test_every_growth_restart_and_piece_gives_the_same_windows(
    store: Store, tmp_path: Path, codec: Codec
) -> None:
    rows = [
        reading(pump, slot, x=30 * (pump - 4) + slot)
        for slot in range(30)
        for pump in (4, 5)
        if (slot + pump) % 5
    ]
    path = tmp_path / "rows.csv"
    seen: list[tuple[int, ...]] = []
    for end in range(0, len(rows) + 1, 3):
        broken_off = "run,4,3" if end < len(rows) else ""
        write(path, rows[:end], broken_off=broken_off)
        taker = intake(Store(store.path), path, piece_bytes=30 + end)
        found = taken(taker, codec)
        assert found[: len(seen)] == seen, "a window that counts keeps its place"
        seen = found
        last = taker.codes(codec).last_part
        assert taker.codes(codec, up_to_part=last - 1).codes.tolist() == [
            list(row) for row in found[: max(0, last - 1)]
        ]
        narrow = taker.narrow_codes(codec, up_to_part=last)
        assert narrow.dtype == np.uint8
        np.testing.assert_array_equal(narrow, taker.codes(codec).codes)
    whole = taken(intake(Store(tmp_path / "other.sqlite"), path, piece_bytes=1 << 16), codec)
    assert sorted(seen) == sorted(whole)
    assert len(set(seen)) == len(seen) == 2 * 9


def test_a_crash_between_two_pieces_loses_and_doubles_nothing(
    store: Store, tmp_path: Path, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "rows.csv", [reading(1, slot) for slot in range(60)])
    taker = intake(store, path, follow=False)
    assert taker.advance(codec)
    before = taker.codes(codec).codes

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SeriesIntake, "_count", crash)
    with pytest.raises(KeyboardInterrupt):
        taker.advance(codec)
    monkeypatch.undo()
    store.close()
    again = intake(Store(store.path), path, follow=False)
    np.testing.assert_array_equal(again.codes(codec).codes, before)
    wanted = [(slot, slot + 1, slot + 2) for slot in range(0, 60, STEPS)]
    assert xs(codec, taken(again, codec)) == wanted


def test_late_rows_fill_their_places_and_the_first_of_two_stays(
    store: Store, tmp_path: Path, codec: Codec
) -> None:
    rows = [reading(1, slot) for slot in (0, 2, 3, 5, 7)]
    path = write(tmp_path / "rows.csv", rows)
    taker = intake(store, path)
    assert xs(codec, taken(taker, codec)) == [(0, None, 2), (3, None, 5)]
    rows += [reading(1, 1), reading(1, 3, x=37), reading(1, 1, x=38), reading(1, 4)]
    write(path, rows)
    assert xs(codec, taken(taker, codec)) == [(0, 1, 2), (3, 4, 5)]
    # A clock that was far off ends the windows before it, and hurts no other.
    write(path, [*rows, reading(1, 4999), reading(1, 6), reading(1, 8), reading(1, 9)])
    assert xs(codec, taken(taker, codec)) == [(0, 1, 2), (3, 4, 5), (6, 7, 8)]


def test_static_values_and_entities_are_not_mixed(
    store: Store, tmp_path: Path, codec: Codec
) -> None:
    rows = [reading(1, 0), reading(2, 0, x=50), reading(1, 1), reading(2, 1, x=51)]
    rows += [reading(1, 1, x=60, state="idle"), reading(1, 2, x=61, state="idle")]
    found = taken(intake(store, write(tmp_path / "rows.csv", rows), follow=False), codec)
    assert [(row[0], *x) for row, x in zip(found, xs(codec, found), strict=True)] == [
        (1, 0, 1, None),
        (1, 50, 51, None),
        (0, None, 60, 61),
    ]


def test_a_truncated_or_replaced_file_begins_anew(
    store: Store, tmp_path: Path, codec: Codec
) -> None:
    path = write(tmp_path / "rows.csv", [reading(1, slot) for slot in range(30)])
    taker = intake(store, path, follow=False)
    assert len(taken(taker, codec)) == 10
    write(path, [reading(1, slot) for slot in range(9)])
    assert xs(codec, taken(taker, codec)) == [(0, 1, 2), (3, 4, 5), (6, 7, 8)]
    write(path, [reading(7, slot) for slot in range(3, 40)])
    assert xs(codec, taken(taker, codec))[0] == (3, 4, 5)


def test_a_training_that_goes_on_after_a_replaced_file_finds_no_other_windows(
    store: Store, tmp_path: Path, codec: Codec
) -> None:
    """As many others would be other ones with a row less: pieces then end elsewhere."""
    path = write(tmp_path / "rows.csv", [reading(1, slot) for slot in range(30)])
    taker = intake(store, path, follow=False)
    began_with = len(taken(taker, codec))
    assert taker.codes(codec).last_part == began_with == 10
    write(path, [reading(7, slot) for slot in range(3, 60)])
    assert len(taken(taker, codec)) == 19
    assert len(taker.codes(codec, up_to_part=began_with).codes) == 0
    last = taker.codes(codec).last_part
    assert len(taker.codes(codec, up_to_part=last).codes) == 19


def test_the_census_counts_the_steps_of_the_windows_that_count(
    store: Store, tmp_path: Path, codec: Codec
) -> None:
    rows = [reading(pump, slot) for slot in range(50) for pump in (1, 2) if slot % 4]
    path = write(tmp_path / "rows.csv", rows)
    taker = intake(store, path, follow=False)
    counts = taker.census(should_stop=lambda: False)
    assert counts is not None
    windows = to_windows(read_table(path, SCHEMA), overlapping=False).table
    steps = census_schema(SCHEMA.learnt)
    assert steps.names == ("state", "x", "on")
    laid_out = steps_of_windows(windows)
    by_hand = census_counts(
        type(laid_out)(
            schema=steps,
            columns={n: laid_out.columns[n] for n in steps.names},
            missing={n: laid_out.missing[n] for n in steps.names},
        ),
        steps,
    )
    for found, exact in zip(counts, by_hand, strict=True):
        np.testing.assert_array_equal(found, exact)
        assert found.sum() == STEPS * windows.rows
    # Cells are no codes: those that follow are made from the source anew.
    assert taker.codes(codec).codes.shape == (0, 7)
    assert len(taken(taker, codec)) == windows.rows


def test_windows_read_again_are_held_out_anew(store: Store, tmp_path: Path, codec: Codec) -> None:
    path = write(tmp_path / "rows.csv", [reading(1, slot) for slot in range(300)])
    taker = intake(store, path)
    before = held_out(store, len(taken(taker, codec)), 0.5)
    assert (held_out(store, len(taken(taker, codec)), 0.5) == before).all()
    assert taker.census(should_stop=lambda: False) is not None
    assert (held_out(store, len(taken(taker, codec)), 0.5) != before).any()


def test_the_census_goes_on_where_it_was_stopped(store: Store, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", [reading(1, slot) for slot in range(60)])
    asked = iter([False, False, True])
    assert intake(store, path, follow=False).census(should_stop=lambda: next(asked)) is None
    counts = intake(Store(store.path), path, follow=False).census(should_stop=lambda: False)
    assert counts is not None
    assert counts[0].tolist() == [0, 60]


def test_a_full_store_stops_the_intake_and_loses_nothing(tmp_path: Path, codec: Codec) -> None:
    path = write(tmp_path / "rows.csv", [reading(1, slot) for slot in range(90)])
    taker = intake(Store(tmp_path / "small.sqlite", max_code_bytes=100), path, follow=False)
    with pytest.raises(StoreError, match="store_bytes"):
        taken(taker, codec)
    assert 0 < len(taker.codes(codec).codes) <= 100 // 7
    larger = intake(Store(tmp_path / "small.sqlite", max_code_bytes=100_000), path, follow=False)
    assert len(taken(larger, codec)) == 30


@pytest.mark.parametrize("follow", [True, False])
def test_one_window_more_or_less_changes_one_window_that_counts(
    tmp_path: Path, codec: Codec, follow: bool
) -> None:
    draw = random.Random(5)
    rows = [
        reading(pump, slot, x=draw.randrange(64), state=draw.choice(("run", "run", "idle")))
        for pump in (1, 2)
        for slot in range(12)
        for _ in range(draw.choice((0, 1, 1, 2)))
    ]
    draw.shuffle(rows)
    units = sorted({(row[0], row[1], row[2] // (2.0 * STEPS)) for row in rows})
    steps = census_schema(SCHEMA.learnt)
    for number, unit in enumerate(units):
        without = [row for row in rows if (row[0], row[1], row[2] // (2.0 * STEPS)) != unit]
        counts, windows = [], []
        for name, kept in (("with", rows), ("without", without)):
            path = write(tmp_path / f"{number}-{name}.csv", kept)
            store = Store(tmp_path / f"{number}-{name}.sqlite")
            taker = intake(store, path, follow=follow, piece_bytes=1 << 16)
            found = taker.census(should_stop=lambda: False)
            assert found is not None
            counts.append(found)
            windows.append(collections.Counter(taken(taker, codec)))
            store.close()
        gone, new = windows[0] - windows[1], windows[1] - windows[0]
        assert gone.total() + new.total() <= 1, unit
        norm = sum(int(((a - b) ** 2).sum()) for a, b in zip(*counts, strict=True))
        assert norm <= census_sensitivity_squared(SCHEMA.learnt) == len(steps.columns) * STEPS**2


def test_a_source_that_ended_and_grew_differs_by_one_window(tmp_path: Path, codec: Codec) -> None:
    """The last window counts since the end: it must not make one before it count as well."""
    last, late = [reading(1, slot) for slot in (30, 31)], [reading(1, slot) for slot in (3, 4)]
    windows = []
    for name, rows in (("with", last), ("without", [])):
        path = tmp_path / f"{name}.csv"
        store = Store(tmp_path / f"{name}.sqlite")
        taken(intake(store, write(path, rows), follow=False), codec)
        # Its owner says now that it may grow, and rows of an earlier time arrive.
        found = taken(intake(store, write(path, rows + late), follow=True), codec)
        windows.append(collections.Counter(found))
        store.close()
    gone, new = windows[0] - windows[1], windows[1] - windows[0]
    assert (gone.total(), new.total()) == (1, 0)


def test_a_window_of_equal_rows_has_the_whole_sensitivity(tmp_path: Path) -> None:
    """The bound is reached: all steps of one window in one cell."""
    path = write(tmp_path / "rows.csv", [("run", 1, 2.0 * slot, 7, "true") for slot in range(3)])
    taker = intake(Store(tmp_path / "one.sqlite"), path, follow=False)
    counts = taker.census(should_stop=lambda: False)
    assert counts is not None
    norm = sum(int((cells**2).sum()) for cells in counts)
    assert norm == census_sensitivity_squared(SCHEMA.learnt)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (SCHEMA.learnt, "is one of windows"),
        (
            Schema(name="t", columns=SCHEMA.columns, sequence=Sequence(lags=2, entity="pump")),
            "has no every",
        ),
    ],
)
def test_a_device_refuses_a_schema_whose_windows_would_protect_nothing(
    store: Store, schema: Schema, words: str
) -> None:
    with pytest.raises(SchemaError, match=words):
        offer_schema(store, schema.to_json())
    assert store.get("schema.offered") is None
