"""Peak memory of one device of ours: the file with it, and where reports show it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tools.bench.federation.records import Record, about

__all__ = ["FILE", "Figure", "load_figures", "save_figures", "with_memory"]

FILE = "device-memory.json"
_PACKAGES = ("edge-runtime", "numpy", "onnxruntime", "paho-mqtt")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What one device needed.

    Parameters
    ----------
    task, system : str
    epsilon : float or None
    peak_rss_mb : float
    rows : int
        The device's real rows.
    plans : tuple of str
        What each plan asked it for.
    """

    task: str
    system: str
    epsilon: float | None
    peak_rss_mb: float
    rows: int
    plans: tuple[str, ...]

    @property
    def key(self) -> tuple[str, str, float | None]:
        """What the figure stands for."""
        return self.task, self.system, self.epsilon


def load_figures(path: Path) -> list[Figure]:
    """Return the figures of a file; none when there is no such file."""
    if not path.is_file():
        return []
    entries = json.loads(path.read_text(encoding="utf-8"))["figures"]
    return [Figure(**{**entry, "plans": tuple(entry["plans"])}) for entry in entries]


def save_figures(path: Path, figures: Iterable[Figure]) -> None:
    """Add figures to a file, replacing those of the same task, system and level."""
    kept = {figure.key: figure for figure in (*load_figures(path), *figures)}
    document = {
        **about(*_PACKAGES),
        "figures": [asdict(kept[key]) for key in sorted(kept, key=str)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def with_memory(records: Iterable[Record], figures: Sequence[Figure]) -> list[Record]:
    """Give records without a peak the one that was measured for their task and level."""
    peaks = {figure.key: figure.peak_rss_mb for figure in figures}
    return [
        replace(record, peak_rss_mb=peaks.get((record.task, record.system, record.epsilon)))
        if record.peak_rss_mb is None
        else record
        for record in records
    ]
