"""What people see: tables on standard output, progress and warnings on standard error."""

# ruff: noqa: PLC0415 - a device has the command line and not rich, which its verbs do not need

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
import msgspec

from edge_runtime.process import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID
    from rich.text import Text

__all__ = [
    "WITHOUT_PRIVACY",
    "facts",
    "notes",
    "phases",
    "print_json",
    "privacy_text",
    "say",
    "table",
    "working",
]

#: said by every output of a run that adds no noise
WITHOUT_PRIVACY = "WITHOUT PRIVACY"

_PIPE_WIDTH = 120


def _output() -> Console:
    """Return standard output; a pipe has no width of its own, and need not be narrow."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)


def say(text: str) -> None:
    """Print a line as it is, never wrapped, so that paths and commands can be copied."""
    from rich.console import Console

    Console(highlight=False, soft_wrap=True).print(printable(text), markup=False)


def notes(lines: Iterable[str]) -> None:
    """Print remarks to standard error, one a line."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for line in lines:
        console.print(printable(f"note: {line}"), markup=False)


def print_json(value: object) -> None:
    """Print a value as indented JSON for a program; numbers that do not exist become null."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=1).decode())


def facts(rows: Mapping[str, str]) -> None:
    """Print a list of names and values."""
    from rich.table import Table

    shown = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    shown.add_column(no_wrap=True, style="dim")
    shown.add_column(overflow="fold")
    for name, value in rows.items():
        style = "bold white on red" if WITHOUT_PRIVACY in value else ""
        shown.add_row(_cell(name), _cell(value), style=style)
    _output().print(shown)


def table(columns: Iterable[str], rows: Iterable[Iterable[str]], *, title: str = "") -> None:
    """Print a table; columns whose name starts with ``#`` hold numbers."""
    from rich.table import Table

    shown = Table(box=None, padding=(0, 2, 0, 0), title=title or None, title_justify="left")
    for name in columns:
        shown.add_column(
            name.removeprefix("#"), justify="right" if name.startswith("#") else "left"
        )
    for row in rows:
        shown.add_row(*map(_cell, row))
    _output().print(shown, soft_wrap=True)


def _cell(text: str) -> Text:
    """Return a text as it is: without rich's markup, which `[...]` would be, nor a terminal's."""
    from rich.text import Text

    return Text(printable(text))


def privacy_text(privacy: Mapping[str, Any] | None) -> str:
    """Say in a few words what a privacy statement guarantees."""
    if privacy is None:
        return "not stated"
    if privacy.get("epsilon") is None:
        return f"{WITHOUT_PRIVACY}: no noise was added"
    return (
        f"epsilon {privacy['epsilon']:.4g} at delta {privacy['delta']:g} "
        f"per {privacy.get('unit', 'row')}"
    )


@contextmanager
def phases(*, quiet: bool = False) -> Iterator[Callable[[str, float], None]]:
    """Show a bar per phase on standard error while the block runs.

    Parameters
    ----------
    quiet : bool
        Show nothing.

    Yields
    ------
    callable
        ``(phase, share)`` with the share of the phase that is done, 0 to 1.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=quiet,
    )
    tasks: dict[str, TaskID] = {}

    def tell(phase: str, share: float) -> None:
        if phase not in tasks:
            for task in tasks.values():
                bar.update(task, completed=1.0)
            tasks[phase] = bar.add_task(phase, total=1.0)
        bar.update(tasks[phase], completed=share)

    with bar:
        yield tell


@contextmanager
def working(what: str, *, quiet: bool = False) -> Iterator[None]:
    """Show on standard error that something without a measurable end is under way."""
    from rich.console import Console

    console = Console(stderr=True, quiet=quiet)
    with console.status(what):
        yield
