"""A CTGAN or TVAE of SDV as plain numbers and words: all that drawing rows from it needs.

It is what crosses from the process that unpickled the model to the one that makes the bundle, as
safetensors with a JSON header: reading it executes nothing. It holds weights, the mixtures and
frequencies that SDV's transformers learnt, and bounds; no row and nothing per row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from edge_runtime.errors import ModelImportError

__all__ = ["Description", "Head", "Layer", "Normalisation", "Output", "Unit", "Words"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

#: what a moment is cut down to: numpy's units of time
Unit = Literal["Y", "M", "D", "h", "m", "s", "us"]


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A column of the model: a span of its outputs.

    A discrete one has an output per category. A continuous one has a place in [-1, 1] and then an
    output per mode of its mixture (`ClusterBasedNormalizer`): value = place * 4 std + mean.

    Attributes
    ----------
    name : str
        As the model calls the column.
    categories : int
        0 for a continuous column.
    means, stds : list of float
        Of each mode.
    sigma : float
        Standard deviation of the noise that TVAE adds to the place; 0 for CTGAN.
    """

    name: str
    categories: int = 0
    means: list[float] = []
    stds: list[float] = []
    sigma: float = 0.0

    @property
    def outputs(self) -> int:
        """Length of the span."""
        return self.categories or 1 + len(self.means)


class Output(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A column of the rows that SDV returns, made of one head.

    Attributes
    ----------
    name : str
        Also its head's.
    kind : {"number", "integer", "timestamp", "category", "boolean"}
    values : list, optional
        What each category of a discrete head, or each interval of a continuous one, stands for;
        None is missing.
    ends : list of float, optional
        Of a continuous head that is read as a category (RDT's encoders): where each interval but
        the last ends.
    low, high : float, optional
        The value is clipped to these; timestamps in nanoseconds since 1970-01-01 UTC, as SDV has
        them.
    decimals : int, optional
        The value is then rounded to so many digits behind the point.
    unit : Unit, optional
        The moment is then cut down to this.
    missing : float
        Share of values that are made missing by lot.
    gone : str, optional
        Discrete head that says where the value is missing.
    absent : list of bool
        Which of its categories say so.
    """

    name: str
    kind: Literal["number", "integer", "timestamp", "category", "boolean"]
    values: list[str | float | bool | None] | None = None
    ends: list[float] | None = None
    low: float | None = None
    high: float | None = None
    decimals: int | None = None
    unit: Unit | None = None
    missing: float = 0.0
    gone: str | None = None
    absent: list[bool] = []


class Words(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of a description but the weights.

    Attributes
    ----------
    model : {"CTGAN", "TVAE"}
    table : str
        Name of the table.
    embedding : int
        Normal numbers that a row is made from.
    batch_statistics : bool
        Whether SDV samples with the mean and variance of the batch in the normalised layers. It
        does unless somebody has put the generator into eval mode: CTGAN's `sample` never does.
    condition : list of float
        Probability of each category of the conditional vector; empty without one.
    heads : list of Head
        In the order of the network's outputs.
    outputs : list of Output
        In the order of the table's columns.
    left_out : dict of str to str
        Columns of the table that the model does not have, and why.
    rows : int, optional
        Rows it was fitted on, where the file knows.
    fitted, sdv_version : str, optional
        When, and with which release.
    """

    model: Literal["CTGAN", "TVAE"]
    table: str
    embedding: int
    batch_statistics: bool
    condition: list[float]
    heads: list[Head]
    outputs: list[Output]
    left_out: dict[str, str]
    rows: int | None = None
    fitted: str | None = None
    sdv_version: str | None = None


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Batch normalisation: ``(x - mean) / sqrt(variance + eps) * scale + shift``, all F32[out]."""

    scale: F32
    shift: F32
    mean: F32
    variance: F32
    eps: float


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A linear layer, ``x @ weight + bias``.

    Attributes
    ----------
    weight : F32[in, out]
    bias : F32[out]
    normalisation : Normalisation, optional
    """

    weight: F32
    bias: F32
    normalisation: Normalisation | None = None


@dataclass(frozen=True, kw_only=True)
class Description:
    """The words and the layers.

    CTGAN: ``x = [relu(layer(x)), x]`` for all layers but the last, starting from noise and the
    one-hot condition. TVAE: ``x = relu(layer(x))``.
    """

    words: Words
    layers: tuple[Layer, ...]

    def to_bytes(self) -> bytes:
        """Write safetensors: layer i's tensors are ``i.weight``, ``i.bias``, ``i.scale``..."""
        tensors: dict[str, F32] = {}
        eps = []
        for number, layer in enumerate(self.layers):
            tensors |= {f"{number}.weight": layer.weight, f"{number}.bias": layer.bias}
            own = layer.normalisation
            eps.append(None if own is None else own.eps)
            if own is not None:
                tensors |= {f"{number}.{name}": getattr(own, name) for name in _NORMALISATION}
        header = {
            "words": msgspec.json.encode(self.words).decode(),
            "eps": msgspec.json.encode(eps).decode(),
        }
        plain = {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}
        return safetensors.numpy.save(plain, metadata=header)

    @classmethod
    def from_bytes(cls, data: bytes) -> Description:
        """Read what `to_bytes` wrote; a model's own code may have tampered with it.

        Raises
        ------
        ModelImportError
            The bytes are something else, or contradict themselves.
        """
        try:
            length = int.from_bytes(data[:8], "little")
            header = msgspec.json.decode(data[8 : 8 + length])["__metadata__"]
            words = msgspec.json.decode(header["words"], type=Words)
            eps = msgspec.json.decode(header["eps"], type=list[float | None])
            tensors = safetensors.numpy.load(data)
            layers = tuple(_layer(tensors, number, own) for number, own in enumerate(eps))
        except (
            msgspec.MsgspecError,
            safetensors.SafetensorError,
            KeyError,
            TypeError,
            ValueError,
            RecursionError,
        ) as error:
            raise ModelImportError(f"the description of the model is not valid: {error}") from error
        made = cls(words=words, layers=layers)
        made._check()
        return made

    def _check(self) -> None:
        words = self.words
        residual = words.model == "CTGAN"
        width = words.embedding + len(words.condition)
        for number, layer in enumerate(self.layers):
            size = layer.bias.shape[0] if layer.bias.ndim == 1 else -1
            own = layer.normalisation
            rest = () if own is None else tuple(getattr(own, name) for name in _NORMALISATION)
            if layer.weight.shape != (width, size) or any(t.shape != (size,) for t in rest):
                raise ModelImportError(
                    f"layer {number} has weights {list(layer.weight.shape)} where "
                    f"[{width}, {size}] are due"
                )
            if not all(np.isfinite(t).all() for t in (layer.weight, layer.bias, *rest)):
                raise ModelImportError(
                    f"layer {number} has weights that are not numbers: training failed"
                )
            width = width + size if residual else size
        due = sum(head.outputs for head in words.heads)
        if not self.layers or self.layers[-1].bias.shape != (due,):
            raise ModelImportError(f"the network does not have the {due} outputs of its columns")
        known = {head.name: head.categories for head in words.heads}
        for output in words.outputs:
            missing = {output.name, output.gone or output.name} - set(known)
            if missing:
                raise ModelImportError(f"column {output.name!r} has no head {sorted(missing)}")
            if output.gone is not None and len(output.absent) != known[output.gone]:
                raise ModelImportError(
                    f"column {output.name!r} is missing by {output.gone!r}, which has "
                    f"{known[output.gone]} categories, not {len(output.absent)}"
                )


_NORMALISATION = ("scale", "shift", "mean", "variance")


def _layer(tensors: dict[str, F32], number: int, eps: float | None) -> Layer:
    own = (
        None
        if eps is None
        else Normalisation(
            **{name: tensors[f"{number}.{name}"] for name in _NORMALISATION}, eps=eps
        )
    )
    return Layer(
        weight=tensors[f"{number}.weight"], bias=tensors[f"{number}.bias"], normalisation=own
    )
