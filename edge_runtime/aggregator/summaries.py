"""Accepted summaries, read back from disk and merged over the fleet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.aggregator.anchor import DeviceCounts
from edge_runtime.aggregator.moments import DeviceMoments
from edge_runtime.aggregator.records import MessageRecord
from edge_runtime.errors import AggregatorError, MessageError
from edge_runtime.messages import (
    SCORE_UNITS,
    Header,
    MomentsRequest,
    columns_of_table,
    decode_summary,
)
from edge_runtime.schema import Census, Schema, census_of

__all__ = [
    "DeviceScore",
    "read_anchors",
    "read_censuses",
    "read_moments",
    "read_scores",
]


class DeviceScore(NamedTuple):
    """How a bundle did on one device's held-out rows.

    `nats` is the noisy sum of the rows' negative log-likelihoods, each clipped to `clip_nats`;
    `rows` the noisy number of rows; `sigma_rows` the standard deviation of the noise in `rows`,
    and of that in `nats` in units of `clip_nats`.
    """

    device: str
    round: int
    bundle_digest: str
    nats: float
    rows: float
    sigma_rows: float
    clip_nats: float


def read_censuses(
    data_dir: Path, records: Iterable[MessageRecord], schema: Schema
) -> dict[str, Census]:
    """Return the latest accepted census of every device.

    Parameters
    ----------
    schema : Schema
        What is learnt.

    Raises
    ------
    AggregatorError
        If a catalogued file is missing or damaged.
    """
    found: dict[str, Census] = {}
    for record in records:
        header, tensors = _read(data_dir, record, None)
        counts = [tensors[f"census.{d}"] for d in range(len(tensors))]
        found[record.device] = census_of(schema, counts, sigma=float(header.extra["sigma"]))
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
        header, tensors = _read(data_dir, record, cardinalities)
        # Held-out rows are not in the counts; scaled up, releases of any plan can be compared.
        scale = 1.0 / (1.0 - float(header.extra.get("holdout", 0.0)))
        tables = {columns_of_table(n): scale * t.astype(np.float64) for n, t in tensors.items()}
        sigma = scale * float(header.extra["sigma"])
        anchors.append(DeviceCounts(record.device, record.round, tables, sigma))
    return anchors


def read_moments(
    data_dir: Path, records: Iterable[MessageRecord], requests: Mapping[str, MomentsRequest]
) -> list[DeviceMoments]:
    """All accepted moments, in the order of the records.

    Parameters
    ----------
    requests : mapping of str to MomentsRequest
        By the id of the plan that asked.

    Raises
    ------
    AggregatorError
        If a catalogued file is missing or damaged.
    """
    found = []
    for record in records:
        header, tensors = _read(data_dir, record, None)
        request = requests[record.plan_id]
        step = float(1 << int(header.extra["shift"]))
        scale = 1.0 / (1.0 - float(header.extra.get("holdout", 0.0)))
        # What was sent was rounded to whole steps after the noise.
        sigma = scale * math.hypot(float(header.extra["sigma"]), step / math.sqrt(12.0))
        if header.extra["sigma"] == 0.0:
            sigma = 0.0
        found.append(
            DeviceMoments(
                device=record.device,
                round=record.round,
                request=request,
                sums=scale * step * request.unit * tensors["moments"].astype(np.float64),
                rows=scale * step / request.row_units * tensors["rows"].astype(np.float64),
                sigma=sigma * request.unit,
                row_sigma=sigma / request.row_units,
            )
        )
    return found


def read_scores(data_dir: Path, records: Iterable[MessageRecord]) -> list[DeviceScore]:
    """All accepted scores, in the order of the records.

    Raises
    ------
    AggregatorError
        If a catalogued file is missing or damaged.
    """
    scores = []
    for record in records:
        header, tensors = _read(data_dir, record, None)
        clip_nats = float(header.extra["clip_nats"])
        losses, rows = tensors["score"].astype(np.float64) / SCORE_UNITS
        scores.append(
            DeviceScore(
                device=record.device,
                round=record.round,
                bundle_digest=header.bundle_digest,
                nats=float(losses) * clip_nats,
                rows=float(rows),
                sigma_rows=float(header.extra["sigma"]) / SCORE_UNITS,
                clip_nats=clip_nats,
            )
        )
    return scores


def _read(
    data_dir: Path, record: MessageRecord, sizes: Sequence[int] | None
) -> tuple[Header, dict[str, npt.NDArray[np.int64]]]:
    try:
        return decode_summary((data_dir / record.path).read_bytes(), sizes=sizes)
    except (OSError, MessageError) as error:
        raise AggregatorError(
            f"{record.path} is in the catalogue but cannot be read: {error}; "
            "restore the data directory from its backup"
        ) from error
