"""What every source of real rows must do; sources are found in `SOURCES` by their kind."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.device.config import SourceConfig
from edge_runtime.device.source import SOURCES, Piece, Position, Source, open_source
from edge_runtime.errors import ConfigError, DataError
from edge_runtime.schema import Column, Schema, read_table, write_table

SCHEMA = Schema(
    name="things",
    columns=(
        Column(name="word", kind="category", values=("a", "b,c", 'd"e', "f\ng", "ü"), other=True),
        Column(name="size", kind="integer", low=0, high=10_000),
    ),
)

Row = tuple[str, int]


class CsvMaker:
    """Makes and changes what a `csv` source reads."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "rows.csv"

    def write(self, rows: list[Row]) -> None:
        self.path.write_bytes(_csv([("word", "size"), *rows]))

    def append(self, rows: list[Row]) -> None:
        with self.path.open("ab") as file:
            file.write(_csv(rows))

    def append_half(self, row: Row) -> bytes:
        """Leave a row unfinished; returns what is missing."""
        whole = _csv([row])
        with self.path.open("ab") as file:
            file.write(whole[:3])
        return whole[3:]

    def finish(self, rest: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(rest)

    def append_wrong(self) -> None:
        with self.path.open("ab") as file:
            file.write(b"a,secret-4711\n")

    def remove(self) -> None:
        self.path.unlink()


#: every kind of source needs a maker here: a new source without one fails the suite
MAKERS = {"csv": CsvMaker}


def _csv(rows: list[Row] | list[tuple[str, str]] | list[object]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)  # type: ignore[arg-type]
    return text.getvalue().encode()


def make(kind: str, directory: Path, *, follow: bool = True) -> tuple[CsvMaker, Source]:
    maker = MAKERS[kind](directory)
    return maker, open_source(SourceConfig(kind=kind, path=maker.path, follow=follow))  # type: ignore[arg-type]


def small(source: Source, bytes_: int) -> Source:
    """The same source in tiny pieces."""
    source._piece_bytes = bytes_  # type: ignore[attr-defined]
    return source


def pieces(source: Source, position: Position | None = None) -> Iterator[Piece]:
    for _ in range(10_000):
        piece = source.read(SCHEMA, position)
        yield piece
        position = piece.position
        if not piece.more:
            return
    pytest.fail("the source never ends")


def rows_of(found: list[Piece]) -> list[Row]:
    return [
        (str(word), int(size))
        for piece in found
        for word, size in zip(piece.table.columns["word"], piece.table.columns["size"], strict=True)
    ]


@pytest.fixture(params=sorted(SOURCES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("marked", [True, False])
def test_files_of_synthetic_rows_are_refused_as_such(
    kind: str, marked: bool, tmp_path: Path
) -> None:
    maker, source = make(kind, tmp_path)
    maker.write(ROWS)
    table = read_table(maker.path, SCHEMA)
    written = tmp_path / "made.parquet"
    write_table(table.marked({"fleet": "north"}) if marked else table, written)
    maker.path.write_bytes(written.read_bytes())
    match = "synthetic rows where real ones belong" if marked else "not CSV"
    with pytest.raises(DataError, match=match) as caught:
        source.read(SCHEMA, None)
    assert caught.value.file == str(maker.path)
    arrow = io.BytesIO()
    made = table.marked({"fleet": "north"}).to_arrow()
    with pa.ipc.new_file(arrow, made.schema) as writer:
        writer.write_table(made)
    maker.path.write_bytes(arrow.getvalue())
    with pytest.raises(DataError, match="synthetic rows where real ones belong"):
        source.read(SCHEMA, None)


def test_every_source_is_in_the_suite() -> None:
    assert set(MAKERS) == set(SOURCES)


ROWS: list[Row] = [("a", 1), ("b,c", 2), ('d"e', 3), ("f\ng", 4), ("ü", 5)]


def test_reads_all_rows_in_order(kind: str, tmp_path: Path) -> None:
    maker, source = make(kind, tmp_path)
    maker.write(ROWS)
    assert rows_of(list(pieces(source))) == ROWS


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from([word for word, _ in ROWS]), st.integers(0, 10_000)),
        max_size=40,
    ),
    size=st.integers(1, 200),
)
def test_pieces_never_split_or_repeat_a_row(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], size: int
) -> None:
    for kind in SOURCES:
        maker, source = make(kind, tmp_path_factory.mktemp("source"))
        maker.write(rows)
        found = list(pieces(small(source, size)))
        assert rows_of(found) == rows
        assert found[-1].position.rows == len(rows)


def test_goes_on_where_it_was(kind: str, tmp_path: Path) -> None:
    maker, source = make(kind, tmp_path)
    maker.write(ROWS)
    last = list(pieces(source))[-1]
    assert rows_of(list(pieces(source, last.position))) == []
    maker.append([("a", 6), ("ü", 7)])
    # The position survives the process.
    again = Position.from_bytes(last.position.to_bytes())
    assert rows_of(list(pieces(source, again))) == [("a", 6), ("ü", 7)]


def test_an_unfinished_row_is_left_for_later(kind: str, tmp_path: Path) -> None:
    maker, source = make(kind, tmp_path)
    maker.write(ROWS)
    rest = maker.append_half(("f\ng", 77))
    last = list(pieces(source))[-1]
    assert last.position.rows == len(ROWS)
    maker.finish(rest)
    assert rows_of(list(pieces(source, last.position))) == [("f\ng", 77)]


def test_a_finished_source_gives_its_last_row_without_line_end(kind: str, tmp_path: Path) -> None:
    maker, source = make(kind, tmp_path, follow=False)
    maker.write(ROWS)
    rest = maker.append_half(("a", 123))
    maker.finish(rest.rstrip(b"\n"))
    assert rows_of(list(pieces(source)))[-1] == ("a", 123)


def test_is_readable_again_from_its_start(kind: str, tmp_path: Path) -> None:
    maker, source = make(kind, tmp_path)
    maker.write(ROWS)
    first = rows_of(list(pieces(source)))
    assert rows_of(list(pieces(source))) == first


def test_a_replaced_source_starts_again(kind: str, tmp_path: Path) -> None:
    maker, source = make(kind, tmp_path)
    maker.write(ROWS * 20)
    last = list(pieces(source))[-1]
    maker.write([("a", 9)])
    found = list(pieces(source, last.position))
    assert found[0].restarted
    assert rows_of(found) == [("a", 9)]
    assert not any(piece.restarted for piece in pieces(source, found[-1].position))


def test_a_longer_replacement_starts_again_too(kind: str, tmp_path: Path) -> None:
    maker, source = make(kind, tmp_path)
    maker.write(ROWS)
    last = list(pieces(source))[-1]
    other: list[Row] = [("a", 1000 + i) for i in range(100)]
    maker.write(other)
    found = list(pieces(source, last.position))
    assert found[0].restarted
    assert rows_of(found) == other


def test_grows_in_random_portions(kind: str, tmp_path: Path) -> None:
    maker, source = make(kind, tmp_path)
    rng = random.Random(5)
    maker.write([])
    wanted: list[Row] = []
    found: list[Row] = []
    position: Position | None = None
    for _ in range(30):
        new = [(rng.choice(ROWS)[0], rng.randrange(10_000)) for _ in range(rng.randrange(5))]
        maker.append(new)
        wanted += new
        for piece in pieces(small(source, rng.randrange(1, 90)), position):
            found += rows_of([piece])
            position = piece.position
    assert found == wanted


def test_a_missing_source_is_a_typed_error(kind: str, tmp_path: Path) -> None:
    maker, source = make(kind, tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        source.read(SCHEMA, None)
    maker.write(ROWS)
    assert rows_of(list(pieces(source))) == ROWS
    maker.remove()
    with pytest.raises(DataError, match=r"source\.path"):
        source.read(SCHEMA, None)


def test_an_empty_source_has_no_rows_yet(kind: str, tmp_path: Path) -> None:
    maker, source = make(kind, tmp_path)
    maker.write([])
    assert rows_of(list(pieces(source))) == []


def test_a_wrong_value_is_named_but_not_in_public(kind: str, tmp_path: Path) -> None:
    maker, source = make(kind, tmp_path)
    maker.write(ROWS)
    last = list(pieces(source))[-1]
    maker.append_wrong()
    with pytest.raises(DataError) as caught:
        source.read(SCHEMA, last.position)
    assert "secret-4711" in str(caught.value)
    assert f"row {len(ROWS) + 1}" in str(caught.value)
    assert "'size'" in caught.value.public
    assert "4711" not in caught.value.public
    assert f"row {len(ROWS) + 1}" not in caught.value.public


def test_text_of_another_encoding_is_a_typed_error(kind: str, tmp_path: Path) -> None:
    maker, source = make(kind, tmp_path)
    maker.write(ROWS)
    maker.finish("Füße,3\n".encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8") as caught:
        source.read(SCHEMA, None)
    assert "F" not in caught.value.public.replace("UTF", "")


def test_a_record_without_end_is_refused(kind: str, tmp_path: Path) -> None:
    maker, source = make(kind, tmp_path)
    maker.write(ROWS)
    maker.finish(b'"' + b"x," * 4000)
    maker.append([("a", 1)] * 100)
    source._piece_bytes, source._max_record_bytes = 64, 1024  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="unclosed quote"):
        list(pieces(source))


def test_positive_sizes_only() -> None:
    with pytest.raises(ConfigError):
        SOURCES["csv"](path=Path("x"), piece_bytes=0)
