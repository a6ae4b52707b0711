"""The federated peer: a classifier averaged over the devices round by round (FedAvg).

McMahan et al. 2017, algorithm 1, with all devices in every round: each device trains the current
network on its own rows, the server averages the weights by row counts. The local optimiser is
Adam, which beat plain SGD on validation rows here (docs/baselines.md has the grid; the command
behind it is tools/bench/fedavg_grid.py). No privacy is added: this is the peer at its best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import EvaluationError
from edge_runtime.evaluation.network import Mlp

__all__ = ["FEDAVG_CHOICE", "FedAvgChoice", "FedAvgResult", "federated_average"]

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class FedAvgChoice:
    """Settings of one run.

    Parameters
    ----------
    rounds : int
    epochs : int
        Local passes over a device's rows in a round.
    batch : int
    learning_rate : float
        Of the local optimiser in the first round.
    final_rate : float
        Share of `learning_rate` left in the last round; the rate falls along a cosine.
    hidden : int
    """

    rounds: int = 50
    epochs: int = 1
    batch: int = 64
    learning_rate: float = 0.01
    final_rate: float = 0.05
    hidden: int = 64


#: the best of the published grid on validation rows of the flights table
FEDAVG_CHOICE = FedAvgChoice()


@dataclass(frozen=True, kw_only=True)
class FedAvgResult:
    """The averaged network and what it took.

    Parameters
    ----------
    network : Mlp
    rounds : int
        Rounds run.
    best_round : int
        The round whose network is returned: the best on validation rows when there are any,
        otherwise the last.
    validation_loss : tuple of float
        After each round; empty without validation rows.
    bytes_up_per_device : int
        Weights sent by one device over all rounds, float32 without any framing.
    """

    network: Mlp
    rounds: int
    best_round: int
    validation_loss: tuple[float, ...]
    bytes_up_per_device: int


def federated_average(
    devices: Sequence[tuple[F32, F32]],
    *,
    choice: FedAvgChoice = FEDAVG_CHOICE,
    validation: tuple[F32, F32] | None = None,
    seed: int = 0,
    on_round: Callable[[int], None] | None = None,
) -> FedAvgResult:
    """Train one binary classifier over devices that keep their rows.

    Parameters
    ----------
    devices : sequence of (float32 [n, d], float32 [n])
        Each device's inputs and 0/1 labels; devices without rows are skipped.
    choice : FedAvgChoice
    validation : (float32 [n, d], float32 [n]), optional
        Rows that pick the round to return.
    seed : int
    on_round : callable, optional
        Called with the number of rounds done.

    Raises
    ------
    EvaluationError
        No device has rows.
    """
    usable = [(x, y) for x, y in devices if len(x)]
    if not usable:
        raise EvaluationError("no device has a labelled row")
    shares = np.array([len(x) for x, _ in usable], np.float64)
    shares /= shares.sum()
    network = Mlp.create(
        inputs=usable[0][0].shape[1], hidden=choice.hidden, task="binary", seed=seed
    )
    best, best_round, losses = network, 0, []
    for number in range(1, choice.rounds + 1):
        total = [np.zeros_like(w) for w in network.weights]
        rate = _rate(choice, number)
        for position, ((x, y), share) in enumerate(zip(usable, shares, strict=True)):
            local = network.copy()
            local.train(
                x,
                y,
                epochs=choice.epochs,
                batch=choice.batch,
                learning_rate=rate,
                seed=(seed * 1_000 + number) * 1_000 + position,
            )
            for mean, weights in zip(total, local.weights, strict=True):
                np.add(mean, np.float32(share) * weights, out=mean)
        network = Mlp(network.task, total)
        if validation is None:
            best, best_round = network, number
        else:
            losses.append(network.loss(*validation))
            if losses[-1] <= min(losses):
                best, best_round = network, number
        if on_round is not None:
            on_round(number)
    return FedAvgResult(
        network=best,
        rounds=choice.rounds,
        best_round=best_round,
        validation_loss=tuple(losses),
        bytes_up_per_device=choice.rounds * 4 * network.parameters,
    )


def _rate(choice: FedAvgChoice, number: int) -> float:
    """Return the local learning rate of a round, falling along a cosine."""
    turn = (number - 1) / max(1, choice.rounds - 1)
    fall = 0.5 * (1.0 + np.cos(np.pi * turn))
    return float(choice.learning_rate * (choice.final_rate + (1.0 - choice.final_rate) * fall))
