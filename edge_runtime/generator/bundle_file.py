"""Bundles as files: whole ones only, named by their bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from edge_runtime.errors import BundleError
from edge_runtime.generator.archive import unpack

__all__ = ["BundleFile", "read_file", "write_file"]

T = TypeVar("T")


class BundleFile:
    """What every kind of bundle is: bytes, and a digest that names them."""

    @cached_property
    def _bytes(self) -> bytes:
        raise NotImplementedError

    @property
    def _member_names(self) -> tuple[str, ...]:
        raise NotImplementedError

    @property
    def digest(self) -> str:
        """SHA-256 of the file's bytes, hexadecimal."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        return hashlib.sha256(self._bytes).hexdigest()

    def forget_bytes(self) -> None:
        """Keep the digest alone, for a bundle that is run and not passed on.

        The bytes are as large as everything that was read from them.
        """
        vars(self)["_digest"] = self._digest
        vars(self)["_bytes"] = b""

    def members(self) -> dict[str, bytes]:
        """Contents of the file's members, by name, the manifest first."""
        data = self.to_bytes()
        return unpack(data, names=self._member_names, max_bytes=len(data))

    def to_bytes(self) -> bytes:
        """Bytes of the file; a bundle that was read gives back exactly what was read.

        Raises
        ------
        BundleError
            If the lineage, the metrics or the card cannot be written as JSON or UTF-8, or
            `forget_bytes` was called.
        """
        if not self._bytes:
            raise BundleError(f"the bytes of bundle {self.digest[:12]} are not kept")
        return self._bytes

    def save(self, path: Path | str) -> None:
        """Write the file; a reader sees the old one or the new one, never a part.

        Raises
        ------
        BundleError
            If the file cannot be written.
        """
        write_file(path, self.to_bytes())


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
