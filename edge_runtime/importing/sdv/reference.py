"""Rows of an imported network in plain numpy, head by head: what the graph is held to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.importing.sdv.columns import Coding
from edge_runtime.importing.sdv.description import F32, F64, Head
from edge_runtime.importing.sdv.network import Network
from edge_runtime.importing.sdv.plan import Plan, choices

__all__ = ["Drawn", "codes_of", "draw", "draw_noise"]


class Drawn(NamedTuple):
    """What the network decided.

    Attributes
    ----------
    picks : list of int ndarray
        Per head [n]: its category or mode.
    values : dict of str to F64
        Per continuous head [n]: the value, before SDV's rounding and clipping.
    """

    picks: list[NDArray[np.intp]]
    values: dict[str, F64]


def draw_noise(plan: Plan, rows: int, *, seed: int) -> F32:
    """Noise of so many rows, F32[rows, N]."""
    rng = np.random.default_rng(seed)
    parts = [
        rng.standard_normal((rows, segment.width), np.float32)
        if segment.kind == "normal"
        else rng.random((rows, segment.width), np.float32)
        for segment in plan.segments
    ]
    return np.concatenate(parts, axis=1)


def draw(network: Network, plan: Plan, noise: F32) -> Drawn:
    """Draw rows.

    Parameters
    ----------
    network : Network
    plan : Plan
    noise : F32[n, N]

    Returns
    -------
    Drawn
    """
    part = {name: noise[:, place] for name, place in plan.parts.items()}
    condition = None
    if plan.words.condition:
        ends = np.cumsum(plan.words.condition)[:-1].astype(np.float32)
        condition = np.searchsorted(ends, part["condition"][:, 0], side="right")
    out = network.outputs(part["embedding"], condition)
    picks: list[NDArray[np.intp]] = []
    values: dict[str, F64] = {}
    for number, (head, start) in enumerate(zip(plan.words.heads, plan.offsets, strict=True)):
        own = out[:, start : start + head.outputs]
        logits = own[:, -choices(head) :]
        if plan.tvae:
            # ctgan takes tanh of all outputs first; where it saturates (torch's: above 9.01), the
            # first of the largest wins, and so it does here. numpy's tanh of float32 saturates
            # above 10, hence by float64.
            pick = np.tanh(logits.astype(np.float64)).astype(np.float32).argmax(axis=1)
        else:
            pick = _categorical(logits, part["pick"][:, plan.picked.index(number)])
        picks.append(pick)
        if not head.categories:
            place = np.tanh(own[:, 0])
            if plan.tvae:
                shake = part["shake"][:, plan.continuous.index(number)]
                place = place + np.float32(head.sigma) * shake
            values[head.name] = _value(head, place, pick)
    return Drawn(picks, values)


def _categorical(logits: F32, uniform: F32) -> NDArray[np.intp]:
    """Draw by the inverse of the cumulative softmax.

    ctgan takes the largest of the softmax of (logits + Gumbel noise) / .2: the same distribution
    (Gumbel 1954), whatever the temperature.
    """
    total = np.exp(logits - logits.max(axis=1, keepdims=True)).cumsum(axis=1)
    below = total <= total[:, -1:] * uniform[:, None]
    drawn: NDArray[np.intp] = np.minimum(below.sum(axis=1), logits.shape[1] - 1)
    return drawn


def _value(head: Head, place: F32, mode: NDArray[np.intp]) -> F64:
    """RDT's `ClusterBasedNormalizer.reverse_transform`."""
    bounded = np.clip(place, -1, 1).astype(np.float64)
    value: F64 = bounded * 4 * np.array(head.stds)[mode] + np.array(head.means)[mode]
    return value


def codes_of(drawn: Drawn, plan: Plan, codings: Sequence[Coding], noise: F32) -> NDArray[np.int32]:
    """Codes of what was drawn, int32 [n, D].

    Parameters
    ----------
    drawn : Drawn
    plan : Plan
    codings : sequence of Coding
        One per output.
    noise : F32[n, N]
        What it was drawn from: the last numbers decide what is missing by lot.
    """
    numbers = {head.name: number for number, head in enumerate(plan.words.heads)}
    lot = noise[:, plan.parts["lot"]]
    columns = []
    for index, (output, coding) in enumerate(zip(plan.words.outputs, codings, strict=True)):
        if coding.cuts is None:
            place = drawn.picks[numbers[output.name]]
        else:
            place = np.searchsorted(coding.cuts, drawn.values[output.name], side="right")
        code = np.array(coding.table, np.int32)[place]
        if output.gone is not None:
            absent = np.array(output.absent)[drawn.picks[numbers[output.gone]]]
            code[absent] = coding.missing
        if index in plan.lots:
            share = np.float32(output.missing)
            code[lot[:, plan.lots.index(index)] < share] = coding.missing
        columns.append(code)
    return np.stack(columns, axis=1)
