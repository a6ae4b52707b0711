"""What a strategy gets and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from edge_runtime.aggregator.anchor import Anchor
from edge_runtime.aggregator.config import FusionSettings
from edge_runtime.generator import Layout, Weights

__all__ = ["Candidate", "ClientUpdate", "Material", "State", "Strategy"]

#: what a strategy keeps with the bundle that it made: float32 arrays by name
State = Mapping[str, npt.NDArray[np.float32]]


class ClientUpdate(NamedTuple):
    """One device's change of the weights in force, and how much it counts: its noisy row count."""

    device: str
    delta: Weights
    weight: float


class Material(NamedTuple):
    """Everything a strategy may use.

    Parameters
    ----------
    layout, weights
        The generator in force.
    codes : int32 [n, D]
        Pooled rows to train on, of all rounds.
    row_weights : float32 [n]
        How much each counts, mean 1.
    held_out : int32 [m, D]
        Pooled rows to score with; never trained on, in no round.
    anchor : Anchor or None
        The fleet's merged counts.
    seed : int
        Decides the order of rows.
    updates : sequence of ClientUpdate
        Changes that devices made to `weights`, and to no other; read from disk one by one.
    state : mapping of str to float32 array
        What the strategy returned with `weights`; empty at first.
    """

    layout: Layout
    weights: Weights
    codes: npt.NDArray[np.int32]
    row_weights: npt.NDArray[np.float32]
    held_out: npt.NDArray[np.int32]
    anchor: Anchor | None
    seed: int
    updates: Sequence[ClientUpdate] = ()
    state: State = MappingProxyType({})


class Candidate(NamedTuple):
    """A strategy's proposal: weights, figures about how they came to be, and its state with them.

    The state is kept beside the bundle and comes back with it: after a restart, a rejection or a
    roll-back it is that of the weights in force.
    """

    weights: Weights
    figures: dict[str, float]
    state: State = MappingProxyType({})


class Strategy(Protocol):
    """Makes a candidate; holds no state between rounds but what `Candidate.state` carries.

    `needs_updates` says whether devices are asked for weight updates.
    """

    name: ClassVar[str]
    needs_updates: ClassVar[bool]

    def fuse(
        self,
        material: Material,
        settings: FusionSettings,
        *,
        should_stop: Callable[[], bool],
        on_progress: Callable[[float], None],
    ) -> Candidate:
        """Propose the next weights.

        Parameters
        ----------
        material : Material
            What there is.
        settings : FusionSettings
            [fusion].
        should_stop : callable
            True when time is up: return the best weights so far.
        on_progress : callable
            Takes 0 to 1.

        Raises
        ------
        AggregatorError
            If the material has nothing that this strategy could use.
        """
        ...
