"""Accepted summaries, read back from disk and merged over the fleet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.aggregator.anchor import DeviceCounts
from edge_runtime.aggregator.records import MessageRecord
from edge_runtime.errors import AggregatorError, MessageError
from edge_runtime.messages import decode_summary
from edge_runtime.schema import Census, Schema, census_cells

__all__ = ["read_anchors", "read_censuses"]


def read_censuses(
    data_dir: Path, records: Iterable[MessageRecord], schema: Schema
) -> dict[str, Census]:
    """Return the latest accepted census of every device.

    Raises
    ------
    AggregatorError
        If a catalogued file is missing or damaged.
    """
    cells = census_cells(schema)
    found: dict[str, Census] = {}
    for record in records:
        tensors, sigma = _read(data_dir, record, cells)
        counts = [tensors[f"census.{d}"] for d in range(len(cells))]
        found[record.device] = Census.of(counts, sigma=sigma)
    return found


def read_anchors(
    data_dir: Path, records: Iterable[MessageRecord], cardinalities: Sequence[int]
) -> list[DeviceCounts]:
    """All accepted anchors, in the order of the records.

    Raises
    ------
    AggregatorError
        If a catalogued file is missing or damaged.
    """
    anchors = []
    for record in records:
        tensors, sigma = _read(data_dir, record, cardinalities)
        one_way = [tensors[f"one_way.{d}"].astype(np.float64) for d in range(len(cardinalities))]
        pairs = {}
        for name, tensor in tensors.items():
            if name.startswith("pair."):
                _, a, b = name.split(".")
                pairs[int(a), int(b)] = tensor.astype(np.float64)
        anchors.append(DeviceCounts(record.device, record.round, one_way, pairs, sigma))
    return anchors


def _read(
    data_dir: Path, record: MessageRecord, sizes: Sequence[int]
) -> tuple[dict[str, npt.NDArray[np.int64]], float]:
    try:
        header, tensors = decode_summary((data_dir / record.path).read_bytes(), sizes=sizes)
    except (OSError, MessageError) as error:
        raise AggregatorError(
            f"{record.path} is in the catalogue but cannot be read: {error}; "
            "restore the data directory from its backup"
        ) from error
    return tensors, float(header.extra["sigma"])
