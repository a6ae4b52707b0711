"""The anchor: noisy low-order counts of codes, which keep what each device alone smooths away."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edge_runtime.device.bench import Bench
from edge_runtime.device.budget import share_after
from edge_runtime.device.noisy_counts import is_released, release_noisy, share_of_room
from edge_runtime.device.released import remember_anchor
from edge_runtime.errors import PlanError
from edge_runtime.kernel import count_codes, count_pairs
from edge_runtime.messages import DEFAULT_LIMITS, AnchorRequest, Plan, name_of_table
from edge_runtime.schema import Codec, Schema

__all__ = ["check_tables", "count_table", "release_anchor"]

_LOG = logging.getLogger(__name__)


def check_tables(
    tables: Sequence[tuple[int, ...]],
    cardinalities: Sequence[int],
    *,
    most_cells: int = DEFAULT_LIMITS.cells,
) -> None:
    """Decline tables that this device cannot count or could not send.

    Raises
    ------
    PlanError
        For columns that do not exist, or more cells than fit into a message.
    """
    for table in tables:
        if table[-1] >= len(cardinalities):
            raise PlanError(
                f"the plan's anchor counts column {table[-1]}, there are {len(cardinalities)}"
            )
    cells = sum(math.prod(cardinalities[column] for column in table) for table in tables)
    if cells > most_cells:
        raise PlanError(
            f"the tables of the plan's anchor have {cells} cells, this device counts at most "
            f"{most_cells}; ask for fewer tables or fewer columns in each"
        )


def count_table(
    codes: npt.NDArray[np.int32], columns: tuple[int, ...], cardinalities: Sequence[int]
) -> npt.NDArray[np.int64]:
    """Count how often each combination of codes occurs. PRIVATE: exact.

    Parameters
    ----------
    codes : int32 [rows, D]
    columns : tuple of int
        In ascending order.

    Returns
    -------
    int64 [K_a, K_b, ...]
    """
    sizes = tuple(cardinalities[column] for column in columns)
    match columns:
        case (a,):
            return count_codes(codes[:, a], sizes[0])
        case (a, b):
            return count_pairs(codes[:, a], codes[:, b], *sizes)
    cells = np.ravel_multi_index(tuple(codes[:, column] for column in columns), sizes)
    return np.bincount(cells, minlength=math.prod(sizes)).astype(np.int64).reshape(sizes)


def release_anchor(
    bench: Bench,
    plan: Plan,
    request: AnchorRequest,
    *,
    codes: npt.NDArray[np.int32],
    codec: Codec,
    schema: Schema,
) -> None:
    """Release the noisy counts that a plan asks for, once per plan.

    Parameters
    ----------
    codes : int32 [rows, columns]
        Real rows.

    Raises
    ------
    PlanError
        When the tables do not fit this device; see `check_tables`.
    """
    cardinalities = codec.cardinalities
    check_tables(request.tables, cardinalities)
    if is_released(bench, plan, "anchor"):
        return
    bench.reporter.set(status="measuring", progress=0.0, reason="")
    counts = {}
    for table in request.tables:
        bench.go_on()
        counts[name_of_table(table)] = count_table(codes, table, cardinalities)
    # One row adds 1 to one cell of every table.
    sensitivity_squared = len(request.tables)
    share = share_after(request.share, earlier=plan.score.share if plan.score else 0.0)
    sigma = release_noisy(
        bench,
        plan,
        "anchor",
        counts=counts,
        sensitivity_squared=sensitivity_squared,
        sigma=lambda: share_of_room(
            bench, plan, sensitivity_squared=sensitivity_squared, share=share
        ),
        schema=schema,
        codec_digest=codec.digest,
        extra={"holdout": plan.holdout},
        details={"tables": len(request.tables)},
        settle=lambda payload: remember_anchor(bench.store, payload),
    )
    _LOG.info("anchor released with noise of standard deviation %.4g per count", float(sigma))
