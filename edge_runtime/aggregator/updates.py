"""Accepted weight updates, read back from disk one by one, and the state that strategies keep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import safetensors
import safetensors.numpy

from edge_runtime.aggregator.files import write_durably
from edge_runtime.aggregator.records import MessageRecord
from edge_runtime.aggregator.strategies import ClientUpdate, State
from edge_runtime.errors import AggregatorError, MessageError
from edge_runtime.generator import Layout
from edge_runtime.messages import decode_update

__all__ = ["StoredUpdates", "read_state", "write_state"]


class StoredUpdates(Sequence[ClientUpdate]):
    """Updates of one bundle; each is read when it is asked for, so that any fleet fits in memory.

    A device weighs as many rows as it is estimated to hold, or the fleet's mean where that is not
    known. If it sent several updates, which happens when a bundle stays in force for more than a
    round, they share its weight.

    Parameters
    ----------
    data_dir : Path
        The aggregator's data directory.
    records : sequence of MessageRecord
        Of kind `update`.
    layout : Layout
        Of the bundle that they change.
    rows_of : mapping of str to float
        Noisy count of real rows by device.
    """

    def __init__(
        self,
        *,
        data_dir: Path,
        records: Sequence[MessageRecord],
        layout: Layout,
        rows_of: Mapping[str, float],
    ) -> None:
        self._base = data_dir
        self._records = list(records)
        self._layout = layout
        sent = Counter(record.device for record in self._records)
        known = {device: max(1.0, rows_of[device]) for device in sent if device in rows_of}
        typical = sum(known.values()) / len(known) if known else 1.0
        self._weights = {device: known.get(device, typical) / sent[device] for device in sent}

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> ClientUpdate: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[ClientUpdate]: ...

    def __getitem__(self, index: int | slice) -> ClientUpdate | Sequence[ClientUpdate]:
        """Read one update, or several.

        Raises
        ------
        AggregatorError
            If a catalogued file is missing or damaged.
        """
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        record = self._records[index]
        try:
            data = (self._base / record.path).read_bytes()
            _, delta = decode_update(data, layout=self._layout)
        except (OSError, MessageError) as error:
            raise _unreadable(record.path, error) from error
        return ClientUpdate(record.device, delta, self._weights[record.device])


def write_state(path: Path, state: State) -> None:
    """Write a strategy's state, synced; an empty one leaves no file."""
    if state:
        write_durably(path, safetensors.numpy.save({k: np.asarray(v) for k, v in state.items()}))


def read_state(path: Path) -> State:
    """Read a strategy's state; empty where there is none.

    Raises
    ------
    AggregatorError
        If the file is damaged.
    """
    try:
        state: dict[str, np.ndarray] = safetensors.numpy.load(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, safetensors.SafetensorError) as error:
        raise _unreadable(path.name, error) from error
    return state


def _unreadable(path: str, error: Exception) -> AggregatorError:
    return AggregatorError(
        f"{path} is in the catalogue but cannot be read: {error}; "
        "restore the data directory from its backup"
    )
