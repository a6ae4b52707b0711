"""Category values as codes and labels: what they are before anyone asks for the words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Coded", "Columns"]


@dataclass(frozen=True, eq=False)
class Coded:
    """Values of one category column.

    A Python object per value is what costs most when many rows are drawn, and Arrow has no use
    for them.

    Attributes
    ----------
    codes : int32 ndarray
        [rows], 0 .. number of labels; the last one is a missing value.
    labels : tuple of str
    """

    codes: NDArray[np.int32]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: NDArray[Any] | slice) -> Coded:
        return Coded(self.codes[rows], self.labels)

    @property
    def missing(self) -> NDArray[np.bool_]:
        """Where values are missing, bool [rows]."""
        missing: NDArray[np.bool_] = self.codes == len(self.labels)
        return missing

    def objects(self) -> NDArray[Any]:
        """Values as str or None, object [rows]."""
        return np.array([*self.labels, None], object)[self.codes]


class Columns(Mapping[str, NDArray[Any]]):
    """Arrays by name; coded ones are spelled out when first asked for.

    Parameters
    ----------
    held : mapping of str to ndarray or Coded
    """

    def __init__(self, held: Mapping[str, NDArray[Any] | Coded]) -> None:
        self._held = dict(held)
        self._spelled: dict[str, NDArray[Any]] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        value = self._held[name]
        if not isinstance(value, Coded):
            return value
        if name not in self._spelled:
            self._spelled[name] = value.objects()
        return self._spelled[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def held(self, name: str) -> NDArray[Any] | Coded:
        """Return a column as it is held, coded or not."""
        return self._held[name]
