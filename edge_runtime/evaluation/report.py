"""The outcome of a comparison: figures for programs (JSON) and one page for people (HTML)."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.errors import EvaluationError

__all__ = ["Report"]

_FORMAT = "edge-runtime-report"
_VERSION = 1


@dataclass(frozen=True)
class Report:
    """Figures of one comparison.

    Parameters
    ----------
    figures : dict
        Plain values only, as in the JSON file: ``title``, ``table``, ``rows``, ``fidelity``
        (``shapes``, ``pairs`` and their ``ceiling``), ``columns``, ``closest``, ``privacy``,
        and where measured ``utility`` and ``fleet``.
    """

    figures: dict[str, Any]

    @property
    def private(self) -> bool | None:
        """Whether the rows carry a privacy guarantee; None when nothing was stated."""
        privacy = self.figures.get("privacy")
        if privacy is None:
            return None
        return privacy.get("epsilon") is not None

    def with_fleet(self, fleet: dict[str, Any]) -> Report:
        """Return a report that also tells how the fleet produced the rows."""
        return Report({**self.figures, "fleet": fleet})

    def utility(self, kind: str) -> float | None:
        """Return the utility of this kind: ``real``, ``local``, ``federated``, ``release``."""
        for score in self.figures.get("utility", {}).get("scores", ()):
            if score.get("kind") == kind:
                return float(score["value"]) if score["value"] is not None else None
        return None

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return the figures as JSON, and write them when a path is given.

        Numbers that do not exist (NaN) become null, which every JSON reader understands.
        """
        document = {"format": _FORMAT, "version": _VERSION, **_plain(self.figures)}
        text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return one standalone page, and write it when a path is given; it loads nothing."""
        from edge_runtime.evaluation.page import render  # noqa: PLC0415 - page needs Report's type

        text = render(_plain(self.figures))
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Report:
        """Read a report that `to_json` wrote.

        Raises
        ------
        EvaluationError
            The file is not such a report.
        """
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise EvaluationError(f"{path} cannot be read as a report: {error}") from error
        if not isinstance(document, dict) or document.pop("format", None) != _FORMAT:
            raise EvaluationError(f"{path} is not a report of this project")
        version = document.pop("version", None)
        if version != _VERSION:
            raise EvaluationError(f"{path} has version {version}; this release reads {_VERSION}")
        return cls(document)


def _plain(value: Any) -> Any:
    """Copy the figures with every float that JSON cannot say turned into None."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
