"""Options and value types that several verbs share."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = ["FILE", "existing", "json_option", "read_epsilon", "read_wishes", "seed_option"]

Command = TypeVar("Command", bound=Callable[..., Any])

#: a path that is written
FILE = click.Path(path_type=Path, dir_okay=False)


def existing(*, directory: bool = False, either: bool = False) -> click.Path:
    """Return the type of a path that must be there.

    Parameters
    ----------
    directory : bool
        A directory instead of a file.
    either : bool
        Both are welcome.
    """
    return click.Path(
        path_type=Path,
        exists=True,
        dir_okay=directory or either,
        file_okay=either or not directory,
    )


def json_option(command: Command) -> Command:
    """Add ``--json``."""
    option = click.option("--json", "as_json", is_flag=True, help="Print JSON for a program.")
    return option(command)


def seed_option(command: Command) -> Command:
    """Add ``--seed``."""
    option = click.option(
        "--seed", metavar="N", type=click.IntRange(min=0), default=0, show_default=True,
        help="Of everything repeatable; privacy noise has none.",
    )  # fmt: skip
    return option(command)


def read_epsilon(_context: click.Context, _option: click.Parameter, value: str) -> float | None:
    """Read a positive number, or ``none`` for a run without privacy."""
    if value.strip().lower() == "none":
        return None
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise click.BadParameter(f"{value!r} is neither a positive number nor 'none'")
    return number


def read_wishes(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> dict[str, str | None]:
    """Read ``COLUMN=VALUE``, split at the first equals sign; an empty value means missing."""
    wishes: dict[str, str | None] = {}
    for text in values:
        column, equals, wanted = text.partition("=")
        if not column or not equals:
            raise click.BadParameter(f"{text!r} is not of the form COLUMN=VALUE")
        if column in wishes:
            raise click.BadParameter(f"{column!r} is asked for twice; a row has one value of it")
        wishes[column] = wanted or None
    return wishes
