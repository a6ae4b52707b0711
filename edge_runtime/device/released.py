"""What a device has released so far, for its own use: at no further cost, whatever it is used for.

Row counts, sampling rates and the conditions of synthetic rows follow from these noisy counts and
never from exact ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from edge_runtime.device.census import CENSUS_KEY
from edge_runtime.device.clamp import Condition, NoisyCounts, combine, noisy_rows
from edge_runtime.device.store import Store
from edge_runtime.messages import columns_of_table, decode_summary
from edge_runtime.schema import Codec, Schema

__all__ = ["ANCHORS_KEY", "Released", "remember_anchor"]

F64 = npt.NDArray[np.float64]

#: where the device keeps the last anchors it released: the messages, newest first
ANCHORS_KEY = "release.anchors"
#: how many: plans may ask for other tables every time, and conditions need theirs again
_KEPT = 4

_MESSAGES = msgspec.msgpack.Decoder(list[bytes])


def remember_anchor(store: Store, payload: bytes) -> None:
    """Keep an anchor that was released, inside the transaction that releases it."""
    kept = _anchors(store)
    store.put(ANCHORS_KEY, msgspec.msgpack.encode([payload, *kept[: _KEPT - 1]]))


def _anchors(store: Store) -> list[bytes]:
    data = store.get(ANCHORS_KEY)
    return [] if data is None else _MESSAGES.decode(data)


class _Release(NamedTuple):
    """Tables by their columns, scaled to all rows of the device, and their noise per cell."""

    tables: dict[tuple[int, ...], F64]
    sigma: float


class Released:
    """The noisy counts that this device has released and may use again.

    Parameters
    ----------
    store : Store
        Keeps the last census and the last anchors.
    schema : Schema
        Releases of another schema do not count.
    codec : Codec
        Anchors of another codec do not count.
    """

    def __init__(self, *, store: Store, schema: Schema, codec: Codec) -> None:
        self._codec = codec
        self._schema = schema
        self._anchors = [
            release for data in _anchors(store) if (release := self._anchor(data)) is not None
        ]
        self._census = self._read_census(store.get(CENSUS_KEY))

    def _anchor(self, data: bytes) -> _Release | None:
        header, tensors = decode_summary(data)
        if (header.schema_digest, header.codec_digest) != (self._schema.digest, self._codec.digest):
            return None
        # Held-out rows are not in the counts; scaled up, releases of any plan can be compared.
        scale = 1.0 / (1.0 - float(header.extra.get("holdout", 0.0)))
        tables = {columns_of_table(n): scale * t.astype(np.float64) for n, t in tensors.items()}
        return _Release(tables, scale * float(header.extra["sigma"]))

    def _read_census(self, data: bytes | None) -> _Release | None:
        if data is None:
            return None
        header, tensors = decode_summary(data)
        if header.schema_digest != self._schema.digest:
            return None
        # Of windows it counts the steps; the columns of conditions have the same places in both.
        weight = 1 if self._schema.sequence is None else self._schema.sequence.steps
        tables = {columns_of_table(n): t / weight for n, t in tensors.items()}
        return _Release(tables, float(header.extra["sigma"]) / weight)

    def rows(self) -> float | None:
        """Estimate of the device's rows, held-out ones included, or None before any release."""
        releases = [*self._anchors, *([self._census] if self._census else [])]
        if not releases:
            return None
        return noisy_rows([([t.ravel() for t in r.tables.values()], r.sigma) for r in releases])

    def marginal(self, columns: Sequence[int]) -> NoisyCounts | None:
        """Noisy counts over some columns, from all tables that contain them; None: there are none.

        A table's marginal carries the noise of all cells that were added up for one of its own.
        """
        wanted = tuple(columns)
        estimates = []
        for release in self._anchors:
            for table, counts in release.tables.items():
                if set(wanted) <= set(table):
                    others = tuple(i for i, column in enumerate(table) if column not in wanted)
                    summed = math.prod(counts.shape[i] for i in others)
                    sigma = release.sigma * math.sqrt(summed)
                    estimates.append(NoisyCounts(counts.sum(axis=others), sigma))
        if self._census is not None and len(wanted) == 1:
            (column,) = wanted
            cells = self._census.tables[wanted]
            # Cells are codes where each value has one of its own; bins would need a mapping.
            named = self._schema.columns[column].kind in ("category", "boolean")
            if named and cells.size == self._codec.cardinalities[column]:
                estimates.append(NoisyCounts(cells, self._census.sigma))
        return combine(estimates) if estimates else None

    def conditions(self) -> list[Condition]:
        """Noisy counts of the leading condition columns, as far as there are any.

        Each later column comes with its counts together with all before it or, where no table has
        them all, with the nearest one before it. The first column without such counts, and all
        behind it, are left to the network.
        """
        found: list[Condition] = []
        for column in self._schema.conditions:
            own = self.marginal((column,))
            if own is None:
                break
            if column == 0:
                found.append(Condition(own=own))
                continue
            before = [tuple(range(column)), *((a,) for a in range(column - 1, -1, -1))]
            joints = ((given, self.marginal((*given, column))) for given in before)
            match = next(((given, joint) for given, joint in joints if joint is not None), None)
            if match is None:
                break
            found.append(Condition(own=own, given=match[0], joint=match[1]))
        return found
