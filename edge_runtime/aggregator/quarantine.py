"""Messages that were set aside, kept for an operator to look at, up to a bound."""

from __future__ import annotations

import json
from pathlib import Path

from edge_runtime.aggregator.files import write_durably

__all__ = ["Quarantine"]


class Quarantine:
    """`quarantine/<device>/<sha256>.{bin,json}` below the data directory.

    Parameters
    ----------
    data_dir : Path
        The aggregator's data directory.
    max_bytes : int
        Bytes of payloads kept; a flood beyond it is catalogued but not kept.
    """

    def __init__(self, data_dir: Path, *, max_bytes: int) -> None:
        self._base = data_dir
        self._max_bytes = max_bytes
        root = data_dir / "quarantine"
        self._held = sum(path.stat().st_size for path in root.rglob("*.bin"))

    def keep(self, *, device: str, sha256: str, payload: bytes, status: str, reason: str) -> str:
        """Keep a payload and why it was set aside; its relative path, empty if not kept."""
        path = f"quarantine/{device}/{sha256}.bin"
        target = self._base / path
        if target.exists():
            return path
        if self._held + len(payload) > self._max_bytes:
            return ""
        note = {"device": device, "sha256": sha256, "status": status, "reason": reason}
        write_durably(target.with_suffix(".json"), json.dumps(note, indent=1).encode())
        write_durably(target, payload)
        self._held += len(payload)
        return path
