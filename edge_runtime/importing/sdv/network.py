"""The network of a description in numpy: normalisation folded in, weights as int8.

Weights alone become int8, one scale per output; activations stay float32. A generator's inputs are
normal numbers without bounds, and every layer of CTGAN sees them again beside the activations, so
that static scales as in this project's own networks would cost more than they save here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.importing.sdv.description import F32, Description, Layer, Words

__all__ = ["Dense", "Network", "draw_inputs", "fold", "rounded"]

#: rows whose mean and variance stand for those of SDV's batches; the error of a mean is 1/180 of a
#: standard deviation
_ROWS = 1 << 15
_TOP = 127


class Dense(NamedTuple):
    """A linear layer, ``(x @ weight) * scale + bias``.

    Attributes
    ----------
    weight : F32[in, out]
        Whole numbers from -127 to 127 once `rounded`.
    scale, bias : F32[out]
    """

    weight: F32
    scale: F32
    bias: F32


class Network(NamedTuple):
    """Layers in order; CTGAN's (residual) also see all that went in before."""

    layers: tuple[Dense, ...]
    residual: bool
    categories: int

    def outputs(self, noise: F32, condition: NDArray[np.intp] | None) -> F32:
        """Return the outputs of the last layer.

        Parameters
        ----------
        noise : F32[n, embedding]
        condition : int ndarray, optional
            [n], the category that each row is asked for.

        Returns
        -------
        F32[n, outputs]
        """
        x = self.inputs(noise, condition)
        for layer in self.layers[:-1]:
            x = self.step(np.maximum(apply(layer, x), 0), x)
        return apply(self.layers[-1], x)

    def inputs(self, noise: F32, condition: NDArray[np.intp] | None) -> F32:
        """Noise and, beside it, the one-hot condition."""
        if condition is None:
            return noise
        return np.concatenate([noise, np.eye(self.categories, dtype=np.float32)[condition]], axis=1)

    def step(self, activated: F32, x: F32) -> F32:
        """Return what the next layer sees."""
        return np.concatenate([activated, x], axis=1) if self.residual else activated


def apply(layer: Dense, x: F32) -> F32:
    """Return ``(x @ weight) * scale + bias``."""
    result: F32 = (x @ layer.weight) * layer.scale + layer.bias
    return result


def fold(description: Description, *, seed: int) -> Network:
    """Fold batch normalisation into the linear layers.

    SDV never puts CTGAN's generator into eval mode: `sample` normalises with the mean and variance
    of the 500 rows of its own batch, not with the averages that training kept, and the batches are
    drawn with other conditions than in training. So mean and variance are measured layer by layer
    on rows that are drawn as SDV draws them. A row then no longer depends on others.

    Parameters
    ----------
    description : Description
    seed : int
        Of these rows.

    Returns
    -------
    Network
    """
    words = description.words
    residual = words.model == "CTGAN"
    network = Network((), residual, len(words.condition))
    rng = np.random.default_rng(seed)
    x = network.inputs(*draw_inputs(words, _ROWS, rng))
    dense: list[Dense] = []
    for layer in description.layers:
        plain = Dense(layer.weight, np.ones_like(layer.bias), layer.bias)
        if layer.normalisation is None:
            dense.append(plain)
        else:
            own = layer.normalisation
            mean, variance = own.mean, own.variance
            if words.batch_statistics:
                found = apply(plain, x).astype(np.float64)
                mean, variance = found.mean(axis=0), found.var(axis=0)
            dense.append(_normalised(layer, mean, variance))
        if layer is not description.layers[-1]:
            x = network.step(np.maximum(apply(dense[-1], x), 0), x)
    return network._replace(layers=tuple(dense))


def draw_inputs(
    words: Words, rows: int, rng: np.random.Generator
) -> tuple[F32, NDArray[np.intp] | None]:
    """Noise and condition of so many rows, as SDV's `sample` draws them."""
    noise = rng.standard_normal((rows, words.embedding), np.float32)
    if not words.condition:
        return noise, None
    return noise, rng.choice(len(words.condition), rows, p=words.condition)


def _normalised(layer: Layer, mean: NDArray[np.floating], variance: NDArray[np.floating]) -> Dense:
    own = layer.normalisation
    assert own is not None, "only layers with a normalisation come here"
    factor = own.scale / np.sqrt(np.asarray(variance, np.float64) + own.eps)
    bias = (layer.bias - mean) * factor + own.shift
    return Dense(
        (layer.weight * factor).astype(np.float32),
        np.ones_like(layer.bias),
        bias.astype(np.float32),
    )


def rounded(network: Network, words: Words, *, seed: int) -> Network:
    """Round all weights to int8 with a scale per output.

    What rounding adds to the mean of an output, measured on rows of public noise, its bias takes
    back, layer by layer (Nagel et al. 2019, section 4.2). A head whose values stand close together,
    say around zero with a bound there, would be shifted as a whole otherwise: by .06 in
    Kolmogorov-Smirnov distance in the bench, and by .001 so.

    Parameters
    ----------
    network : Network
        With float weights.
    words : Words
        Of its description.
    seed : int
        Of these rows.
    """
    exact = near = network.inputs(*draw_inputs(words, _ROWS, np.random.default_rng(seed)))
    layers: list[Dense] = []
    for layer in network.layers:
        integers = _rounded(layer)
        wanted, found = apply(layer, exact), apply(integers, near)
        added = (found.astype(np.float64) - wanted).mean(axis=0)
        layers.append(integers._replace(bias=(layer.bias - added).astype(np.float32)))
        if layer is not network.layers[-1]:
            exact = network.step(np.maximum(wanted, 0), exact)
            near = network.step(np.maximum(apply(layers[-1], near), 0), near)
    return network._replace(layers=tuple(layers))


def _rounded(layer: Dense) -> Dense:
    weight = layer.weight.astype(np.float64) * layer.scale
    scale = np.abs(weight).max(axis=0) / _TOP
    scale = np.where(scale > 0, scale, 1.0)
    return Dense(np.rint(weight / scale).astype(np.float32), scale.astype(np.float32), layer.bias)
