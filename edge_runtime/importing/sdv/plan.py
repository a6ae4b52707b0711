"""Which number of a row's noise serves what, and how the network's outputs are laid out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edge_runtime.generator import Noise
from edge_runtime.importing.sdv.description import Head, Words

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """A row's noise, in this order: normal numbers, then uniform ones.

    normal : the embedding; for TVAE one more per continuous head.
    uniform : one for the condition, where there is one; for CTGAN one per head, in the order of
    `picked`; one per output that is made missing by lot.
    """

    words: Words

    @property
    def tvae(self) -> bool:
        """TVAE takes the largest output, CTGAN draws; TVAE adds noise to places."""
        return self.words.model == "TVAE"

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each head's outputs begin."""
        sizes = [head.outputs for head in self.words.heads]
        return tuple(np.cumsum([0, *sizes[:-1]]).tolist())

    @cached_property
    def continuous(self) -> tuple[int, ...]:
        """Numbers of the continuous heads."""
        return tuple(i for i, head in enumerate(self.words.heads) if not head.categories)

    @cached_property
    def groups(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """Heads by how many choices they have, rounded up to a power of two: (width, heads).

        Heads of a group are drawn by the same few operations.
        """
        found: dict[int, list[int]] = {}
        for number, head in enumerate(self.words.heads):
            found.setdefault(1 << (choices(head) - 1).bit_length(), []).append(number)
        return tuple((width, tuple(heads)) for width, heads in sorted(found.items()))

    @cached_property
    def picked(self) -> tuple[int, ...]:
        """Heads in the order in which their category or mode is drawn."""
        return tuple(head for _, heads in self.groups for head in heads)

    @cached_property
    def lots(self) -> tuple[int, ...]:
        """Numbers of the outputs that are made missing by lot."""
        return tuple(i for i, output in enumerate(self.words.outputs) if output.missing > 0)

    @cached_property
    def parts(self) -> dict[str, slice]:
        """Places in a row's noise: ``embedding, shake, condition, pick, lot``; some are empty."""
        widths = {
            "embedding": self.words.embedding,
            "shake": len(self.continuous) * self.tvae,
            "condition": int(bool(self.words.condition)),
            "pick": len(self.words.heads) * (not self.tvae),
            "lot": len(self.lots),
        }
        ends = np.cumsum(list(widths.values())).tolist()
        return {
            name: slice(end - width, end)
            for (name, width), end in zip(widths.items(), ends, strict=True)
        }

    @property
    def segments(self) -> tuple[Noise, ...]:
        """The noise as a bundle declares it."""
        normal, end = self.parts["condition"].start, self.parts["lot"].stop
        uniform = (Noise(kind="uniform", width=end - normal),) if end > normal else ()
        return (Noise(kind="normal", width=normal), *uniform)


def choices(head: Head) -> int:
    """Categories of a discrete head, modes of a continuous one."""
    return head.categories or len(head.means)
