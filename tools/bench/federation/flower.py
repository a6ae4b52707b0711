"""Flower's own strategies, driven in this process: no network, no simulation engine.

The server's side is Flower's code: who takes part, what is sent, how results are merged. The
devices are `Client` objects behind Flower's client interface.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.common import (
    Code,
    FitIns,
    FitRes,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.server.client_manager import SimpleClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import FedAdam, FedAvg, FedProx, Strategy

from tools.bench.federation.client import Choice, Client

__all__ = ["STRATEGIES", "run_flower"]

F32 = npt.NDArray[np.float32]
STRATEGIES = ("FedAvg", "FedProx", "FedAdam")
#: of FedAdam; the value that Reddi et al. 2021 (section 5) find to work across their tasks
TAU = 1e-3

logging.getLogger("flwr").setLevel(logging.ERROR)


class _Proxy(ClientProxy):
    """A `Client` as Flower's server sees it."""

    def __init__(self, cid: str, client: Client) -> None:
        super().__init__(cid)
        self.client = client
        self.cpu_s = 0.0

    def fit(self, ins: FitIns, timeout: float | None, group_id: int | None) -> FitRes:  # noqa: ARG002
        start = time.process_time()
        (received,) = parameters_to_ndarrays(ins.parameters)
        weights, _ = self.client.train(
            received.astype(np.float32),
            rate=float(ins.config["rate"]),
            mu=float(ins.config.get("proximal_mu", 0.0)),
        )
        parameters = ndarrays_to_parameters([weights])
        self.cpu_s += time.process_time() - start
        return FitRes(Status(Code.OK, ""), parameters, self.client.rows, {})

    def get_properties(self, *_: Any) -> Any:
        raise NotImplementedError

    def get_parameters(self, *_: Any) -> Any:
        raise NotImplementedError

    def evaluate(self, *_: Any) -> Any:
        raise NotImplementedError

    def reconnect(self, *_: Any) -> Any:
        raise NotImplementedError


def run_flower(
    system: str,
    clients: Sequence[Client],
    initial: F32,
    *,
    choice: Choice,
    on_round: Callable[[int, F32], None],
) -> float:
    """Run one of `STRATEGIES` with every device in every round.

    Parameters
    ----------
    system : str
    clients : sequence of Client
    initial : float32 [parameters]
        In one vector: every strategy here works value by value.
    choice : Choice
    on_round : callable
        Called with the round and the merged weights.

    Returns
    -------
    float
        CPU seconds of one device, the mean over devices.
    """
    manager = SimpleClientManager()
    proxies = [_Proxy(str(number), client) for number, client in enumerate(clients)]
    for proxy in proxies:
        manager.register(proxy)
    parameters = ndarrays_to_parameters([initial])
    strategy = _strategy(system, choice, parameters, len(proxies))
    for number in range(1, choice.rounds + 1):
        pairs = strategy.configure_fit(number, parameters, manager)
        results = [(proxy, proxy.fit(ins, None, number)) for proxy, ins in pairs]
        merged, _ = strategy.aggregate_fit(number, results, [])
        if merged is None:
            raise SystemExit(f"{system} merged nothing in round {number}")
        parameters = merged
        on_round(number, parameters_to_ndarrays(parameters)[0].astype(np.float32))
    return sum(proxy.cpu_s for proxy in proxies) / len(proxies)


def _strategy(system: str, choice: Choice, initial: Any, devices: int) -> Strategy:
    common: dict[str, Any] = {
        "fraction_fit": 1.0,
        "fraction_evaluate": 0.0,
        "min_fit_clients": devices,
        "min_available_clients": devices,
        "initial_parameters": initial,
        "on_fit_config_fn": lambda number: {"rate": choice.rate(number)},
        "fit_metrics_aggregation_fn": lambda _: {},
    }
    if system == "FedAvg":
        return FedAvg(**common)
    if system == "FedProx":
        return FedProx(proximal_mu=choice.mu, **common)
    if system == "FedAdam":
        return FedAdam(eta=choice.server_rate, tau=TAU, **common)
    raise SystemExit(f"no Flower strategy {system!r}; there are: {', '.join(STRATEGIES)}")
