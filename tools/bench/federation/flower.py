"""Flower's own strategies, driven in this process: no network, no simulation engine.

The server's side is Flower's code: who takes part, what is sent, how results are merged. The
devices' side is `Client`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server.client_manager import SimpleClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import FedAdam, FedAvg, FedProx, Strategy

from tools.bench.federation.client import Choice, Devices

__all__ = ["STRATEGIES", "run_flower"]

F32 = npt.NDArray[np.float32]
STRATEGIES = ("FedAvg", "FedProx", "FedAdam")
#: of FedAdam; the value that Reddi et al. 2021 (section 5) find to work across their tasks
TAU = 1e-3

logging.getLogger("flwr").setLevel(logging.ERROR)


class _Registered(ClientProxy):
    """A device as Flower's server knows it; its training is called directly."""

    def get_properties(self, *_: Any) -> Any:
        raise NotImplementedError

    def get_parameters(self, *_: Any) -> Any:
        raise NotImplementedError

    def fit(self, *_: Any) -> Any:
        raise NotImplementedError

    def evaluate(self, *_: Any) -> Any:
        raise NotImplementedError

    def reconnect(self, *_: Any) -> Any:
        raise NotImplementedError


def run_flower(
    system: str,
    devices: Devices,
    initial: F32,
    *,
    choice: Choice,
    on_round: Callable[[int, F32], None],
) -> None:
    """Run one of `STRATEGIES` with every device in every round.

    Parameters
    ----------
    system : str
    devices : Devices
    initial : float32 [parameters]
        In one vector: every strategy here works value by value.
    choice : Choice
    on_round : callable
        Called with the round and the merged weights.
    """
    manager = SimpleClientManager()
    for number in range(len(devices.rows)):
        manager.register(_Registered(str(number)))
    parameters = ndarrays_to_parameters([initial])
    strategy = _strategy(system, choice, parameters, len(devices.rows))
    for number in range(1, choice.rounds + 1):
        pairs = strategy.configure_fit(number, parameters, manager)
        # The same weights and settings go to every device.
        instructions = pairs[0][1]
        (received,) = parameters_to_ndarrays(instructions.parameters)
        weights, _ = devices.train(
            received.astype(np.float32),
            rate=float(instructions.config["rate"]),
            mu=float(instructions.config.get("proximal_mu", 0.0)),
        )
        results: list[tuple[ClientProxy, FitRes]] = []
        for proxy, _ in pairs:
            at = int(proxy.cid)
            sent = ndarrays_to_parameters([weights[at]])
            results.append((proxy, FitRes(Status(Code.OK, ""), sent, int(devices.rows[at]), {})))
        merged, _ = strategy.aggregate_fit(number, results, [])
        if merged is None:
            raise SystemExit(f"{system} merged nothing in round {number}")
        parameters = merged
        on_round(number, parameters_to_ndarrays(parameters)[0].astype(np.float32))


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
