"""Opening a data directory that another release wrote, or that something has damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from edge_runtime.aggregator.catalogue import Catalogue
from edge_runtime.aggregator.files import hold_directory, write_durably
from edge_runtime.aggregator.opening import create_workspace, open_workspace
from edge_runtime.aggregator.release_book import ReleaseBook
from edge_runtime.aggregator.rounds import Rounds
from edge_runtime.aggregator.workspace import Workspace
from edge_runtime.errors import AggregatorError, CatalogueError
from tests.aggregator.conftest import Kit


def _edit(kit: Kit, key: str, change: Callable[[str], str]) -> str:
    """Change a setting of a closed catalogue; the catalogue's file."""
    value = kit.workspace.catalogue.setting(key) or ""
    kit.workspace.catalogue.put(key, change(value))
    kit.workspace.close()
    return str(kit.config.data_dir / "catalogue.sqlite")


def test_a_configuration_of_another_release_is_named_and_mended_by_a_start(kit: Kit) -> None:
    file = _edit(kit, "config", lambda text: text.replace('"seed":0', '"seeds":0'))
    with pytest.raises(AggregatorError) as caught:
        open_workspace(kit.config.data_dir)
    text = str(caught.value)
    assert file in text
    assert "'config'" in text
    assert "`seeds`" in text
    assert "start the aggregator once" in text
    create_workspace(kit.config).close()
    open_workspace(kit.config.data_dir).close()


@pytest.mark.parametrize(
    ("key", "read"),
    [
        ("schema", lambda _: None),
        ("guard.alarms", Workspace.alarms),
        ("guard.drift_rounds", lambda workspace: workspace.drift_round),
        ("guard.outlying.1", lambda workspace: workspace.outlying(1)),
        ("fusion.prior", lambda workspace: workspace.prior_share),
        ("release_key", lambda workspace: workspace.release_key),
    ],
)
def test_a_damaged_setting_is_named(
    kit: Kit, key: str, read: Callable[[Workspace], object]
) -> None:
    file = _edit(kit, key, lambda _: "{ damaged")
    with pytest.raises(AggregatorError, match=f"setting '{key}'.*backup") as caught:
        read(open_workspace(kit.config.data_dir))
    assert file in str(caught.value)


def test_a_damaged_pointer_to_the_catalogue_is_named(kit: Kit) -> None:
    pointer = kit.config.data_dir / "catalogue.url"
    pointer.write_bytes(b"\xff\xfe")
    with pytest.raises(AggregatorError, match=r"catalogue\.url cannot be read.*start"):
        open_workspace(kit.config.data_dir)


def test_a_database_that_is_no_catalogue_is_refused(tmp_path: Path, kit: Kit) -> None:
    with sa.create_engine(kit.config.catalogue_url).begin() as connection:
        connection.execute(sa.text("DROP TABLE rounds"))
    with pytest.raises(AggregatorError, match=r"it has no rounds.*backup"):
        open_workspace(kit.config.data_dir)
    other = tmp_path / "other.sqlite"
    other.write_bytes(b"no database at all, and long enough to be looked at" * 20)
    with pytest.raises(AggregatorError, match=r"other\.sqlite cannot be opened: file is not a"):
        Catalogue(f"sqlite:///{other}")
    with pytest.raises(AggregatorError, match="cannot be opened") as caught:
        Catalogue("nowhere://user:secret@host")
    assert "secret" not in str(caught.value)


def test_an_emptied_catalogue_beside_a_pool_is_refused_and_nothing_is_swept(kit: Kit) -> None:
    kit.filled(rows=100)
    kit.workspace.close()
    catalogue = kit.config.data_dir / "catalogue.sqlite"
    files = set((kit.config.data_dir / "pool").rglob("*.parquet"))
    for path in kit.config.data_dir.glob("catalogue.sqlite*"):
        path.unlink()
    # The second start finds the new tables that the first has made.
    for _ in range(2):
        with pytest.raises(AggregatorError, match=r"has a pool.*knows nothing of it.*backup"):
            Rounds(kit.config)
    assert catalogue.exists()
    assert set((kit.config.data_dir / "pool").rglob("*.parquet")) == files


def test_an_emptied_catalogue_beside_summaries_alone_is_refused(kit: Kit) -> None:
    kit.census_round()
    kit.workspace.close()
    for path in kit.config.data_dir.glob("catalogue.sqlite*"):
        path.unlink()
    with pytest.raises(AggregatorError, match="knows nothing of it"):
        Rounds(kit.config)
    assert list((kit.config.data_dir / "summaries").rglob("*.zst"))


def test_rows_that_a_failing_database_has_not_told_are_asked_for_again(kit: Kit) -> None:
    kit.filled(rows=100)
    kit.workspace.close()
    catalogue = Catalogue(kit.config.catalogue_url)
    with sa.create_engine(kit.config.catalogue_url).begin() as connection:
        connection.execute(sa.text("ALTER TABLE messages RENAME TO away"))
    with pytest.raises(CatalogueError, match="no such table"):
        catalogue.rows_of(["a"])
    with sa.create_engine(kit.config.catalogue_url).begin() as connection:
        connection.execute(sa.text("ALTER TABLE away RENAME TO messages"))
    assert catalogue.rows_of(["a"]) == {("a", 1): 100}
    catalogue.close()


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "name").mkdir()
    with pytest.raises(OSError, match="name"):
        write_durably(tmp_path / "name", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["name"]


def test_a_database_that_fails_later_raises_an_error_in_one_line(kit: Kit) -> None:
    book = ReleaseBook(kit.workspace.catalogue)
    with sa.create_engine(kit.config.catalogue_url).begin() as connection:
        connection.execute(sa.text("DROP TABLE rounds"))
        connection.execute(sa.text("DROP TABLE releases"))
    for read in (kit.workspace.catalogue.rounds, book.all):
        with pytest.raises(CatalogueError, match=r"catalogue\.sqlite: no such table") as caught:
            read()
        assert "\n" not in str(caught.value)


def test_a_failing_catalogue_closes_no_round(kit: Kit) -> None:
    kit.filled(rows=100)
    rounds = Rounds(kit.config)
    with pytest.raises(CatalogueError, match="away"):
        rounds.without(1, CatalogueError("the database is away"), now_unix_s=2000.0)
    assert rounds.catalogue.rounds()[-1].status == "open"
    rounds.without(1, AggregatorError("too few rows"), now_unix_s=2000.0)
    assert rounds.catalogue.rounds()[-1].status == "closed"
    rounds.close()


def test_a_directory_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AggregatorError, match=r"file/data cannot be written to.*data\.dir"):
        hold_directory(tmp_path / "file" / "data")
    with hold_directory(tmp_path / "data"), pytest.raises(AggregatorError, match="in use"):
        hold_directory(tmp_path / "data")
