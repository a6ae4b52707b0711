"""The mark that synthetic rows carry in Arrow, Parquet and pandas, and its refusal as real rows.

A generator that learns from its own rows forgets tails and rare groups a little more each time
(Shumailov et al., Nature 631, 2024), so rows that say they are synthetic never count as real. The
mark is one entry in the schema metadata, JSON under `edge_runtime.synthetic`. CSV has no place
for it, and a copy made by other software may lose it: it guards against mistakes, not against
people who want to get around it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edge_runtime.errors import DataError

__all__ = ["WATERMARK", "marked_metadata", "marked_of", "refuse_synthetic"]

#: the key in schema metadata, and in the `attrs` of a pandas frame
WATERMARK = "edge_runtime.synthetic"

#: pandas keeps its `attrs` in Parquet under this key, and restores them from it
_PANDAS_ATTRS = "PANDAS_ATTRS"
#: a mark comes from outside; what an error repeats of it stays short
_MOST_CHARS = 200


def marked_metadata(facts: Mapping[str, Any], *, pandas: bool = False) -> dict[str, str]:
    """Return the schema metadata that marks rows as synthetic.

    Parameters
    ----------
    facts : mapping
        Plain values that say where the rows are from, such as ``fleet``, ``depth``, ``bundle``.
    pandas : bool
        Also in the form that ``pandas.read_parquet`` turns into ``attrs``.

    Returns
    -------
    dict of str to str
        One or two entries; the same facts give the same text.
    """
    mark = {WATERMARK: json.dumps(dict(facts), sort_keys=True, separators=(",", ":"))}
    if pandas:
        mark[_PANDAS_ATTRS] = json.dumps({WATERMARK: dict(facts)}, sort_keys=True)
    return mark


def marked_of(metadata: Mapping[Any, Any] | None) -> dict[str, Any] | None:
    """Return what a mark says, or None where there is none.

    Parameters
    ----------
    metadata : mapping or None
        Schema metadata of Arrow (keys and values str or bytes) or the ``attrs`` of a frame.
    """
    for key, value in (metadata or {}).items():
        name = key.decode(errors="replace") if isinstance(key, bytes) else key
        if name == WATERMARK:
            # Whatever it says, rows under this key are synthetic.
            return _parsed(value) or {}
        if name == _PANDAS_ATTRS:
            # All that is left when pandas has read the rows and written them again.
            attrs = _parsed(value) or {}
            if WATERMARK in attrs:
                return _parsed(attrs[WATERMARK]) or {}
    return None


def _parsed(value: Any) -> dict[str, Any] | None:
    if isinstance(value, Mapping):
        return dict(value)
    try:
        found = json.loads(value)
    except (ValueError, TypeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def refuse_synthetic(facts: Mapping[str, Any] | None, *, file: str) -> None:
    """Refuse rows that carry the mark where real rows belong.

    Parameters
    ----------
    facts : mapping or None
        From `marked_of`; None passes.
    file : str
        Name of the source for the message.

    Raises
    ------
    DataError
        With what the mark says.
    """
    if facts is None:
        return
    said = ", ".join(f"{name} {value}" for name, value in sorted(facts.items()))
    raise DataError(
        f"holds synthetic rows where real ones belong (its mark {WATERMARK!r} says: "
        f"{said[:_MOST_CHARS] or 'nothing more'})",
        file=file,
        hint="give the real rows; synthetic ones are read where they are asked for, such as the "
        "second table of evaluate",
    )
