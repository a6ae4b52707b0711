"""What each round released and how it was protected, in words, from the plans themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge_runtime.aggregator.records import MessageRecord, RoundRecord
from edge_runtime.messages import Plan, decode_plan

__all__ = ["composition"]


def composition(
    rounds: Sequence[RoundRecord], messages: Sequence[MessageRecord]
) -> list[dict[str, Any]]:
    """Return one entry per round.

    Parameters
    ----------
    rounds : sequence of RoundRecord
        The census first.
    messages : sequence of MessageRecord
        Those that count.

    Returns
    -------
    list of dict
        ``round``, ``kind``, ``devices`` that answered, ``ceiling`` (cumulative epsilon that the
        plan allows, None without privacy), ``stated`` (the largest cumulative epsilon that any
        device stated up to this round, None without), ``mechanisms`` (sentences).
    """
    entries = []
    for record in rounds:
        plan = decode_plan(record.plan.encode())
        stated = [m.epsilon for m in messages if m.round <= plan.round and m.epsilon is not None]
        entries.append(
            {
                "round": plan.round,
                "kind": plan.kind,
                "devices": len({m.device for m in messages if m.round == plan.round}),
                "ceiling": plan.epsilon_after,
                "stated": max(stated, default=None),
                "mechanisms": _mechanisms(plan),
            }
        )
    return entries


def _mechanisms(plan: Plan) -> list[str]:
    private = plan.epsilon_after is not None
    counted = "exact discrete Gaussian noise on every count" if private else "no noise"
    said = []
    if plan.kind == "census":
        said.append(f"Histograms of every column: {counted}.")
    if plan.anchor is not None:
        tables = plan.anchor.tables
        widest = max(len(table) for table in tables)
        reach = "single columns" if widest == 1 else f"up to {widest} columns together"
        said.append(
            f"{len(tables)} {'table' if len(tables) == 1 else 'tables'} of counts over {reach}: "
            f"{counted}{_share(plan.anchor.share, private)}."
        )
    if plan.score is not None:
        said.append(
            "How likely the published generator finds rows that were held out, as a sum cut at "
            f"{plan.score.clip_nats:g} nats a row, and their number: {counted}"
            f"{_share(plan.score.share, private)}."
        )
    if plan.train is not None:
        train = plan.train
        noise = (
            "Gaussian noise on every sum of gradients, as strong as the device's own accountant "
            "finds necessary"
            if private
            else "no noise"
        )
        said.append(
            f"Training in {train.steps:,} steps on random samples of about "
            f"{train.expected_batch:,} rows, each row's gradient cut to norm "
            f"{train.clip_norm:g}: {noise} (DP-SGD)."
            if private
            else f"Training in {train.steps:,} steps on random samples of about "
            f"{train.expected_batch:,} rows: {noise}."
        )
    if plan.kind == "sample":
        said.append("Synthetic rows drawn from a packed graph: no real row has a part in them.")
    elif plan.rows is not None:
        said.append(
            "Synthetic rows drawn from the network so trained: no further cost, whatever their "
            "number."
            if private
            else "Synthetic rows drawn from the network so trained."
        )
    if plan.update is not None:
        said.append(
            "The change of the network's weights" + (": no further cost." if private else ".")
        )
    return said


def _share(share: float, private: bool) -> str:
    return f", {share:.0%} of the round's budget" if private else ""
