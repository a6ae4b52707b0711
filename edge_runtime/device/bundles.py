"""Bundles on disk: fetched once, checked by digest, written atomically."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Collection
from pathlib import Path

from edge_runtime.errors import DigestError, SizeError, StoreError
from edge_runtime.generator import Bundle, GraphBundle, read_bundle

__all__ = ["BundleCache"]


class BundleCache:
    """A directory of bundles, named by the SHA-256 of their bytes.

    Parameters
    ----------
    directory : Path
        Created when missing; everything in it can be fetched again.
    max_bytes : int
        Largest bundle accepted.
    keep : int
        Bundles that `prune` leaves.

    Attributes
    ----------
    max_bytes : int
    """

    def __init__(self, *, directory: Path, max_bytes: int = 32 << 20, keep: int = 4) -> None:
        self._directory = directory
        self._keep = keep
        self.max_bytes = max_bytes
        directory.mkdir(parents=True, exist_ok=True)
        # What a killed process left half written has no other use.
        for rest in directory.glob("*.part"):
            rest.unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        return self._directory / f"{digest}.bundle"

    def has(self, digest: str) -> bool:
        """Whether the bundle is here."""
        return self._path(digest).exists()

    def put(self, digest: str, data: bytes) -> None:
        """Keep a bundle.

        Raises
        ------
        SizeError, DigestError
            When it is too large, or is not the bundle that the digest names.
        StoreError
            When the disk refuses.
        """
        if len(data) > self.max_bytes:
            raise SizeError(f"bundle of {len(data)} bytes; at most {self.max_bytes} are accepted")
        found = hashlib.sha256(data).hexdigest()
        if found != digest:
            raise DigestError(f"bundle announced as {digest} has digest {found}")
        part = self._path(digest).with_suffix(".part")
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._path(digest))
        except OSError as error:
            with contextlib.suppress(OSError):  # on a read-only disk it was never there
                part.unlink(missing_ok=True)
            raise StoreError(f"bundle cannot be kept in {self._directory}: {error}") from error

    def begin_trial(self, digest: str) -> int:
        """Count a trial of a bundle before it begins, and return the count.

        In a file beside the bundle: what may take the process down is not begun inside a
        transaction.

        Raises
        ------
        StoreError
            When the disk refuses.
        """
        try:
            with self._path(digest).with_suffix(".trials").open("ab") as file:
                file.write(b".")
                file.flush()
                os.fsync(file.fileno())
                return file.tell()
        except OSError as error:
            raise StoreError(f"a trial in {self._directory} cannot be noted: {error}") from error

    def end_trial(self, digest: str) -> None:
        """Note that a trial came to an end, whichever."""
        self._path(digest).with_suffix(".trials").unlink(missing_ok=True)

    def forget_trials(self) -> None:
        """Count no trial that is on, as when the agent is told to end in the middle of it."""
        for path in self._directory.glob("*.trials"):
            path.unlink(missing_ok=True)

    def remove(self, digest: str) -> None:
        """Forget a bundle."""
        self._path(digest).unlink(missing_ok=True)

    def prune(self, *, but: Collection[str]) -> None:
        """Forget the oldest beyond `keep`, and never these."""
        bundles = sorted(self._directory.glob("*.bundle"), key=lambda path: path.stat().st_mtime)
        for path in bundles[: -self._keep]:
            if path.stem not in but:
                path.unlink(missing_ok=True)
                path.with_suffix(".trials").unlink(missing_ok=True)

    def load(self, digest: str) -> Bundle | GraphBundle | None:
        """Read and check a bundle; None when it is not here.

        A file that is damaged is removed, so that it is fetched again.

        Raises
        ------
        BundleError
            When the bytes are those announced and still no bundle: fetching again will not help.
        """
        try:
            data = self._path(digest).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"bundle in {self._directory} cannot be read: {error}") from error
        if hashlib.sha256(data).hexdigest() != digest:
            self._path(digest).unlink(missing_ok=True)
            return None
        bundle = read_bundle(data, max_bytes=self.max_bytes)
        if isinstance(bundle, Bundle):  # a packed graph is handed on, to the process that tries it
            bundle.forget_bytes()
        return bundle
