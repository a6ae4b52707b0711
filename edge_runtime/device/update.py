"""The weight update: what training changed in the plan's bundle, clipped and in int8.

It follows from the weights that private training returned, so it costs nothing beyond the
training's own entry in the ledger.
"""

from __future__ import annotations

from edge_runtime.device.bench import Bench
from edge_runtime.errors import PlanError
from edge_runtime.generator import Bundle, Layout, Weights
from edge_runtime.messages import (
    DEFAULT_LIMITS,
    Limits,
    Plan,
    PrivacyStatement,
    UpdateRequest,
    encode_update,
)

__all__ = ["check_update", "enqueue_update"]

#: of the message that are not parameters: header, scales, framing
_OVERHEAD_BYTES = 1 << 16


def check_update(layout: Layout, *, limits: Limits = DEFAULT_LIMITS) -> None:
    """Decline an update that would not fit into a message.

    Raises
    ------
    PlanError
        For a network of so many parameters that their int8 form may be too large.
    """
    raw = (2 * layout.width + layout.hidden + 2) * layout.hidden + layout.width
    # Noise of one byte each does not compress; masked places do.
    if layout.parameters + _OVERHEAD_BYTES > limits.message_bytes or (
        raw + _OVERHEAD_BYTES > limits.raw_bytes
    ):
        raise PlanError(
            f"the update of {layout.parameters} parameters does not fit into a message of "
            f"{limits.message_bytes} bytes; ask for rows alone"
        )


def enqueue_update(
    bench: Bench,
    plan: Plan,
    request: UpdateRequest,
    bundle: Bundle,
    *,
    weights: Weights,
    statement: PrivacyStatement,
) -> str:
    """Enqueue the update inside the caller's transaction; return the message's id."""
    header = bench.header(
        plan=plan,
        kind="update",
        privacy=statement,
        codec_digest=bundle.codec.digest,
        extra={"clip_norm": request.clip_norm},
    )
    delta = Weights(*(new - old for new, old in zip(weights, bundle.weights, strict=True)))
    bench.outbox.add(
        sequence=header.sequence,
        id=header.id,
        kind="summary",
        payload=encode_update(header, delta, layout=bundle.layout),
    )
    return header.id
