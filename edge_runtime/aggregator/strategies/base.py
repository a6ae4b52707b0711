"""What a strategy gets and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from edge_runtime.aggregator.anchor import Anchor
from edge_runtime.aggregator.config import FusionSettings
from edge_runtime.generator import Layout, Weights

__all__ = ["Candidate", "Material", "Strategy"]


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
    """

    layout: Layout
    weights: Weights
    codes: npt.NDArray[np.int32]
    row_weights: npt.NDArray[np.float32]
    held_out: npt.NDArray[np.int32]
    anchor: Anchor | None
    seed: int


class Candidate(NamedTuple):
    """A strategy's proposal: weights, and figures about how they came to be."""

    weights: Weights
    figures: dict[str, float]


class Strategy(Protocol):
    """Makes a candidate; holds no state between rounds."""

    name: ClassVar[str]

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
        """
        ...
