"""Federated averaging: the mean of the devices' weight updates, by FedAvg or FedAdam.

For comparison, for mild skew, and for fleets that can hold many rounds. Updates come clipped, noisy
and in int8; rows are not used, but the release still draws from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from edge_runtime.aggregator.config import FusionSettings
from edge_runtime.aggregator.strategies.base import Candidate, ClientUpdate, Material, State
from edge_runtime.errors import AggregatorError
from edge_runtime.generator import Layout

__all__ = ["AverageStrategy", "average_updates", "server_step"]

F32 = npt.NDArray[np.float32]

#: FedAdam's decay rates and adaptivity (Reddi et al. 2021, section 5)
_BETA1, _BETA2, _TAU = 0.9, 0.99, 1e-3


class AverageStrategy:
    """FedAvg (McMahan et al. 2017) or FedAdam (Reddi et al. 2021, algorithm 2) of one round.

    Devices weigh by their noisy row counts. A device that is missing is not waited for, one that
    sent several updates of the same bundle counts once; updates of an older bundle are none of
    the material: they lead away from weights that are gone.
    """

    name: ClassVar[str] = "average"
    needs_updates: ClassVar[bool] = True

    def fuse(
        self,
        material: Material,
        settings: FusionSettings,
        *,
        should_stop: Callable[[], bool],  # noqa: ARG002 - over in a moment
        on_progress: Callable[[float], None],
    ) -> Candidate:
        """See `Strategy.fuse`."""
        if not material.updates:
            raise AggregatorError(
                "no device sent an update of the generator in force; check that devices answer "
                "before the deadline, or use the strategy 'pool'"
            )
        layout = material.layout
        mean = average_updates(material.updates, layout, on_progress=on_progress)
        step, state = server_step(mean, material.state, settings)
        weights = layout.unflatten(layout.flatten(material.weights) + step)
        figures = {
            "fusion.updates": float(len({update.device for update in material.updates})),
            "fusion.update_norm": float(np.linalg.norm(mean)),
            "fusion.step_norm": float(np.linalg.norm(step)),
        }
        return Candidate(weights, figures, state)


def average_updates(
    updates: Sequence[ClientUpdate],
    layout: Layout,
    *,
    on_progress: Callable[[float], None] = lambda _: None,
) -> F32:
    """Weighted mean of the changes, float32 [parameters].

    One at a time and in float64: neither the number of devices nor their order matters.
    """
    total = np.zeros(layout.parameters)
    weights = []
    for index, update in enumerate(updates):
        total += update.weight * layout.flatten(update.delta).astype(np.float64)
        weights.append(update.weight)
        on_progress((index + 1) / len(updates))
    return np.asarray(total / math.fsum(weights), dtype=np.float32)


def server_step(mean: F32, state: State, settings: FusionSettings) -> tuple[F32, State]:
    """Turn the mean change into the step to take, and the state for the next one.

    Parameters
    ----------
    mean : float32 [parameters]
    state : mapping of str to float32 [parameters]
        FedAdam's `first_moment` and `second_moment`; empty at first, and for FedAvg.
    settings : FusionSettings
        `server` and `server_learning_rate`.
    """
    rate = np.float32(settings.server_rate)
    if settings.server == "avg":
        return rate * mean, {}
    first = state.get("first_moment", np.zeros_like(mean))
    # At least tau^2 at first, as algorithm 2 asks.
    second = state.get("second_moment", np.full_like(mean, _TAU**2))
    first = (_BETA1 * first + (1.0 - _BETA1) * mean).astype(np.float32)
    second = (_BETA2 * second + (1.0 - _BETA2) * np.square(mean)).astype(np.float32)
    step = (rate * first / (np.sqrt(second) + _TAU)).astype(np.float32)
    return step, {"first_moment": first, "second_moment": second}
