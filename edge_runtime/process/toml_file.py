"""Reading TOML that people and other machines wrote: bounded, and refused by a typed error."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_runtime.errors import ConfigError

__all__ = ["below", "parse_toml", "read_toml"]

#: a configuration has a few kilobytes, certificates included
_MOST_BYTES = 64 << 10
#: the standard library's time grows with the square of a dotted key's parts (measured: a minute for
#: 50,000 of them, .1 s for as many as a line of this length has)
_MOST_LINE_CHARS = 4096


def read_toml(path: Path, *, encoding: str = "utf-8") -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    ConfigError
        As `parse_toml`, or it is no file, or not UTF-8.
    OSError
        It cannot be read; the caller knows what it is for and says so.
    """
    if "\0" in str(path):
        raise ConfigError(f"{str(path)!r} is not the name of a file: it has a NUL in it")
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"{path}: more than {_MOST_BYTES} bytes; is it a configuration file?")
    try:
        return parse_toml(data.decode(encoding), path)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not a TOML file: {error}") from error


def parse_toml(text: str, file: object) -> dict[str, Any]:
    """Parse TOML.

    Parameters
    ----------
    text : str
        The content.
    file : object
        Its path, for messages.

    Raises
    ------
    ConfigError
        It is not TOML, is nested too deeply, has a number of thousands of digits or a line of
        thousands of characters, or a text with a NUL, which no file, host or name can have.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if len(line) > _MOST_LINE_CHARS:
            raise ConfigError(
                f"{file}: line {number} has {len(line)} characters; at most {_MOST_LINE_CHARS} "
                "are accepted"
            )
    try:
        # A text edited under Windows has carriage returns; `open` would have removed them.
        found = tomllib.loads(text.replace("\r\n", "\n"))
    # Besides its own error: a number of more than 4,300 digits, arrays in arrays in arrays.
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: is not a TOML file: {error}") from error
    for place, value in _texts(found, ""):
        if "\0" in value:
            raise ConfigError(f"{file}: {place} is {value[:80]!r}: a text with a NUL; remove it")
    return found


def below(base: Path, value: object) -> Path:
    """Return the path that a setting names, from the directory of its file; `~` is a home.

    Raises
    ------
    ValueError
        It is not a text, empty, or in the home of nobody.
    """
    if not isinstance(value, str) or not value:
        raise ValueError(f"expected a path, got {value!r}")
    try:
        return base / Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(f"there is no home directory for {value!r}") from error


def _texts(value: object, place: str) -> Iterator[tuple[str, str]]:
    """Yield every text and where it stands, keys included."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, own in value.items():
            yield f"a key of {place or 'the file'}", key
            yield from _texts(own, f"{place}.{key}".lstrip("."))
    elif isinstance(value, list):
        for own in value:
            yield from _texts(own, place)
