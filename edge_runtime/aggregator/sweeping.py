"""Removing what a process that was killed has left in the data directory.

Files are written before the catalogue names them, so that a crash leaves some that it never will:
temporary ones, and whole ones of a message or a generator that was never committed. A message
comes again from its device, a generator is made again.
"""

from __future__ import annotations

from pathlib import Path

from edge_runtime.aggregator.catalogue import Catalogue

__all__ = ["holds_catalogued", "sweep"]

#: where every file is named by the catalogue, or beside one that is
_CATALOGUED = ("pool", "summaries", "bundles")
#: what the catalogue names in parts only: notes and the payloads that had room
_OTHERS = ("quarantine",)


def sweep(data_dir: Path, catalogue: Catalogue) -> int:
    """Remove files that nothing refers to; the number removed.

    Only for the start of the one process that owns the directory.
    """
    known = catalogue.paths()
    bundles = {record.path for record in catalogue.bundles(status=None)}
    # A generator's state of its strategy lies beside it.
    known |= bundles | {str(Path(path).with_suffix(".state")) for path in bundles}
    keep = {data_dir / path for path in known}
    stray = [path for name in _CATALOGUED for path in _files(data_dir / name) if path not in keep]
    stray += [path for name in _OTHERS for path in _files(data_dir / name) if _is_rest(path)]
    for path in stray:
        path.unlink()
    return len(stray)


def holds_catalogued(data_dir: Path) -> bool:
    """Whether there are files that only a catalogue can tell from strays: without one, keep all."""
    return any(path.is_file() for name in _CATALOGUED for path in (data_dir / name).rglob("*"))


def _files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def _is_rest(path: Path) -> bool:
    return path.suffix == ".tmp"
