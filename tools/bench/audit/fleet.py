"""Who took part? Membership inference over many rows at once, ordinary ones and canaries.

A fixed set of rows; each device holds each of them by a fair coin and trains long enough to learn
them by heart where nothing prevents it. Half of the devices are shadow runs, whose coins the
attacker knows; on the other half it guesses:

* `closest row`: distance to the closest record of the batch, no shadow runs;
* `likelihood ratio` on how likely the released network, or how close the batch, makes the row;
* canaries carry a condition of their own, so clamped conditions may betray them by themselves.

Guesses over all attacked devices are one audit with one run each (`evaluation.audit.one_run`): each
coin belongs to one device, so (epsilon, delta) of a device holds for all of them together.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from audit.canary import other_rows
from audit.device import DELTA, I32, Released, Setting, digest, run_device
from edge_runtime.evaluation.audit import Guesses, guess
from edge_runtime.evaluation.membership import (
    area,
    closeness,
    shadow_scores,
    true_positives_at,
)
from edge_runtime.generator import Layout, initial_weights
from edge_runtime.training import NumpyStep, TrainSettings, make_step

__all__ = ["SETTING", "Found", "members"]

F64 = npt.NDArray[np.float64]
Coins = npt.NDArray[np.bool_]

_LABELS = 6
_CANARIES = 20
_ORDINARY = 120

SETTING = Setting(
    layout=Layout((_LABELS + _CANARIES, 9, 9, 9, 9, 9), 24),
    epsilon=8.0,
    train=TrainSettings(
        steps=120,
        expected_batch=512,
        clip_norm=1.0,
        learning_rate=0.03,
        noise_multiplier=0.0,
        averaging=0.0,
    ),
    rows=400,
)

#: part of the rows that the one-run audit guesses about: few at a low epsilon, all without privacy
_SHARES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one attack found about one kind of rows.

    Attributes
    ----------
    attack, rows : str
    area, found : float
        Area under the ROC curve; share of members found at 1 % false alarms.
    audit : Guesses
        The lower bound on epsilon, guessing about the share of rows that did best on shadow runs.
    claimed : float
    """

    attack: str
    rows: str
    area: float
    found: float
    audit: Guesses
    claimed: float


def pool_of_rows(layout: Layout) -> I32:
    """Return ordinary rows, then canaries: conditions of their own and odd combinations, [n, D]."""
    ordinary = other_rows(
        dataclasses.replace(layout, cardinalities=(_LABELS + 1, *layout.cardinalities[1:])),
        _ORDINARY,
        seed=7,
    )
    rng = np.random.default_rng(8)
    canaries = rng.integers(0, 9, (_CANARIES, layout.columns)).astype(np.int32)
    canaries[:, 0] = _LABELS + np.arange(_CANARIES)
    # The last code is no ordinary row's: two columns of it never occur together elsewhere.
    canaries[:, 1] = 8
    return np.concatenate([ordinary, canaries])


def members(setting: Setting, *, devices: int, seed: int) -> list[Found]:
    """Run devices and attack one half of them with the other half as shadow runs.

    Parameters
    ----------
    setting : Setting
        `SETTING` with an epsilon.
    devices : int
    seed : int
    """
    layout = setting.layout
    pool = pool_of_rows(layout)
    coins = np.random.default_rng(seed).random((devices, len(pool))) < 0.5
    start = initial_weights(layout, seed=seed)
    step = make_step(layout, engine="numpy")
    seen: dict[str, list[F64]] = {}
    claimed = 0.0
    for device in range(devices):
        released = run_device(
            setting,
            np.ascontiguousarray(pool[coins[device]]),
            start=start,
            seed=digest(b"members", str(seed).encode(), str(device).encode()),
        )
        claimed = released.epsilon
        for name, statistic in _statistics(released, pool, step).items():
            seen.setdefault(name, []).append(statistic)
    shadows = devices // 2
    found = []
    for name, statistics in seen.items():
        values = np.array(statistics)
        scores = {
            f"likelihood ratio, {name}": shadow_scores(values[:shadows], coins[:shadows], values)
        }
        if name.startswith("rows"):
            scores[f"closest row, {name.removeprefix('rows, ')}"] = values
        found += [
            _judge(
                attack=attack,
                kind=kind,
                scores=score[:, part],
                coins=coins[:, part],
                shadows=shadows,
                claimed=claimed,
            )
            for attack, score in scores.items()
            for kind, part in (
                ("ordinary", slice(0, _ORDINARY)),
                ("canaries", slice(_ORDINARY, None)),
            )
        ]
    return found


def _statistics(released: Released, pool: I32, step: NumpyStep) -> dict[str, F64]:
    cells = sum(
        released.counts[f"one_way.{column}"][pool[:, column]].astype(float)
        for column in range(pool.shape[1])
    )
    return {
        "counts": np.asarray(cells),
        "weights": -step.nll(released.weights, pool).astype(np.float64),
        "rows, free": closeness(pool, released.rows.free),
        "rows, clamped": closeness(pool, released.rows.clamped),
    }


def _judge(
    *, attack: str, kind: str, scores: F64, coins: Coins, shadows: int, claimed: float
) -> Found:
    known, hidden = (scores[:shadows], coins[:shadows]), (scores[shadows:], coins[shadows:])
    # How many rows to guess about must not depend on the coins that are guessed.
    share = max(
        _SHARES,
        key=lambda s: guess(known[0].ravel(), known[1].ravel(), share=s, delta=DELTA).epsilon,
    )
    inside, outside = hidden[0][hidden[1]], hidden[0][~hidden[1]]
    return Found(
        attack=attack,
        rows=kind,
        area=area(inside, outside),
        found=true_positives_at(inside, outside, 0.01),
        audit=guess(hidden[0].ravel(), hidden[1].ravel(), share=share, delta=DELTA),
        claimed=claimed,
    )
