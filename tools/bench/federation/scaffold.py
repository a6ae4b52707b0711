"""SCAFFOLD (Karimireddy et al. 2020, algorithm 1 with option II), which Flower does not carry.

Each device corrects its steps by ``c - c_i``, the difference between the fleet's control variate
and its own, and sends the change of its variate beside its weights: twice the bytes. A variate is
made of the weights a device received and those it sends, so under privacy it is post-processing
of noisy gradients and costs nothing more.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tools.bench.federation.client import Choice, Devices

__all__ = ["run_scaffold"]

F32 = npt.NDArray[np.float32]


def run_scaffold(
    devices: Devices,
    initial: F32,
    *,
    choice: Choice,
    on_round: Callable[[int, F32], None],
) -> None:
    """Run SCAFFOLD with every device in every round; weights are merged by rows, as FedAvg does.

    Parameters
    ----------
    devices : Devices
    initial : float32 [parameters]
    choice : Choice
        With plain gradient steps; the server's learning rate is 1, as the paper uses.
    on_round : callable
        Called with the round and the merged weights.
    """
    if choice.optimiser != "sgd":
        raise SystemExit("SCAFFOLD's variates are defined for plain gradient steps")
    shares = (devices.rows / devices.rows.sum()).astype(np.float32)
    weights, common = initial, np.zeros_like(initial)
    own = np.zeros((len(shares), initial.size), np.float32)
    for number in range(1, choice.rounds + 1):
        rate = choice.rate(number)
        local, steps = devices.train(weights, rate=rate, corrections=common - own)
        change = (weights - local) / (steps[:, None] * rate).astype(np.float32) - common
        own += change
        weights, common = shares @ local, common + shares @ change
        on_round(number, weights)
