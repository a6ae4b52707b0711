"""The shape of the network: which unit may see which column.

The network is a masked autoencoder for distribution estimation (MADE, Germain et al. 2015,
section 3) with one-hot inputs, two hidden layers of equal width and a skip between them. A hidden
unit of degree m sees columns 0..m; the logits of column d see the units of degree below d. Units
are sorted by degree, so that whatever the sampler needs for one more column is one contiguous
block, and each unit is computed once per row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import EngineError

if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "F32",
    "F64",
    "I32",
    "MAX_CARDINALITY",
    "MAX_COLUMNS",
    "MAX_HIDDEN",
    "MAX_LOGITS",
    "Layout",
    "Weights",
]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]

#: Above 1,024 units a sum of 7-bit activations times int8 weights could leave the 24 bits in
#: which float32 counts exactly, see `edge_runtime.generator.quantize`.
MAX_HIDDEN = 1024
MAX_COLUMNS = 1024
#: Codes travel as uint16 at most.
MAX_CARDINALITY = 65_535
#: Keeps the sums of the one-hot layer exact as well.
MAX_LOGITS = 1 << 16


class Weights(NamedTuple):
    """Float parameters, every masked entry exactly zero.

    The network is ``h1 = relu(x @ w1 + b1)``, ``h2 = relu(h1 @ w2 + b2) + h1``,
    ``logits = h2 @ w3 + b3`` for a one-hot row ``x`` of width V.

    Attributes
    ----------
    w1 : F32[V, H]
    b1 : F32[H]
    w2 : F32[H, H]
    b2 : F32[H]
    w3 : F32[H, V]
    b3 : F32[V]
    """

    w1: F32
    b1: F32
    w2: F32
    b2: F32
    w3: F32
    b3: F32


@dataclass(frozen=True)
class Layout:
    """Cardinalities of the columns and the width of the network.

    Parameters
    ----------
    cardinalities : tuple of int
        Codes per column, in column order (D entries, each at least 1).
    hidden : int
        Units in each of the two hidden layers (H).

    Raises
    ------
    EngineError
        For sizes outside the limits of this module.
    """

    cardinalities: tuple[int, ...]
    hidden: int

    def __post_init__(self) -> None:
        for what, value in (
            ("hidden", self.hidden),
            *(("cardinality", k) for k in self.cardinalities),
        ):
            if isinstance(value, bool) or not isinstance(value, int):
                raise EngineError(f"layout: {what} must be an integer, not {value!r}")
        if not 1 <= len(self.cardinalities) <= MAX_COLUMNS:
            raise EngineError(
                f"layout: {len(self.cardinalities)} columns; 1 to {MAX_COLUMNS} are possible"
            )
        if not 1 <= self.hidden <= MAX_HIDDEN:
            raise EngineError(f"layout: {self.hidden} hidden units; 1 to {MAX_HIDDEN} are possible")
        for column, cardinality in enumerate(self.cardinalities):
            if not 1 <= cardinality <= MAX_CARDINALITY:
                raise EngineError(
                    f"layout: column {column} has {cardinality} codes; "
                    f"1 to {MAX_CARDINALITY} are possible"
                )
        if sum(self.cardinalities) > MAX_LOGITS:
            raise EngineError(
                f"layout: {sum(self.cardinalities)} codes over all columns, at most "
                f"{MAX_LOGITS} are possible; use fewer bins or merge rare categories"
            )

    @property
    def columns(self) -> int:
        """Number of columns, D."""
        return len(self.cardinalities)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First logit of every column, and V as the last entry (D + 1 entries)."""
        return tuple(accumulate(self.cardinalities, initial=0))

    @property
    def width(self) -> int:
        """Logits of all columns together, V."""
        return self.offsets[-1]

    @cached_property
    def degrees(self) -> npt.NDArray[np.int64]:
        """Degree of every hidden unit, int64 [H], ascending, spread evenly over 0..D-2."""
        return np.arange(self.hidden, dtype=np.int64) * max(1, self.columns - 1) // self.hidden

    def units(self, degree: int) -> tuple[int, int]:
        """First unit of a degree and the first unit after it."""
        first = int(np.searchsorted(self.degrees, degree, "left"))
        return first, int(np.searchsorted(self.degrees, degree, "right"))

    @cached_property
    def masks(self) -> tuple[F32, F32, F32]:
        """Masks of w1 [V, H], w2 [H, H] and w3 [H, V]: 1 where a weight exists."""
        column = np.repeat(np.arange(self.columns), self.cardinalities)
        degree = self.degrees
        first = (column[:, None] <= degree[None, :]).astype(np.float32)
        second = (degree[:, None] <= degree[None, :]).astype(np.float32)
        third = (degree[:, None] < column[None, :]).astype(np.float32)
        for mask in (first, second, third):
            mask.flags.writeable = False
        return first, second, third

    @cached_property
    def _shapes(self) -> tuple[tuple[int, ...], ...]:
        v, h = self.width, self.hidden
        return ((v, h), (h,), (h, h), (h,), (h, v), (v,))

    @cached_property
    def _unmasked(self) -> npt.NDArray[np.intp]:
        """Positions of existing parameters among all tensors laid end to end."""
        m1, m2, m3 = self.masks
        h, v = self.hidden, self.width
        bias_h, bias_v = np.ones(h, np.float32), np.ones(v, np.float32)
        full = (m1.ravel(), bias_h, m2.ravel(), bias_h, m3.ravel(), bias_v)
        return np.flatnonzero(np.concatenate(full))

    @property
    def parameters(self) -> int:
        """Existing parameters: unmasked weights and all biases."""
        # Counted, not by `_unmasked`: training asks for the number alone, and that is 8 bytes each.
        masked = sum(int(np.count_nonzero(mask)) for mask in self.masks)
        return masked + 2 * self.hidden + self.width

    def flatten(self, weights: Weights) -> F32:
        """Lay the existing parameters end to end, in the order of `Weights`, row by row.

        Only these train, carry noise and count in the accounting.

        Parameters
        ----------
        weights : Weights
            Weights, or anything of the same shapes such as gradients or moments.

        Returns
        -------
        F32[parameters]
            A copy.
        """
        self.check(weights)
        flat: F32 = np.concatenate([np.ravel(tensor) for tensor in weights])[self._unmasked]
        return flat

    def unflatten(self, flat: F32) -> Weights:
        """Inverse of `flatten`; masked entries are zero.

        Raises
        ------
        EngineError
            If `flat` is not float32 [parameters].
        """
        if flat.shape != (self.parameters,) or flat.dtype != np.float32:
            raise EngineError(
                f"parameters must be float32 [{self.parameters}], "
                f"not {flat.dtype} {list(flat.shape)}"
            )
        sizes = [int(np.prod(shape)) for shape in self._shapes]
        full = np.zeros(sum(sizes), np.float32)
        full[self._unmasked] = flat
        parts = np.split(full, np.cumsum(sizes)[:-1])
        return Weights(*(part.reshape(s) for part, s in zip(parts, self._shapes, strict=True)))

    def mask(self, weights: Weights) -> Weights:
        """Return weights with every masked entry set to zero."""
        m1, m2, m3 = self.masks
        return weights._replace(w1=weights.w1 * m1, w2=weights.w2 * m2, w3=weights.w3 * m3)

    def check(self, weights: Weights) -> None:
        """Refuse tensors of other shapes or types.

        Raises
        ------
        EngineError
            Naming the tensor.
        """
        for name, tensor, shape in zip(Weights._fields, weights, self._shapes, strict=True):
            if tensor.shape != shape or tensor.dtype != np.float32:
                raise EngineError(
                    f"{name} must be float32 {list(shape)}, not {tensor.dtype} {list(tensor.shape)}"
                )

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"cardinalities": list(self.cardinalities), "hidden": self.hidden}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Layout:
        """Read the JSON form.

        Raises
        ------
        EngineError
            For unknown or missing keys and impossible values.
        """
        if not isinstance(data, Mapping) or set(data) != {"cardinalities", "hidden"}:
            raise EngineError("layout: expected exactly the keys cardinalities and hidden")
        cardinalities = data["cardinalities"]
        if not isinstance(cardinalities, (list, tuple)):
            raise EngineError("layout: cardinalities must be a list of integers")
        return cls(cardinalities=tuple(cardinalities), hidden=data["hidden"])
