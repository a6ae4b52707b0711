"""A variational autoencoder of one-hot rows (Kingma and Welling 2014), which every example trains.

The decoder is an example of its own; in its latents learn the flow and the adversarial generator.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from tools.models.network import FloatLayer
from tools.models.training import Blocks, Descent, batches, export, perceptron

__all__ = ["Autoencoder", "fit_autoencoder"]


@dataclass(frozen=True, kw_only=True)
class Autoencoder:
    """A decoder, and where the training rows lie in front of it.

    Parameters
    ----------
    decoder : nn.Sequential
        Latent [rows, L] to logits [rows, V].
    mean, deviation : Tensor[rows, L]
        Of the posterior of every training row.
    """

    decoder: nn.Sequential
    mean: torch.Tensor
    deviation: torch.Tensor

    @cached_property
    def _centre(self) -> torch.Tensor:
        return self.mean.mean(dim=0)

    @cached_property
    def _spread(self) -> torch.Tensor:
        return (self.mean.var(dim=0) + self.deviation.square().mean(dim=0)).sqrt()

    def draw(self, rows: int) -> torch.Tensor:
        """Draw latents [rows, L] of training rows from their posteriors, anew at every call.

        Moved and scaled: each of the L numbers has mean 0 and deviation 1.
        """
        chosen = torch.randint(0, len(self.mean), (rows,))
        noise = torch.randn(rows, self.mean.shape[1])
        return (self.mean[chosen] + noise * self.deviation[chosen] - self._centre) / self._spread

    def layers(self) -> list[FloatLayer]:
        """Return the decoder of latents as `draw` returns them."""
        first, *rest = export(self.decoder)
        shift = self._centre.numpy() @ first.weight
        weight = first.weight * self._spread.numpy()[:, None]
        return [FloatLayer(weight=weight, bias=first.bias + shift), *rest]


def fit_autoencoder(
    rows: torch.Tensor,
    blocks: Blocks,
    *,
    latent: int,
    hidden: int,
    beta: float,
    steps: int,
    batch: int,
    decay: float,
) -> Autoencoder:
    """Train on one-hot rows.

    Parameters
    ----------
    rows : Tensor[rows, V]
    blocks : Blocks
    latent, hidden : int
        Latent numbers; units of each of the decoder's two layers. The encoder, which nobody
        keeps, has 256.
    beta : float
        Weight of the divergence from the prior: below 1 the latents tell more of a row.
    steps, batch : int
    decay : float
        Weight decay: a small table needs more.
    """
    encoder = perceptron(blocks.width, 256, 2 * latent)
    decoder = perceptron(latent, hidden, hidden, blocks.width)
    descent = Descent([encoder, decoder], steps=steps, decay=decay)
    source = batches(rows, batch)
    for _ in range(steps):
        real = next(source)
        mean, log_variance = encoder(real).chunk(2, dim=1)
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1) / 2
        descent.step((blocks.cross_entropy(decoder(z), real) + beta * divergence).mean())
    with torch.no_grad():
        mean, log_variance = encoder(rows).chunk(2, dim=1)
    return Autoencoder(decoder=decoder, mean=mean, deviation=(log_variance / 2).exp())
