"""SCAFFOLD (Karimireddy et al. 2020, algorithm 1 with option II), which Flower does not carry.

Each device corrects its steps by ``c - c_i``, the difference between the fleet's control variate
and its own, and sends the change of its variate beside its weights: twice the bytes. A variate is
made of the weights a device received and those it sends, so under privacy it is post-processing
of noisy gradients and costs nothing more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from tools.bench.federation.client import Choice, Client

__all__ = ["run_scaffold"]

F32 = npt.NDArray[np.float32]


def run_scaffold(
    clients: Sequence[Client],
    initial: F32,
    *,
    choice: Choice,
    on_round: Callable[[int, F32], None],
) -> float:
    """Run SCAFFOLD with every device in every round; weights are merged by rows, as FedAvg does.

    Parameters
    ----------
    clients : sequence of Client
    initial : float32 [parameters]
    choice : Choice
        With plain gradient steps; the server's learning rate is 1, as the paper uses.
    on_round : callable
        Called with the round and the merged weights.

    Returns
    -------
    float
        CPU seconds of one device, the mean over devices.
    """
    if choice.optimiser != "sgd":
        raise SystemExit("SCAFFOLD's variates are defined for plain gradient steps")
    shares = np.array([client.rows for client in clients], np.float32)
    shares /= shares.sum()
    weights, common = initial, np.zeros_like(initial)
    own = [np.zeros_like(initial) for _ in clients]
    cpu_s = 0.0
    for number in range(1, choice.rounds + 1):
        merged, drift = np.zeros_like(initial), np.zeros_like(initial)
        rate = choice.rate(number)
        for at, (client, share) in enumerate(zip(clients, shares, strict=True)):
            start = time.process_time()
            local, steps = client.train(weights, rate=rate, correction=common - own[at])
            change = (weights - local) / np.float32(steps * rate) - common
            own[at] += change
            cpu_s += time.process_time() - start
            drift += share * change
            merged += share * local
        weights, common = merged, common + drift
        on_round(number, weights)
    return cpu_s / len(clients)
