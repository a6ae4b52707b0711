"""Bundles on disk: whole files only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from edge_runtime.errors import BundleError

__all__ = ["read_file", "write_file"]

T = TypeVar("T")


def write_file(path: Path | str, data: bytes) -> None:
    """Write a file; a reader sees the old one or the new one, never a part.

    Raises
    ------
    BundleError
        If the file cannot be written.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise BundleError(f"bundle {path} cannot be written: {error.strerror}") from error


def read_file(path: Path | str, parse: Callable[[bytes], T], *, max_bytes: int) -> T:
    """Read a file of at most `max_bytes` and parse it; errors name the file.

    Raises
    ------
    BundleError
        If the file cannot be read, or `parse` raises it.
    """
    path = Path(path)
    try:
        # One byte more than allowed is enough to refuse, however large the file is.
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise BundleError(f"bundle {path} cannot be read: {error.strerror}") from error
    try:
        return parse(data)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error
